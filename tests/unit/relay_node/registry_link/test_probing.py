"""Another node's address, tried for a registry: on real sockets, with a client's eyes."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import trustme
from portway_carrier.python.carrier import PythonCarrier
from portway_carrier.values import Limits, ServerTls
from portway_proto.v1.mesh_pb2 import Probe, Probed
from portway_proto.v1.types_pb2 import NodeInfo
from portway_proto.wire.limits import LINK_ALPN
from portway_relay.certificates import LoadedCertificates
from portway_relay.registry_link.probing import AddressProber
from portway_runtime.address_scopes import Scope
from portway_testkit.links.carrier_link import listener, until
from portway_testkit.processes.ports import held_port

SUFFIX = ".node.portway.internal"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


class Prober:
    """A node that tries, and what it tells."""

    def __init__(self, authority: trustme.CA) -> None:
        self.told: list[Probed] = []
        self.failures: list[BaseException] = []
        self.carrier = PythonCarrier(Limits(handshake=1.0))
        ca = authority.cert_pem.bytes()
        loaded = LoadedCertificates(ca, (), None, {}, {}, {})  # type: ignore[arg-type]
        self.probing = AddressProber(
            self.carrier,
            lambda: loaded,
            self.told.append,
            frozenset({Scope.GLOBAL, Scope.LOOPBACK}),
            on_failure=self.failures.append,
        )

    async def probe(self, port: int, host: str = "127.0.0.1") -> str:
        """What is told of a node that says it is there."""
        node = NodeInfo(name="two", host=host, port=port, server_name="two" + SUFFIX)
        self.probing.probe(Probe(number=7, node=node))
        await until(lambda: bool(self.told))
        (told,) = self.told
        assert told.number == 7
        return told.failure


@pytest.fixture
async def prober(authority: trustme.CA) -> AsyncIterator[Prober]:
    prober = Prober(authority)
    yield prober
    await prober.probing.close()
    await prober.carrier.close()
    assert not prober.failures


async def answered_by(prober: Prober, authority: trustme.CA, name: str, alpn: str) -> str:
    """What is told when somebody with this certificate and protocol answers there."""
    leaf = authority.issue_cert(name)
    tls = ServerTls(leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes(), alpn=alpn)
    with listener() as listening:
        accepting = asyncio.ensure_future(asyncio.get_running_loop().sock_accept(listening))
        probing = asyncio.ensure_future(prober.probe(listening.getsockname()[1]))
        accepted, _ = await accepting
        stream = prober.carrier.accept(accepted, tls)
        told = await probing
        stream.abort()
    return told


async def test_a_node_that_is_there_is_told_of(prober: Prober, authority: trustme.CA) -> None:
    """It takes a client's lane, with its own certificate."""
    assert await answered_by(prober, authority, "two" + SUFFIX, LINK_ALPN) == ""


async def test_another_node_at_the_address_is_not_it(prober: Prober, authority: trustme.CA) -> None:
    """Though it is one of the cluster."""
    assert "not this node: the peer's certificate" in await answered_by(prober, authority, "three" + SUFFIX, LINK_ALPN)


async def test_a_web_server_at_the_address_is_none(prober: Prober, authority: trustme.CA) -> None:
    """It speaks TLS, and not what clients speak."""
    assert "not this node: the server" in await answered_by(prober, authority, "two" + SUFFIX, "http/1.1")


async def test_nobody_there_is_told_with_why(prober: Prober) -> None:
    """With the address that was dialled, for the registry's log."""
    with held_port() as held:
        port = held.getsockname()[1]
        assert (await prober.probe(port)).startswith(f"unreachable: 127.0.0.1:{port}: ")


@pytest.mark.parametrize("host", ["10.0.0.1", "169.254.169.254", "fd00::1", "::ffff:10.0.0.1"])
async def test_an_address_of_another_scope_is_not_dialled(prober: Prober, host: str) -> None:
    """This node is on the loopback, so nodes there are expected; nothing else of its networks is."""
    assert (await prober.probe(443, host)).startswith("a private address, which is not dialled: ")
