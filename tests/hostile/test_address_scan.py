"""A node that advertises addresses of other machines, to learn from the registry's dials what is open there."""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trustme
from portway_proto.v1.mesh_pb2 import Reachability
from portway_proto.v1.types_pb2 import REACH_FAILED
from portway_testkit.clusters.node_stream import NodeStream
from portway_testkit.clusters.registry import Pki, node_info, running
from portway_testkit.processes.ports import held_port

PRIVATE = "from the registry: a private address, which is not dialled"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


class Service:
    """A server of the registry's own network that is none of a node's business; it counts its connections."""

    def __init__(self, *, says: bytes, tls: ssl.SSLContext | None = None) -> None:
        self.visitors = 0
        self._says = says
        self._tls = tls
        self.port = 0

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator["Service"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visitors += 1
        with contextlib.suppress(OSError):
            writer.write(self._says)
            await writer.drain()
        writer.close()


@pytest.fixture
def closed_port() -> Iterator[int]:
    with held_port() as held:
        yield held.getsockname()[1]


async def told(pki: Pki, folder: Path, host: str, port: int, allowed: str) -> Reachability:
    """What a node is told that advertises this address."""
    config = pki.config(folder, check_addresses="yes", check_private_addresses=allowed)
    info = node_info("fra-1", host=host, port=port)
    async with running(config) as registry, NodeStream(registry.mesh_address, pki, info) as node:

        def failed() -> list[Reachability]:
            heard = [message.reachability for message in node.heard if message.HasField("reachability")]
            return [one for one in heard if one.reach == REACH_FAILED]

        return (await node.until(failed))[0]


async def test_a_public_registry_dials_nothing_of_its_own_network(pki: Pki, tmp_path: Path, closed_port: int) -> None:
    """An open port, a closed one and the address of a cloud's metadata look the same; none is dialled."""
    async with Service(says=b"SSH-2.0-OpenSSH_9.2p1\r\n").listening() as service:
        answers = [
            await told(pki, tmp_path, host, port, "no")
            for host, port in (
                ("127.0.0.1", service.port),
                ("127.0.0.1", closed_port),
                ("169.254.169.254", 80),
                ("10.0.0.1", 22),
                ("::ffff:127.0.0.1", service.port),
            )
        ]
        named = await told(pki, tmp_path, "localhost", service.port, "no")
    assert {answer.failure for answer in answers} == {PRIVATE}
    assert named.failure == "from the registry: unreachable"
    assert service.visitors == 0


async def test_an_open_port_that_is_no_node_looks_like_a_closed_one(
    pki: Pki, tmp_path: Path, closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Where private addresses are dialled: the node is told the outcome, the operator's log has the details."""
    with caplog.at_level(logging.WARNING, "portway_registry.nodes.reachability"):
        async with Service(says=b"SSH-2.0-OpenSSH_9.2p1\r\n").listening() as service:
            opened = await told(pki, tmp_path, "127.0.0.1", service.port, "auto")
            closed = await told(pki, tmp_path, "127.0.0.1", closed_port, "auto")
    assert service.visitors
    assert opened.failure == closed.failure == "from the registry: unreachable"
    reasons = [record.__dict__["reason"] for record in caplog.records if "reason" in record.__dict__]
    assert any("TLS handshake failed" in reason for reason in reasons)
    assert any("refused" in reason.lower() for reason in reasons)


async def test_the_certificate_of_another_server_is_not_told(pki: Pki, tmp_path: Path) -> None:
    """Only that it is not this node's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("db.internal").configure_cert(context)
    async with Service(says=b"", tls=context).listening() as service:
        answer = await told(pki, tmp_path, "127.0.0.1", service.port, "auto")
    assert answer.failure == "from the registry: not this node"
