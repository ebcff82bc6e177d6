"""A public port with fakes in place of the rest of its node.

Here: one tunnel, the fakes that take visitors and lanes, visitors. Not here: whole nodes (clusters/cluster.py).
"""

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import pytest
import trustme
from portway_carrier.contract import Pool
from portway_carrier.errors import TlsSettingsError
from portway_carrier.python import PythonCarrier
from portway_carrier.values import Limits, PoolLimits, ServerTls
from portway_proto.v1.lane_pb2 import Failure
from portway_proto.v1.types_pb2 import TunnelOptions
from portway_proto.wire.statements import Presence, SigningKey
from portway_relay.config import NodeConfig
from portway_relay.ingress.plain_visitors import PlainVisitors
from portway_relay.ingress.public_port import ConnectionHandlers, PublicPort
from portway_relay.net.node_address import NodeAddress
from portway_relay.routing.lookup import Destination
from portway_relay.routing.tunnel import Tunnel
from portway_relay.visits import VisitedName
from portway_runtime.endpoints import Endpoint
from portway_runtime.rates import AddressRate
from portway_runtime.shares import PrefixShares
from portway_runtime.tls_choices import Group

from portway_testkit.authority import tls_of
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.signers import SessionSigner, label_of

KEY = SigningKey(b"\x04" * 32)
LABEL = label_of(KEY)
HOST = f"{LABEL}.fra.example.com"
NODE = "relay-1.node.portway.internal"
GREETING = b"220 ready\r\n"


@dataclass
class FakeHolder:
    """A session that is never visited: `Around.visitor` answers in place of its client."""

    pool: Pool
    tenant: str = "acme"
    token_id: str = "t1"
    max_tunnels: int = 0
    tenant_max_tunnels: int = 0
    grant_token: str = ""
    presence: Presence | None = None

    def tunnel_taken(self, tunnel: Tunnel, failure: Failure, claim: bytes = b"") -> None: ...


@dataclass
class Around:
    """What surrounds the port: one tunnel, and the receivers of visitors and of clients' lanes."""

    carrier: PythonCarrier
    tls: ServerTls
    tunnel: Tunnel
    visitors: list[tuple[Endpoint, Destination, VisitedName, str | None]] = field(default_factory=list)
    lanes: list[socket.socket] = field(default_factory=list)
    peer_lanes: list[socket.socket] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    found: "dict[str, asyncio.Future[Tunnel | None]]" = field(default_factory=dict)  # the answers of look-ups, by label
    failures: list[BaseException] = field(default_factory=list)
    plain: Counter[str] = field(default_factory=Counter)  # how visitors without TLS were turned away
    fails: bool = False
    scarce: bool = False
    is_new: bool = False
    lacking: frozenset[str] = frozenset()
    registry_name: str = ""
    for_registry: list[socket.socket] = field(default_factory=list)
    has_place: bool = True  # for a connection for the registry

    @property
    def zones(self) -> dict[str, None]:
        return {"fra.example.com": None, "iad.example.com": None}

    def visitor_tls(self, zone: str, alpn: str | None, group: Group) -> ServerTls:
        assert zone in self.zones
        return replace(self.tls, alpn=alpn, group=group)

    def known(self, label: str) -> Tunnel | None:
        return self.tunnel if label == self.tunnel.label else None

    async def find(self, label: str, region: str, address: str) -> Tunnel | None:
        self.asked.append((label, region))
        return await self.found[label] if label in self.found else None

    async def find_elsewhere(self, label: str, region: str, *, not_at: Destination, denied: bool) -> Tunnel | None:
        raise AssertionError("visits ask it, not who takes connections")

    async def find_again(
        self, label: str, region: str, *, not_at: Destination, within: float, or_there: bool
    ) -> Tunnel | None:
        raise AssertionError("visits ask it, not who takes connections")

    def visitor(
        self,
        sock: socket.socket,
        peer: Endpoint,
        to: Destination,
        name: VisitedName,
        tls: ServerTls,
        established: Callable[[], None],
    ) -> None:
        self.visitors.append((peer, to, name, tls.alpn))
        if self.fails:
            sock.close()
            raise TlsSettingsError("no such key")
        self.carrier.finish(self.carrier.accept(sock, self.tls, established), GREETING)

    def client_lane(self, sock: socket.socket, peer: Endpoint, group: Group, established: Callable[[], None]) -> None:
        assert peer.host in ("127.0.0.1", "::1")
        self.lanes.append(sock)

    def peer_lane(self, sock: socket.socket, peer: Endpoint, group: Group, established: Callable[[], None]) -> None:
        assert peer.host in ("127.0.0.1", "::1")
        self.peer_lanes.append(sock)

    def registry(self, sock: socket.socket, peer: Endpoint) -> bool:
        assert peer.host in ("127.0.0.1", "::1")
        if self.has_place:
            self.for_registry.append(sock)
        return self.has_place


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def around(authority: trustme.CA) -> AsyncIterator[Around]:
    tls = tls_of(authority, "*.fra.example.com")
    carrier = PythonCarrier(Limits())
    holder = FakeHolder(carrier.pool(None, PoolLimits()))
    claim = SessionSigner().claim(KEY, node=NODE, epoch=1)
    tunnel = Tunnel(claim, holder, TunnelOptions(h2_enabled=True), max_visits=1, opened_at_ms=0)
    around = Around(carrier, tls, tunnel)
    yield around
    for sock in (*around.lanes, *around.peer_lanes, *around.for_registry):
        sock.close()
    await carrier.close()


FrontMaker = Callable[..., PublicPort]  # of changes to the node's configuration


@pytest.fixture
async def open_front(
    around: Around, clock: ManualClock, node_config: Callable[..., NodeConfig]
) -> AsyncIterator[FrontMaker]:
    fronts: list[PublicPort] = []

    def make(**changes: object) -> PublicPort:
        config = node_config(**changes)
        address = NodeAddress(config)
        plain = PlainVisitors(
            around.carrier,
            lambda: around.zones,
            lambda: address.public_address().port,
            max_answers=config.limits.max_half_open,
            clock=clock,
        )
        around.plain = plain.turned_away
        front = PublicPort(
            config,
            address,
            around.carrier,
            lambda: around,  # type: ignore[return-value, arg-type]
            around,
            ConnectionHandlers(around.visitor, around.client_lane, around.peer_lane, plain.answer, around.registry),
            rate=AddressRate(config.limits.connections_per_second, config.limits.connection_burst, clock),
            handshakes=PrefixShares(config.limits.unfinished_handshakes_per_second, clock, window=1.0),
            has_just_started=lambda: around.is_new,
            is_memory_scarce=lambda: around.scarce,
            lacking=lambda: around.lacking,
            registry_name=lambda: around.registry_name,
            clock=clock,
            on_failure=around.failures.append,
        )
        fronts.append(front)
        front.listen()
        return front

    yield make
    for front in fronts:
        await front.close()
    assert around.failures == []


async def answer(front: PublicPort, sent: bytes, *, host: str = "127.0.0.1") -> bytes:
    """Send these bytes and return everything until the end. A reset raises an error."""
    reader, writer = await asyncio.open_connection(host, front.address.listening.port)
    writer.write(sent)
    received = await reader.read()
    writer.close()
    await writer.wait_closed()
    return received


async def visit(front: PublicPort, authority: trustme.CA, *alpn: str, name: str = HOST) -> tuple[bytes, str | None]:
    """What a TLS visitor reads until the end, and its ALPN protocol."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", front.address.listening.port, ssl=context, server_hostname=name
    )
    received = await reader.read()
    chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    writer.close()
    await writer.wait_closed()
    return received, chosen
