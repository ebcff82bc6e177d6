"""The servers on real sockets: UDP and TCP, IPv4 and IPv6, and where an answer leaves from."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import dns.asyncquery
import dns.message
import dns.rcode
import pytest
from portway_geo.position import Position
from portway_proto.v1.mesh_pb2 import DnsRecords
from portway_proto.v1.types_pb2 import DnsRecord, NodeInfo
from portway_relay.config import NodeLimits
from portway_relay.dns.authority import Authority
from portway_relay.dns.records import read_records
from portway_relay.dns.server import DnsServer
from portway_relay.dns.table import NodeTable
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import ListenError
from portway_testkit.fakes.dns_zone import DOMAIN
from portway_testkit.links.carrier_link import until
from portway_testkit.visitors.dns_flooder import DnsFlood, DnsFlooder

NAME = f"Abcdefgh12345678.fra.{DOMAIN}"
OWN = NodeInfo(name="fra-1", region="fra", addresses=["192.0.2.1", "2001:db8::1"], zones=[f"fra.{DOMAIN}"])
BIG = [DnsRecord(name=f"big.{DOMAIN}", type="TXT", ttl=60, data='"' + f"{n:03d}" * 60 + '"') for n in range(30)]
Serve = Callable[..., Awaitable[DnsServer]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    failures: list[BaseException] = []
    servers = []

    async def serve(
        *hosts: str,
        listed: bool = True,
        limits: NodeLimits | None = None,
        idle_time: float = 10.0,
        visits: int = 0,
        locator: "Nowhere | None" = None,
    ) -> DnsServer:
        table = NodeTable(lambda: OWN, list, DOMAIN)
        locator = locator or Nowhere()
        authority = Authority(DOMAIN, "fra-1", table, locator.locate, time.monotonic)
        if listed:
            authority.use(read_records(DnsRecords(version=3, records=BIG)))
        server = DnsServer(
            [Endpoint(host, 0) for host in hosts],
            authority,
            locator,
            limits or NodeLimits(),
            lambda: (visits, 0),
            time.monotonic,
            idle_time=idle_time,
            on_failure=failures.append,
        )
        servers.append(server)
        await server.start()
        return server

    yield serve
    for server in servers:
        await server.close()
    assert failures == []


class Nowhere:
    """A Locator that knows no place."""

    async def load(self) -> None: ...

    def locate(self, address: str) -> Position | None:
        return None

    def made_at(self) -> int:
        return 0

    def close(self) -> None: ...


class Broken(Nowhere):
    """One with a fault that some question meets."""

    def locate(self, address: str) -> Position | None:
        raise KeyError(address)


async def ask(at: Endpoint, name: str = NAME, kind: str = "A", *, over: str = "udp") -> dns.message.Message:
    query = dns.message.make_query(name, kind, use_edns=0)
    if over == "tcp":
        return await dns.asyncquery.tcp(query, at.host, timeout=10, port=at.port)
    return await dns.asyncquery.udp(query, at.host, timeout=10, port=at.port, ignore_unexpected=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("over", ["udp", "tcp"])
async def test_both_transports_of_both_families(serve: Serve, host: str, over: str) -> None:
    (at,) = (await serve(host)).addresses
    answer = await ask(at, over=over)
    assert [one.address for one in answer.answer[0]] == ["192.0.2.1"]
    assert answer.answer[0].name.to_text() == f"{NAME}."


@pytest.mark.parametrize("listen", ["", "::", "0.0.0.0"])
async def test_an_answer_leaves_from_the_address_that_was_asked(serve: Serve, listen: str) -> None:
    """On a machine with several addresses a resolver drops what comes from another one."""
    (at,) = (await serve(listen)).addresses
    hosts = ["127.0.0.1", "127.9.8.7"] + ([] if listen == "0.0.0.0" else ["::1"])
    for host in hosts:
        answer = await ask(Endpoint(host, at.port))  # dnspython refuses an answer from elsewhere
        assert answer.rcode() == dns.rcode.NOERROR
        assert (await ask(Endpoint(host, at.port), over="tcp")).rcode() == dns.rcode.NOERROR


async def test_several_addresses(serve: Serve) -> None:
    server = await serve("127.0.0.1", "::1", "127.0.0.2")
    assert len(server.addresses) == 3
    for at in server.addresses:
        assert (await ask(at)).rcode() == dns.rcode.NOERROR


async def test_what_was_cut_comes_over_tcp(serve: Serve) -> None:
    (at,) = (await serve("127.0.0.1")).addresses
    query = dns.message.make_query(f"big.{DOMAIN}", "TXT", use_edns=0)
    answer, over_tcp = await dns.asyncquery.udp_with_fallback(query, at.host, timeout=10, port=at.port)
    assert over_tcp
    assert len(answer.answer[0]) == 30


async def test_a_connection_carries_many_queries(serve: Serve) -> None:
    """Also when they come together, or byte by byte; the answers are in their order."""
    server = await serve("127.0.0.1")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.addresses[0].port)
    queries = [dns.message.make_query(f"l{number}.fra.{DOMAIN}", "A") for number in range(50)]
    framed = [len(wire := query.to_wire()).to_bytes(2) + wire for query in queries]
    writer.write(b"".join(framed[:49]))
    for byte in framed[49]:
        writer.write(bytes([byte]))
        await writer.drain()
    for query in queries:
        size = int.from_bytes(await reader.readexactly(2))
        assert query.is_response(dns.message.from_wire(await reader.readexactly(size)))
    writer.close()
    await writer.wait_closed()
    assert server.counts().queries == {"udp": 0, "tcp": 50}


@pytest.mark.parametrize("sent", [b"\xff\xff" + b"x" * 100, b"\0\0", b"\0\x03abc", b"\0\x20abc"])
async def test_a_connection_that_makes_no_sense_is_closed(serve: Serve, sent: bytes) -> None:
    """Too long, empty, no message, and one that never becomes whole."""
    server = await serve("127.0.0.1", idle_time=0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.addresses[0].port)
    writer.write(sent)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    assert (await ask(server.addresses[0])).rcode() == dns.rcode.NOERROR


async def test_connections_have_a_number_and_prefixes_share_them(serve: Serve) -> None:
    server = await serve("127.0.0.1")
    held = [await asyncio.open_connection("127.0.0.1", server.addresses[0].port) for _ in range(300)]
    ended = [asyncio.ensure_future(reader.read()) for reader, _ in held]
    await until(lambda: bool(server.counts().unanswered["connections"]))
    assert server.counts().connections < 256
    assert (await ask(server.addresses[0])).rcode() == dns.rcode.NOERROR
    for _, writer in held:
        writer.close()
    await asyncio.gather(*ended, return_exceptions=True)


async def test_silent_connections_of_many_networks_lock_nobody_out(serve: Serve) -> None:
    """One sends a query every few seconds and stays; whoever has many networks has as many as there are places."""
    server = await serve("127.0.0.1")
    (at,) = server.addresses
    held = []
    for number in range(600):
        source = f"127.{1 + number // 250}.{number % 250}.1", 0
        held.append(await asyncio.open_connection(at.host, at.port, local_addr=source))
    await until(lambda: server.counts().connections + server.counts().unanswered["connections"] >= 600)
    assert (await ask(at, over="tcp")).answer
    assert server.counts().connections <= 257
    for _, writer in held:
        writer.close()


async def test_before_a_registry_has_listed_anything_a_query_fails(serve: Serve) -> None:
    """A resolver asks the next name server then; "no such name" it would believe, and keep."""
    server = await serve("127.0.0.1", listed=False)
    answer = await ask(server.addresses[0])
    assert (answer.rcode(), answer.edns) == (dns.rcode.SERVFAIL, 0)
    server.authority.use(read_records(DnsRecords(version=9)))
    assert (await ask(server.addresses[0])).rcode() == dns.rcode.NOERROR
    assert server.counts().version == 9


@pytest.mark.parametrize("over", ["udp", "tcp"])
async def test_a_fault_that_one_question_meets_ends_no_server(
    serve: Serve, over: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever found it could else end every node of the cluster. The resolver asks the next server meanwhile."""
    (at,) = (await serve("127.0.0.1", locator=Broken())).addresses
    assert (await ask(at, over=over)).rcode() == dns.rcode.SERVFAIL
    assert (await ask(at, f"big.{DOMAIN}", "TXT", over="tcp")).answer
    assert "KeyError" in caplog.text


async def test_a_network_above_its_rate_comes_over_tcp(serve: Serve) -> None:
    server = await serve("127.0.0.1", limits=NodeLimits(dns_answers_per_second=1, dns_answer_burst=1))
    (at,) = server.addresses
    assert (await ask(at)).answer
    query = dns.message.make_query(NAME, "A")
    answer, over_tcp = await dns.asyncquery.udp_with_fallback(query, at.host, timeout=10, port=at.port)
    assert over_tcp
    assert answer.answer
    assert server.counts().unanswered["rate_to_tcp"] == 1


async def test_what_an_asker_does_not_take_harms_nobody(serve: Serve) -> None:
    """Its port is closed when the answer comes, which the system reports at the next call."""
    (at,) = (await serve("127.0.0.1")).addresses
    for _ in range(20):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(dns.message.make_query(NAME, "A").to_wire(), (at.host, at.port))
    assert (await ask(at)).rcode() == dns.rcode.NOERROR


async def test_an_address_that_is_taken_is_named(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = DnsServer(
            [Endpoint("127.0.0.1", 0), Endpoint(*taken.getsockname())],
            Authority(DOMAIN, "a", NodeTable(lambda: OWN, list, DOMAIN), lambda _: None, time.monotonic),
            Nowhere(),
            NodeLimits(),
            lambda: (0, 0),
            time.monotonic,
            on_failure=lambda _: None,
        )
        with pytest.raises(ListenError, match="--dns-listen: cannot listen on"):
            await server.start()
        await server.close()


async def test_a_flood_gets_its_share_of_the_loop(serve: Serve) -> None:
    """Queries that cost most, as fast as a process can send them, on a loop that has nothing to do but has visits."""
    limits = NodeLimits(dns_answers_per_second=1_000_000, dns_answer_burst=1_000_000)
    server = await serve("127.0.0.1", limits=limits, visits=1)
    (at,) = server.addresses
    with DnsFlooder(DnsFlood(at.host, at.port, f"fra.{DOMAIN}", rate=100_000, odd=True)) as flooder:
        flooder.go()
        began, before = time.monotonic(), server.counts().seconds
        await until(lambda: server.counts().seconds - before >= 0.2)
        spent = server.counts().seconds - before
        # A batch may take long where the machine is busy; the next one comes once that is made up for.
        await until(lambda: server.counts().seconds - before > spent)
        took = time.monotonic() - began
    assert spent <= 0.2 * took + 0.04, (spent, took)
    assert server.counts().pauses > 0
