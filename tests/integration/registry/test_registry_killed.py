"""`portway-registry serve` as a process: killed and started again on its file, and ended in order."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from portway_proto.v1 import admin_pb2
from portway_proto.v1.admin_pb2_grpc import AdminStub
from portway_proto.v1.discovery_pb2 import RenewRequest
from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub
from portway_testkit.clusters.node_stream import NodeStream
from portway_testkit.clusters.registry import PATIENCE, SESSION_KEY, Pki, bearer, channel, loopback_geoip, node_info

SERVE = "from portway_registry.cli import main; main()"
STOP_SECONDS = PATIENCE


@dataclass
class Process:
    """A registry that serves; `lines` is what it logged until then."""

    popen: subprocess.Popen[str]
    lines: list[dict[str, object]] = field(default_factory=list)

    def address(self, name: str) -> str:
        return str(self.lines[-1][name])


def command(pki: Pki, folder: Path, *flags: str) -> list[str]:
    return [
        *(sys.executable, "-c", SERVE, "serve"),
        *("--listen", "127.0.0.1:0", "--mesh-listen", "127.0.0.1:0"),
        *("--tls-cert", str(pki.folder / "registry.crt"), "--tls-key", str(pki.folder / "registry.key")),
        *("--cluster-ca", str(pki.ca)),
        *("--store", f"embedded:{folder / 'registry.db'}"),
        *("--geoip", str(loopback_geoip(folder / "loopback.mmdb"))),
        *("--log-format", "json", *flags),
    ]


def start(pki: Pki, folder: Path, *flags: str) -> Process:
    """Start it; it says in its log when it serves, and where."""
    popen = subprocess.Popen(
        command(pki, folder, *flags),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    process = Process(popen)
    assert popen.stderr is not None
    for line in popen.stderr:
        process.lines.append(json.loads(line))
        if process.lines[-1]["event"] == "registry serves":
            return process
    popen.wait()
    raise AssertionError(f"the registry did not start: {process.lines}")


@contextmanager
def serving(pki: Pki, folder: Path, *flags: str) -> Iterator[Process]:
    """Ends it as a power cut would."""
    process = start(pki, folder, *flags)
    try:
        yield process
    finally:
        process.popen.kill()
        process.popen.communicate()


async def test_a_killed_registry_has_lost_no_token_and_no_key(pki: Pki, tmp_path: Path) -> None:
    """After SIGKILL the same file serves on: the same admin, the tokens as they were told, grants signed before."""
    with serving(pki, tmp_path) as process:
        admin = bearer((tmp_path / "registry.db.admin-token").read_text().strip())
        async with channel(process.address("listen"), pki.ca) as public:
            stub = AdminStub(public)
            request = admin_pb2.CreateTokenRequest(tenant="demo", role=admin_pb2.ROLE_CLIENT, max_tunnels=3)
            kept = await stub.CreateToken(request, metadata=admin)
            revoked = await stub.CreateToken(request, metadata=admin)
            await stub.RevokeToken(admin_pb2.RevokeTokenRequest(id=revoked.info.id), metadata=admin)
            before = (await stub.ListTokens(admin_pb2.ListTokensRequest(include_revoked=True), metadata=admin)).tokens
            grant = (
                await DiscoveryStub(public).Renew(RenewRequest(session_key=SESSION_KEY), metadata=bearer(kept.token))
            ).grant.token
        process.popen.kill()
    with serving(pki, tmp_path) as process:
        async with (
            channel(process.address("listen"), pki.ca) as public,
            NodeStream(process.address("mesh_listen"), pki, node_info("fra-1")) as node,
        ):
            stub = AdminStub(public)
            after = (await stub.ListTokens(admin_pb2.ListTokensRequest(include_revoked=True), metadata=admin)).tokens
            assert list(after) == list(before)
            assert len((await stub.ListAudit(admin_pb2.ListAuditRequest(), metadata=admin)).entries) == 3
            assert (
                await DiscoveryStub(public).Renew(RenewRequest(session_key=SESSION_KEY), metadata=bearer(kept.token))
            ).grant.token
            with pytest.raises(grpc.aio.AioRpcError, match="revoked"):
                await DiscoveryStub(public).Renew(RenewRequest(session_key=SESSION_KEY), metadata=bearer(revoked.token))
            settings = await node.until(lambda: node.settings)
            (key,) = settings.grant_keys
            public_key = Ed25519PublicKey.from_public_bytes(key.public_key)
            claims = jwt.decode(
                grant, public_key, algorithms=["EdDSA"], audience="portway-node", issuer=settings.cluster_id
            )
            assert claims["tid"] == kept.info.id


async def test_a_node_that_outlives_its_registry_finds_its_lease(pki: Pki, tmp_path: Path) -> None:
    """A lease granted before SIGKILL is resumed by its id afterwards."""
    with serving(pki, tmp_path) as process:
        async with NodeStream(process.address("mesh_listen"), pki, node_info("fra-1")) as node:
            lease = node.lease
            process.popen.kill()
            await node.ended()
    with serving(pki, tmp_path) as process:
        async with NodeStream(process.address("mesh_listen"), pki, node_info("fra-1"), lease=lease) as node:
            assert node.lease == lease


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_ends_when_asked_to(pki: Pki, tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM and SIGINT end it with 0, also while a node's stream is open; the ready file goes with it."""
    ready = tmp_path / "ready"
    with serving(pki, tmp_path, "--ready-file", str(ready), "--metrics-listen", "127.0.0.1:0") as process:
        async with NodeStream(process.address("mesh_listen"), pki, node_info("fra-1")) as node:
            process.popen.send_signal(number)
            await node.ended()
            _, log = process.popen.communicate(timeout=STOP_SECONDS)
    assert process.popen.returncode == 0
    events = [json.loads(line)["event"] for line in log.splitlines()]
    assert events[-1] == "registry stopped"
    assert not ready.exists()


async def test_what_a_ready_file_says_can_be_dialled(pki: Pki, tmp_path: Path) -> None:
    """The ready file names where each port is, once all is served, and is what was logged."""
    ready = tmp_path / "ready"
    with serving(pki, tmp_path, "--ready-file", str(ready)) as process:
        # It is written right after the line in the log; a call that is answered comes later still.
        async with NodeStream(process.address("mesh_listen"), pki, node_info("fra-1")) as node:
            await node.keep_alive()
            told = json.loads(ready.read_text())
    assert told == {"listen": process.address("listen"), "mesh_listen": process.address("mesh_listen")}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_can_be_stopped_while_it_waits_for_its_store(pki: Pki, tmp_path: Path, number: signal.Signals) -> None:
    """A registry whose etcd is away says what it waits for, and ends with 0 when asked to."""
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        store = f"etcd:http://127.0.0.1:{dead.getsockname()[1]}"
        flags = ["--store", store, "--admin-token-file", str(tmp_path / "token")]
        with subprocess.Popen(command(pki, tmp_path, *flags), stderr=subprocess.PIPE, text=True) as waiting:
            assert waiting.stderr is not None
            line = next(line for line in waiting.stderr if "waiting for the store" in line)
            assert store.rpartition("/")[2] in json.loads(line)["reason"]
            waiting.send_signal(number)
            waiting.communicate(timeout=STOP_SECONDS)
    assert waiting.returncode == 0


def test_a_second_registry_on_one_file_is_refused(pki: Pki, tmp_path: Path) -> None:
    """The embedded store is one process's: another one is told so and ends with 2."""
    with serving(pki, tmp_path):
        second = subprocess.run(command(pki, tmp_path), capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 2
    assert "in use by another registry" in second.stderr
