"""A port in front of a server on a Unix socket, which stands for gRPC. Its PROXY headers: test_front_headers.py."""

import asyncio
import socket
from pathlib import Path

import pytest
from portway_registry.net import splice as splice_module
from portway_registry.net.admission import Limits
from portway_registry.net.connection import Stage
from portway_registry.net.front import Front, Headed, Hello, first_message, first_record
from portway_registry.net.splice import STRANGER_BURST
from portway_runtime.clocks import monotonic
from portway_runtime.endpoints import Endpoint
from portway_runtime.listening import open_sockets
from portway_runtime.parse_results import NeedMore
from portway_runtime.proxy_protocol import ProxyHeader, encode_v2
from portway_testkit.links.carrier_link import until
from portway_testkit.links.opened_front import HELLO, closed, opened

NEVER = 3600.0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::"])
async def test_bytes_pass_and_the_peer_is_known_by_its_name(host: str) -> None:
    """Both ways, unchanged; of either family, an IPv4 peer of a dual-stack socket being one of IPv4."""
    async with opened(host=host) as port:
        target = "127.0.0.1" if host == "::" else host
        wire = await port.connect(target)
        wire[1].write(HELLO)
        assert await wire[0].readexactly(len(HELLO)) == HELLO
        connection = await port.connection()
        assert str(connection.address) == target
        assert connection.peer.port == wire[1].get_extra_info("sockname")[1]
        assert port.front.find("unix-abstract:none") is None
        wire[1].close()
        await until(lambda: port.front.find(port.names[0]) is None)
        assert connection.stage is Stage.CLOSED


async def test_the_server_s_last_bytes_arrive() -> None:
    """It answers and closes; the peer reads the answer and then the end."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(HELLO))
        writer.write(b"x" * 200_000)

    async with opened(answer) as port:
        wire = await port.connect()
        wire[1].write(HELLO)
        assert len(await wire[0].read(-1)) == 200_000
        wire[1].close()


async def test_what_is_not_tls_is_closed_unopened() -> None:
    """The server behind never hears of it."""
    async with opened() as port:
        wire = await port.connect()
        wire[1].write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        await closed(wire)
        assert port.names == []


async def test_half_a_hello_is_not_opened() -> None:
    """Nor does it take a turn."""
    async with opened() as port:
        wire = await port.connect()
        wire[1].write(HELLO[:-1])
        await until(lambda: port.front.connections()["hello awaited"] == 1)
        assert port.names == []
        wire[1].write(HELLO[-1:])
        await port.connection()
        assert await wire[0].readexactly(len(HELLO)) == HELLO
        wire[1].close()


async def test_a_stranger_is_read_within_its_allowance(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is beyond it stays in the kernel until a caller is known; then everything is read."""
    monkeypatch.setattr(splice_module, "STRANGER_RATE", 1e-9)
    async with opened() as port:
        wire = await port.connect()
        sent = HELLO + bytes(range(256)) * 1_000
        wire[1].write(sent)
        assert await wire[0].readexactly(STRANGER_BURST) == sent[:STRANGER_BURST]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await wire[0].readexactly(1)
        connection = await port.connection()
        port.front.call_began(connection)
        port.front.identified(connection)
        assert await wire[0].readexactly(len(sent) - STRANGER_BURST) == sent[STRANGER_BURST:]
        wire[1].close()


async def test_a_peer_that_does_not_read_stops_the_server() -> None:
    """Little is kept for it: the server behind waits to write."""
    written = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        while True:
            writer.write(bytes(65_536))
            await writer.drain()
            written += 65_536

    async with opened(endless) as port:
        with socket.create_connection(("127.0.0.1", port.port)) as silent:
            silent.sendall(HELLO)
            before = -1
            while before != written:
                before = written
                await asyncio.sleep(0.2)
        assert written < 16 << 20


async def test_a_connection_that_is_let_go_is_closed_after_its_answer() -> None:
    """What was on its way arrives; nothing more is read."""
    answered, over = asyncio.Event(), asyncio.Event()
    more: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(len(HELLO)))
        answered.set()
        try:
            more.append(await reader.read(65_536))
        finally:
            over.set()

    async with opened(answer) as port:
        wire = await port.connect()
        wire[1].write(HELLO)
        connection = await port.connection()
        await answered.wait()
        connection.sockets.let_go()
        wire[1].write(b"more")
        assert await wire[0].readexactly(len(HELLO)) == HELLO
        await closed(wire)
        assert port.front.find(port.names[0]) is None
        await over.wait()
        assert more != [b"more"]


async def test_connections_end_with_the_front() -> None:
    """Accepted, half open or passing bytes."""
    async with opened() as port:
        wires = [await port.connect() for _ in range(3)]
        wires[0][1].write(HELLO)
        wires[1][1].write(HELLO[:10])
        await port.connection()
        await port.front.close()
        for wire in wires:
            await closed(wire)
        assert sum(port.front.connections().values()) == 0


async def test_a_server_that_is_gone_costs_the_connection() -> None:
    """And no more: there is nothing to pass bytes to."""
    front = Front("listen", Limits.of(16), monotonic)
    sockets = open_sockets(Endpoint("127.0.0.1", 0))
    front.serve(sockets, Path("/nonexistent/inner"))
    wire = await asyncio.open_connection("127.0.0.1", sockets[0].getsockname()[1])
    wire[1].write(HELLO)
    await closed(wire)
    await front.close()


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"\x16", NeedMore(5)),
        (b"\x16\x03\x01\x00", NeedMore(5)),
        (b"\x16\x03\x01\x00\x05", NeedMore(10)),
        (b"\x16\x03\x01\x00\x05hello", Hello.TLS),
        (b"\x16\x03\x01\x00\x05hello and more", Hello.TLS),
        (b"\x16\x03\x01\x00\x00", Hello.OTHER),
        (b"\x16\x03\x01\x40\x01", Hello.OTHER),
        (b"GET", Hello.OTHER),
        (b"\x15\x03\x01\x00\x02", Hello.OTHER),
    ],
)
def test_the_first_record_is_awaited_whole(data: bytes, found: Hello | NeedMore) -> None:
    """Of the handshake, and no longer than TLS allows."""
    assert first_record(data) == found


@pytest.mark.parametrize("length", range(1, 80))
def test_a_header_and_the_record_behind_it_are_awaited_whole(length: int) -> None:
    """At each length more bytes are asked for than there are."""
    whole = encode_v2(ProxyHeader(Endpoint("192.0.2.1", 1), Endpoint("192.0.2.2", 2))) + HELLO
    found = first_message(whole[:length])
    assert isinstance(found, NeedMore)
    assert length < found.size <= len(whole)
    assert isinstance(first_message(whole), Headed)


def test_behind_a_header_nothing_but_tls_is_awaited() -> None:
    """As in front of none; a malformed header is nothing."""
    header = encode_v2(ProxyHeader(Endpoint("192.0.2.1", 1), Endpoint("192.0.2.2", 2)))
    assert first_message(header + b"GET / HTTP/1.1") is Hello.OTHER
    assert first_message(header[:12] + b"\x31" + header[13:] + HELLO) is Hello.OTHER
    assert first_message(b"\r\nGET") is Hello.OTHER


async def test_who_came_before_it_stopped_listening_is_served() -> None:
    """However many wait in the kernel's queue; who comes later is refused. It waits until their callers are known, or
    the time is over."""
    async with opened(limits=Limits.of(400)) as front:
        loop = asyncio.get_running_loop()
        before = [socket.create_connection(("127.0.0.1", front.port)) for _ in range(20)]
        for sock in before:
            sock.setblocking(False)
            sock.send(HELLO)
        stopping = asyncio.ensure_future(front.front.stop_listening(within=NEVER))
        for sock in before:
            assert await loop.sock_recv(sock, 65_536) == HELLO
        with pytest.raises(ConnectionRefusedError):
            await front.connect()
        assert not stopping.done(), "their callers are not known"
        for name in front.names:
            connection = front.front.find(name)
            assert connection is not None
            front.front.call_began(connection)
            front.front.identified(connection)
        await stopping
        for sock in before:
            sock.close()


async def test_a_stranger_that_makes_no_call_is_not_waited_for_longer() -> None:
    """Neither with its hello nor without."""
    async with opened() as front:
        silent, stranger = await front.connect(), await front.connect()
        stranger[1].write(HELLO)
        assert await stranger[0].read(65_536) == HELLO
        await front.front.stop_listening(within=0.02)
        for wire in (silent, stranger):
            wire[1].close()
