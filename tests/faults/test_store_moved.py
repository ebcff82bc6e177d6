"""The registry's store is replaced by another, by an export and an import, while tunnels are visited."""

import contextlib
import dataclasses
import ssl
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import grpc
import portway
import pytest
from portway_proto.v1 import admin_pb2
from portway_testkit.clusters.cluster import LOOPBACK, Cluster
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.fixtures import AsClient
from portway_testkit.links.hand_tunnel import Bind
from portway_testkit.own_time import OwnTime
from portway_testkit.visitors.going_on import GoingOn
from portway_testkit.visitors.onlookers import UNHURRIED, Onlookers, answered, answered_at_last, answered_raw, named
from portway_testkit.visitors.origins import TcpOrigin, echo
from portway_testkit.visitors.recovery import epoch_of, is_consistent
from portway_testkit.visitors.visiting import TIMEOUT, connect_tls, tls_context
from portway_testkit.waiting import eventually

PROGRAM = (sys.executable, "-c", "from portway_registry.cli import main; main()")


class RawOnlooker(GoingOn):
    """Visits a raw port without pause. A visit that nobody answered counts unless this process stood still."""

    def __init__(self, host: str, port: int, name: str, own_time: OwnTime) -> None:
        self.answers: Counter[str] = Counter()
        self._own_time = own_time
        self._visited = host, port
        self._name = name
        super().__init__([threading.Thread(target=self._visit, name=f"raw onlooker of {name}")], TIMEOUT)

    def _visit(self) -> None:
        while not self._over.wait(0.05):
            lost = self._own_time.lost()
            answer = answered_raw(*self._visited)
            if answer or self._own_time.lost() == lost:
                self.answers[answer] += 1


def registry(*arguments: str) -> str:
    """Run the program; what it tells."""
    ended = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def move(mesh: Cluster, new: str, backup: Path, meanwhile: Callable[[], object]) -> None:
    """As an operator does it, by the two commands."""
    mesh.stop_registry()
    registry("export", "--store", mesh.registry_config.store, str(backup))
    registry("import", "--store", new, str(backup))
    meanwhile()
    mesh.registry_config = dataclasses.replace(mesh.registry_config, store=new)
    mesh.start_registry()


def is_echoed(connection: ssl.SSLSocket, text: bytes) -> bool:
    connection.sendall(text)
    return connection.recv(len(text)) == text


@pytest.mark.timeout(120)  # a command of its own for each half
@pytest.mark.parametrize("way", ["embedded to etcd", "etcd to embedded"])
def test_no_live_tunnel_is_lost(
    way: str,
    make_mesh: Callable[..., Cluster],
    etcd: EtcdServer,
    as_client: AsClient,
    bind: Bind,
    tmp_path: Path,
    own_time: OwnTime,
) -> None:
    """Visits go on at every node, TLS and raw, and one connection stays open all the time; afterwards epochs, claims,
    tokens, keys, blocks of ports, revocations and the audit are what they were."""
    stores = [f"embedded:{tmp_path / 'one.db'}", f"etcd:{etcd.url}"]
    old, new = stores if way == "embedded to etcd" else reversed(stores)
    mesh = make_mesh(store=old)
    token, revoked = mesh.token(), mesh.token()
    mesh.admin.revoke_token(revoked)
    mesh.admin.set_quota("test", 50)
    as_client(mesh.environment(token))
    far = bind(mesh, "fra-1", "far")
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(named("own", unencrypted=True))
        origin = stack.enter_context(TcpOrigin(echo))
        echoing = stack.enter_context(portway.forward(origin.port))
        eventually(lambda: len(mesh.admin.tunnels()) == 3)
        for at in mesh.nodes:
            eventually(lambda: answered(mesh, at, far.host) == "far" and answered(mesh, at, own.host) == "own")
        kept = stack.enter_context(
            connect_tls(tls_context(mesh.ca), (LOOPBACK, mesh.nodes["iad-1"].port), echoing.host)
        )
        assert is_echoed(kept, b"before")
        epochs = {one.label: (one.epoch, one.unencrypted_port) for one in mesh.admin.tunnels()}
        keys, audit = set(mesh.admin.grant_keys()), mesh.admin.audited()
        names = {own.host: "own", far.host: "far"}
        eventually(lambda: answered_raw(*own.tcp_socket) == "own")
        with (
            RawOnlooker(*own.tcp_socket, "own", own_time) as raw,
            Onlookers(mesh, names, attention=UNHURRIED) as onlookers,
        ):
            eventually(lambda: all(onlookers.answers[at, name] for at in mesh.nodes for name in names.values()))

            def go_on() -> None:
                before = onlookers.answers.copy()
                each = [(at, name) for at in mesh.nodes for name in names.values()]
                eventually(lambda: all((onlookers.answers - before)[one] > 3 for one in each))

            move(mesh, new, tmp_path / "cluster.backup", go_on)
            assert is_echoed(kept, b"after")
            eventually(lambda: len(mesh.admin.tunnels()) == 3 and len(mesh.admin.nodes()) == 3)
            before = onlookers.answers.copy()
            eventually(lambda: all((onlookers.answers - before)[at, "own"] > 3 for at in mesh.nodes))
        assert not onlookers.unanswered
        assert set(raw.answers) == {"own"}
        assert {one.label: (one.epoch, one.unencrypted_port) for one in mesh.admin.tunnels()} == epochs
        assert set(mesh.admin.grant_keys()) == keys
        assert mesh.admin.audited() == audit
        # The client's token opens another tunnel, with a raw port of its own; one that was revoked opens none.
        with named("later", unencrypted=True) as later:
            assert later.unencrypted_port != own.unencrypted_port
            eventually(lambda: answered_raw(*later.tcp_socket) == "later")
            assert epoch_of(mesh.admin, later)
        with pytest.raises(grpc.RpcError) as refused:
            dataclasses.replace(mesh.admin, token=revoked).nodes()
        assert "revoked" in str(refused.value)
        far.leave()
        kept.close()
        eventually(lambda: is_consistent(mesh, own, echoing))


def test_a_back_up_brings_a_cluster_back(
    make_mesh: Callable[..., Cluster], as_client: AsClient, etcd: EtcdServer, tmp_path: Path
) -> None:
    """The store is lost whole, and the back-up is older than a token and a tunnel: nodes and clients of before go on by
    themselves, and the token that it lacks is refused."""
    mesh = make_mesh(store=f"etcd:{etcd.url}")
    as_client(mesh.environment())
    with named("own") as own:
        epoch = epoch_of(mesh.admin, own)
        backup = tmp_path / "cluster.backup"
        told = registry("export", "--store", f"etcd:{etcd.url}", str(backup))
        assert "registries use this store (1)" in told
        later = mesh.admin.create_token(admin_pb2.CreateTokenRequest(tenant="x", role=admin_pb2.ROLE_ADMIN))
        mesh.stop_registry()
        etcd.clear()
        registry("import", "--store", f"etcd:{etcd.url}", str(backup))
        mesh.start_registry()
        eventually(lambda: len(mesh.admin.nodes()) == 3)
        assert epoch_of(mesh.admin, own) == epoch
        for at in mesh.nodes:
            assert answered_at_last(mesh, at, own.host) == "own"
        with pytest.raises(grpc.RpcError, match="does not know the API token"):
            dataclasses.replace(mesh.admin, token=later).nodes()
