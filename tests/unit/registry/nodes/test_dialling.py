"""A try from the registry: what is reached, and what is said when it is not."""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator

import pytest
import trustme
from portway_proto.v1.types_pb2 import NodeInfo
from portway_proto.wire.limits import LINK_ALPN
from portway_registry.nodes import dialling
from portway_registry.nodes.dialling import dial_by
from portway_testkit.clusters.registry import node_info


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@contextlib.asynccontextmanager
async def listening(
    authority: trustme.CA, name: str = "fra-1.node.portway.internal", *, alpn: str = LINK_ALPN
) -> AsyncIterator[NodeInfo]:
    """Where node fra-1 says that it is, somebody answers by this name, once."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    context.set_alpn_protocols([alpn])

    def serve() -> None:
        plain, _ = server.accept()
        with plain, contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as accepted:
            accepted.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield node_info("fra-1", port=server.getsockname()[1])
        finally:
            await asyncio.to_thread(thread.join)  # what is aborted is closed by the loop


async def test_a_node_that_answers_is_reached(authority: trustme.CA) -> None:
    """With its own certificate, as a client's lane would be taken."""
    async with listening(authority) as node:
        assert await dial_by(authority.cert_pem.bytes())(node) == ""


@pytest.mark.parametrize(
    ("name", "alpn", "says"),
    [
        ("fra-2.node.portway.internal", LINK_ALPN, "does not show this node's certificate"),
        ("fra-1.node.portway.internal", "h2", "takes no clients' lanes"),
    ],
)
async def test_somebody_else_is_not_the_node(authority: trustme.CA, name: str, alpn: str, says: str) -> None:
    """Another node's certificate; a web server."""
    async with listening(authority, name, alpn=alpn) as node:
        assert says in await dial_by(authority.cert_pem.bytes())(node)


async def test_another_authority_s_node_is_not_the_node(authority: trustme.CA) -> None:
    """Whoever has only the name."""
    async with listening(trustme.CA()) as node:
        assert "does not show this node's certificate" in await dial_by(authority.cert_pem.bytes())(node)


async def test_why_nobody_answers_is_told(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, silent, and a name that leads nowhere."""
    monkeypatch.setattr(dialling, "DIALLED_WITHIN", 0.2)
    dial = dial_by(authority.cert_pem.bytes())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        node = node_info("fra-1", port=taken.getsockname()[1])
        assert "refused" in (await dial(node)).lower()
        taken.listen()
        assert await dial(node) == "no answer within 0.2 s"
    assert "cannot be resolved" in await dial(node_info("fra-1", host="x" * 64 + ".invalid"))
