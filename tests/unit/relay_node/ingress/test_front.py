"""The public port on a real carrier: what each who arrives gets, and whose socket it is then."""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
import trustme
from portway_proto.carry.errors import TlsSettingsError
from portway_proto.carry.python import PythonCarrier
from portway_proto.carry.settings import Limits, PoolLimits, ServerTls
from portway_proto.v1.lane_pb2 import Failure
from portway_proto.wire.labels import Epoch, Label
from portway_proto.wire.limits import LINK_ALPN, MESH_ALPN
from portway_relay.config import Endpoint, NodeConfig
from portway_relay.errors import ListenError
from portway_relay.ingress.front import Front, Takers
from portway_relay.ingress.rate import AddressRate
from portway_relay.ingress.route import Alert
from portway_relay.tunnels.tunnel import Tunnel
from portway_relay.tunnels.visits import Destination
from portway_testkit.carriers import until
from portway_testkit.clock import ManualClock
from portway_testkit.hellos import message, real_hello, records, server_name

LABEL = "k5zq2w7b3xav6mdy"
HOST = f"{LABEL}.fra.example.com"
NODE = "relay-1.node.portway.internal"
GREETING = b"220 ready\r\n"


@dataclass
class FakeHolder:
    """Nobody is visited here: `Around.visitor` answers in place of a client."""

    pool: object
    tenant: str = "acme"
    token_id: str = "t1"
    max_tunnels: int = 0

    def tunnel_taken(self, tunnel: Tunnel, failure: Failure) -> None: ...


@dataclass
class Around:
    """What surrounds a front: one tunnel, and who takes visitors and clients' lanes."""

    carrier: PythonCarrier
    tls: ServerTls
    tunnel: Tunnel
    visitors: list[tuple[Endpoint, Destination, str, str | None]] = field(default_factory=list)
    lanes: list[socket.socket] = field(default_factory=list)
    peer_lanes: list[socket.socket] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    found: "dict[str, asyncio.Future[Tunnel | None]]" = field(default_factory=dict)  # by label, what is asked for
    failures: list[BaseException] = field(default_factory=list)
    fails: bool = False

    @property
    def zones(self) -> dict[str, None]:
        return {"fra.example.com": None, "iad.example.com": None}

    def visitor_tls(self, zone: str, alpn: str | None) -> ServerTls:
        assert zone in self.zones
        return replace(self.tls, alpn=alpn)

    def known(self, label: str, region: str) -> Tunnel | None:
        return self.tunnel if label == self.tunnel.label else None

    async def find(self, label: str, region: str) -> Tunnel | None:
        self.asked.append((label, region))
        return await self.found[label] if label in self.found else None

    def visitor(self, sock: socket.socket, peer: Endpoint, to: Destination, region: str, tls: ServerTls) -> None:
        self.visitors.append((peer, to, region, tls.alpn))
        if self.fails:
            sock.close()
            raise TlsSettingsError("no such key")
        self.carrier.finish(self.carrier.accept(sock, self.tls), GREETING)

    def client_lane(self, sock: socket.socket, peer: Endpoint) -> None:
        assert peer.host in ("127.0.0.1", "::1")
        self.lanes.append(sock)

    def peer_lane(self, sock: socket.socket, peer: Endpoint) -> None:
        assert peer.host in ("127.0.0.1", "::1")
        self.peer_lanes.append(sock)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def around(authority: trustme.CA) -> AsyncIterator[Around]:
    leaf = authority.issue_cert("*.fra.example.com")
    tls = ServerTls(b"".join(blob.bytes() for blob in leaf.cert_chain_pems), leaf.private_key_pem.bytes())
    carrier = PythonCarrier(Limits())
    holder = FakeHolder(carrier.pool(None, PoolLimits()))
    tunnel = Tunnel(Label(LABEL), Epoch(1), b"", holder, h2_enabled=True, max_visits=1, opened_at_ms=0)
    around = Around(carrier, tls, tunnel)
    yield around
    for sock in (*around.lanes, *around.peer_lanes):
        sock.close()
    await carrier.close()


@pytest.fixture
async def open_front(
    around: Around, clock: ManualClock, node_config: Callable[..., NodeConfig]
) -> AsyncIterator[Callable[..., Front]]:
    fronts: list[Front] = []

    def make(**changes: object) -> Front:
        config = node_config(**changes)
        front = Front(
            config,
            around.carrier,
            lambda: around,  # type: ignore[arg-type]
            around,
            Takers(around.visitor, around.client_lane, around.peer_lane),
            rate=AddressRate(config.limits.connections_per_second, config.limits.connection_burst, clock),
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


async def answer(front: Front, sent: bytes, *, host: str = "127.0.0.1") -> bytes:
    """All that comes back for these bytes until the end; a reset would be an error."""
    reader, writer = await asyncio.open_connection(host, front.address.port)
    writer.write(sent)
    received = await reader.read()
    writer.close()
    await writer.wait_closed()
    return received


async def visit(front: Front, authority: trustme.CA, *alpn: str, name: str = HOST) -> tuple[bytes, str | None]:
    """What a TLS visitor reads, and the protocol that was chosen for it."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    reader, writer = await asyncio.open_connection("127.0.0.1", front.address.port, ssl=context, server_hostname=name)
    received = await reader.read()
    chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    writer.close()
    await writer.wait_closed()
    return received, chosen


async def test_a_visitor_reaches_its_tunnel(open_front, around: Around, authority: trustme.CA) -> None:
    """A known name is handed on with its hello unread: the handshake is made by who takes the visitor."""
    front = open_front()
    assert await visit(front, authority, "h2") == (GREETING, None)
    ((peer, tunnel, region, alpn),) = around.visitors
    assert region == "fra"
    assert around.asked == []
    assert peer.host == "127.0.0.1"
    assert tunnel is around.tunnel
    assert alpn == "h2"
    assert front.accepted == 1
    assert front.half_open == 0
    assert not front.turned_away


@pytest.mark.parametrize(
    "hello",
    [
        real_hello("aaaaaaaaaaaaaaaa.fra.example.com", ["h2", "http/1.1"]),
        real_hello(f"{LABEL}.ams.example.com"),
        real_hello("localhost"),
        real_hello(None),
        real_hello(NODE),
        real_hello(HOST, [LINK_ALPN]),
        records(message([server_name(b"192.0.2.7")])),
        records(message([server_name(b"")])),
        records(message([server_name(b"a" * 5000)])),
    ],
    ids=["unknown", "elsewhere", "no label", "no name", "node", "lane", "address", "empty", "long"],
)
async def test_who_is_unknown_gets_one_answer(open_front, around: Around, hello: bytes) -> None:
    """Whatever name is not served here: the same alert, byte for byte, and an end in order."""
    front = open_front()
    assert await answer(front, hello) == Alert.UNRECOGNIZED_NAME.record
    assert front.turned_away == {"unrecognized_name": 1}
    assert around.visitors == []
    assert around.lanes == []


async def test_tls_libraries_understand_the_refusal(open_front, authority: trustme.CA) -> None:
    """OpenSSL reports the alert as what it is."""
    front = open_front()
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        await visit(front, authority, name="aaaaaaaaaaaaaaaa.fra.example.com")


async def test_a_full_tunnel_is_an_error_of_ours(open_front, around: Around) -> None:
    """A visitor over the tunnel's limit is refused before any cryptography."""
    around.tunnel.visits.add(object())
    front = open_front()
    assert await answer(front, real_hello(HOST)) == Alert.INTERNAL_ERROR.record
    assert front.turned_away == {"internal_error": 1}


async def test_a_clients_lane_is_handed_on(open_front, around: Around) -> None:
    """The ALPN of lanes and this node's name: the socket goes to the sessions, with its hello unread."""
    front = open_front()
    hello = real_hello(NODE, [LINK_ALPN])
    _, writer = await asyncio.open_connection("127.0.0.1", front.address.port)
    writer.write(hello)
    await until(lambda: bool(around.lanes))
    assert around.lanes[0].recv(1 << 16) == hello
    assert not front.turned_away
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("public_port", [0, 443, 8443])
async def test_http_in_clear_text_is_told_to_use_https(open_front, public_port: int) -> None:
    """A request on the TLS port is answered with a page that names the right address, then the end."""
    front = open_front(public_port=public_port)
    page = (await answer(front, f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())).decode()
    port = {0: f":{front.address.port}", 443: "", 8443: ":8443"}[public_port]
    assert page.startswith("HTTP/1.1 400 Bad Request\r\n")
    assert page.endswith(f"Try https://{HOST}{port}/\n")
    assert front.turned_away == {"plain_http": 1}


async def test_an_upload_in_clear_text_reads_its_answer(open_front) -> None:
    """What the visitor still sends does not turn the answer into a reset."""
    front = open_front()
    request = b"POST /upload HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000)
    assert (await answer(front, request)).startswith(b"HTTP/1.1 400 Bad Request\r\n")


@pytest.mark.parametrize(
    "garbage", [b"SSH-2.0-OpenSSH_9.2\r\n", bytes(100), b"\x80\x2e\x01\x00\x02" + bytes(41), b"hello\n"]
)
async def test_garbage_is_refused(open_front, garbage: bytes) -> None:
    """Bytes that are neither TLS nor HTTP get an alert and the end."""
    front = open_front()
    assert await answer(front, garbage) == Alert.DECODE_ERROR.record
    assert front.turned_away == {"decode_error": 1}


async def test_who_comes_too_fast_is_turned_away(open_front, clock: ManualClock) -> None:
    """Beyond its burst an address is closed on unread, until time has passed."""
    front = open_front(limits={"connections_per_second": 1, "connection_burst": 2})
    hello = real_hello(None)
    assert await answer(front, hello) == Alert.UNRECOGNIZED_NAME.record
    assert await answer(front, hello) == Alert.UNRECOGNIZED_NAME.record
    assert await answer(front, b"") == b""
    assert front.turned_away == {"unrecognized_name": 2, "rate": 1}
    clock.now += 1
    assert await answer(front, hello) == Alert.UNRECOGNIZED_NAME.record
    assert front.accepted == 4


async def test_who_guesses_names_too_fast_has_them_looked_up_no_more(
    open_front, around: Around, clock: ManualClock
) -> None:
    """The answer is the same, and nobody is asked; names that somebody has do not count."""
    front = open_front(limits={"unknown_names_per_second": 1, "unknown_name_burst": 2})
    elsewhere = "b" * 16
    found: asyncio.Future[Tunnel | None] = asyncio.get_running_loop().create_future()
    found.set_result(around.tunnel)
    around.found[elsewhere] = found
    for number in range(3):
        _, writer = await asyncio.open_connection("127.0.0.1", front.address.port)
        writer.write(real_hello(f"{elsewhere}.fra.example.com"))
        await until(lambda number=number: len(around.visitors) == number + 1)
        writer.transport.abort()
    guesses = [real_hello(f"{letter * 16}.fra.example.com") for letter in "cdef"]
    answers = [await answer(front, guess) for guess in guesses[:3]]
    assert answers == [Alert.UNRECOGNIZED_NAME.record] * 3
    assert [label[0] for label, _ in around.asked] == ["b", "b", "b", "c", "d"]
    clock.now += 1
    assert await answer(front, guesses[3]) == Alert.UNRECOGNIZED_NAME.record
    assert around.asked[-1][0] == "f" * 16


async def test_hellos_that_come_together_leave_turns_to_others(open_front, around: Around) -> None:
    """So many are acted upon in one turn of the loop, all of them in their order."""
    front = open_front(limits={"hellos_per_turn": 2})
    writers = [(await asyncio.open_connection("127.0.0.1", front.address.port))[1] for _ in range(7)]
    await until(lambda: front.half_open == 7)
    for writer in writers:
        writer.write(real_hello(NODE, [LINK_ALPN]))
    counts = [0]
    while len(around.lanes) < 7:
        await asyncio.sleep(0)
        counts.append(len(around.lanes))
    assert max(later - before for before, later in pairwise(counts)) <= 2
    ports = [sock.getpeername()[1] for sock in around.lanes]
    assert sorted(ports) == sorted(writer.get_extra_info("sockname")[1] for writer in writers)
    assert front.half_open == 0
    for writer in writers:
        writer.transport.abort()


async def test_what_waits_for_its_turn_is_dropped_at_the_end(open_front, around: Around) -> None:
    """Closing leaves no socket behind that was not handed on."""
    front = open_front(limits={"hellos_per_turn": 1})
    writers = [(await asyncio.open_connection("127.0.0.1", front.address.port))[1] for _ in range(4)]
    await until(lambda: front.half_open == 4)
    for writer in writers:
        writer.write(real_hello(NODE, [LINK_ALPN]))
    await until(lambda: bool(around.lanes))
    await front.close()
    assert front.half_open == 0
    for writer in writers:
        writer.transport.abort()


async def test_a_hello_that_never_ends_is_dropped(open_front) -> None:
    """After the time for a hello its connection is closed without a word."""
    front = open_front(limits={"hello_time": 0.02})
    assert await answer(front, b"") == b""
    assert front.half_open == 0


async def test_half_open_connections_are_bounded(open_front) -> None:
    """As many hellos are awaited as the limit says."""
    front = open_front(limits={"max_half_open": 2})
    held = [await asyncio.open_connection("127.0.0.1", front.address.port) for _ in range(2)]
    await until(lambda: front.half_open == 2)
    assert await answer(front, b"") == b""
    for _, writer in held:
        writer.close()
        await writer.wait_closed()
    await until(lambda: front.half_open == 0)


async def test_a_certificate_that_cannot_be_used_stops_nobody_else(
    open_front, around: Around, authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    """The visitor is lost and the operator told; the next one is served."""
    front = open_front()
    around.fails = True
    with caplog.at_level(logging.ERROR):
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await visit(front, authority)
    assert "no such key" in caplog.text
    around.fails = False
    assert (await visit(front, authority))[0] == GREETING


async def test_visitors_of_both_families_are_told_by_their_address(
    open_front, around: Around, authority: trustme.CA
) -> None:
    """On every address of the machine an IPv4 visitor is an IPv4 visitor."""
    front = open_front(listen=Endpoint("", 0))
    await visit(front, authority)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    reader, writer = await asyncio.open_connection("::1", front.address.port, ssl=context, server_hostname=HOST)
    assert await reader.read() == GREETING
    writer.close()
    await writer.wait_closed()
    assert [peer.host for peer, *_ in around.visitors] == ["127.0.0.1", "::1"]


async def test_after_the_stop_nobody_new_is_taken(open_front, around: Around) -> None:
    """Half-open connections are dropped and new ones refused; what was handed on goes on."""
    front = open_front()
    reader, lane = await asyncio.open_connection("127.0.0.1", front.address.port)
    lane.write(real_hello(NODE, [LINK_ALPN]))
    await until(lambda: bool(around.lanes))
    silent, half_open = await asyncio.open_connection("127.0.0.1", front.address.port)
    await until(lambda: front.half_open == 1)

    await front.close()
    assert await silent.read() == b""
    assert front.half_open == 0
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", front.address.port)
    around.lanes[0].send(b"still here")
    assert await reader.readexactly(10) == b"still here"
    await front.close()
    for writer in (lane, half_open):
        writer.close()
        await writer.wait_closed()


async def test_a_port_that_is_taken_is_told(open_front) -> None:
    """A front that cannot listen says so, and can be stopped all the same."""
    first = open_front()
    with pytest.raises(ListenError, match=f":{first.address.port}: Address already in use"):
        open_front(listen=first.address)


OTHER = "aaaaaaaaaaaaaaaa"
OTHER_HOST = f"{OTHER}.iad.example.com"


async def waiting(front: Front, around: Around) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A visitor whose name is being asked for."""
    around.found[OTHER] = asyncio.get_running_loop().create_future()
    reader, writer = await asyncio.open_connection("127.0.0.1", front.address.port)
    writer.write(real_hello(OTHER_HOST))
    await until(lambda: bool(around.asked))
    assert around.asked == [(OTHER, "iad")]
    assert front.half_open == 1
    return reader, writer


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


async def test_a_name_that_is_found_elsewhere_is_served(open_front, around: Around) -> None:
    """The visitor waits while others are asked, and is handed on with its hello unread."""
    front = open_front()
    _, writer = await waiting(front, around)
    around.found[OTHER].set_result(around.tunnel)
    await until(lambda: bool(around.visitors))
    ((_, tunnel, region, _),) = around.visitors
    assert (tunnel, region) == (around.tunnel, "iad")
    await until(lambda: front.half_open == 0)
    await close(writer)


async def test_a_name_that_is_not_found_is_unknown(open_front, around: Around) -> None:
    """The answer is the one that every unknown name gets."""
    front = open_front()
    reader, writer = await waiting(front, around)
    around.found[OTHER].set_result(None)
    assert await reader.read() == Alert.UNRECOGNIZED_NAME.record
    await close(writer)


async def test_the_stop_drops_who_waits(open_front, around: Around) -> None:
    """A visitor whose name is still being asked for is not held."""
    front = open_front()
    reader, writer = await waiting(front, around)
    await front.close()
    assert front.half_open == 0
    with pytest.raises(ConnectionResetError):
        await reader.read()
    with contextlib.suppress(ConnectionResetError):
        await close(writer)


async def test_names_that_are_asked_for_are_bounded(open_front, around: Around) -> None:
    """Beyond the limit a name that would have to be asked for is unknown; known ones are served."""
    front = open_front(limits={"max_half_open": 1})
    _, writer = await waiting(front, around)
    assert await answer(front, real_hello(f"{'b' * 16}.fra.example.com")) == Alert.UNRECOGNIZED_NAME.record
    assert len(around.asked) == 1
    _, known = await asyncio.open_connection("127.0.0.1", front.address.port)
    known.write(real_hello(HOST))
    await until(lambda: bool(around.visitors))
    await close(known)
    around.found[OTHER].set_result(None)
    await close(writer)


async def test_another_nodes_lane_is_handed_on(open_front, around: Around) -> None:
    """The ALPN of the mesh and this node's name: with its hello unread."""
    front = open_front()
    hello = real_hello(NODE, [MESH_ALPN])
    _, writer = await asyncio.open_connection("127.0.0.1", front.address.port)
    writer.write(hello)
    await until(lambda: bool(around.peer_lanes))
    assert around.peer_lanes[0].recv(1 << 16) == hello
    await close(writer)
