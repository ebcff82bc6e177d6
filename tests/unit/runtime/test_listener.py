"""Listening sockets: who is accepted, and what running out of descriptors does."""

import asyncio
import errno
import itertools
import logging
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from portway_runtime import listener as listener_module
from portway_runtime import listening as listening_module
from portway_runtime.descriptors import lowest_free
from portway_runtime.endpoints import Endpoint
from portway_runtime.listener import Listener, finish
from portway_runtime.listening import handshakes_in_progress, open_sockets, queued
from portway_testkit.links.carrier_link import until

Accept = tuple[socket.socket, tuple[object, ...]]
PEER = ("192.0.2.7", 4711)
NEVER = 3600.0
AT_ONCE = 0.001


class FakeListening:
    """Always readable; `accept` raises or gives what it was told to, in order, and would block after that."""

    def __init__(self, *script: OSError | Accept) -> None:
        self.script = list(script)
        self.calls = 0
        self._read, self._write = os.pipe()
        os.write(self._write, b"x")

    def accept(self) -> Accept:
        self.calls += 1
        if not self.script:
            raise BlockingIOError
        step = self.script.pop(0)
        if isinstance(step, OSError):
            raise step
        return step

    def fileno(self) -> int:
        return self._read

    def getsockname(self) -> tuple[object, ...]:
        return ("127.0.0.1", 443)

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        raise OSError(errno.ENOPROTOOPT, "Protocol not available")

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes:
        raise OSError(errno.ENOPROTOOPT, "Protocol not available")

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


@pytest.fixture
def connection() -> Iterator[Callable[[], Accept]]:
    """What accept gives for one connection."""
    made: list[socket.socket] = []

    def make() -> Accept:
        made.extend(socket.socketpair())
        return made[-1], PEER

    yield make
    for sock in made:
        sock.close()


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    """How many descriptors this process may have, softly and at all; as before after the test."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def taken() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_accepting_pauses_without_descriptors(connection: Callable[[], Accept], number: int) -> None:
    """Out of descriptors or memory, nobody is accepted until the pause is over; connections wait meanwhile."""
    listening = FakeListening(OSError(number, os.strerror(number)), connection())
    accepted: list[Endpoint] = []
    listener = Listener([listening], lambda sock, peer: accepted.append(peer), pause=NEVER)
    await until(lambda: listening.calls == 1)
    await turns()
    assert listening.calls == 1
    assert listener.pauses == 1
    assert accepted == []
    listener.close()


async def test_the_last_descriptors_are_not_for_connections(
    connection: Callable[[], Accept], taken: ExitStack, limits: tuple[int, int]
) -> None:
    """A node needs them for its own work: who would get one of those waits in the queue."""
    listening = FakeListening(*(connection() for _ in range(3)))
    accepted: list[Endpoint] = []

    def take(sock: socket.socket, peer: Endpoint) -> None:
        accepted.append(peer)
        taken.callback(os.close, os.dup(sock.fileno()))  # the descriptor that a real one would have got

    lowest = lowest_free(listening.fileno())
    fits_two = next(limit for limit in itertools.count() if limit - min(64, limit // 4) == lowest + 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (fits_two, limits[1]))
    listener = Listener([listening], take, pause=NEVER)
    await until(lambda: listener.pauses == 1)
    assert len(accepted) == 2
    assert len(listening.script) == 1
    listener.close()


async def test_accepting_resumes_after_the_pause(
    connection: Callable[[], Accept], caplog: pytest.LogCaptureFixture
) -> None:
    """When descriptors are there again, those that waited are accepted; each pause is counted and said."""
    exhausted = OSError(errno.EMFILE, "Too many open files")
    listening = FakeListening(connection(), exhausted, exhausted, connection())
    accepted: list[Endpoint] = []
    with caplog.at_level(logging.WARNING):
        listener = Listener([listening], lambda sock, peer: accepted.append(peer), pause=AT_ONCE)
        await until(lambda: len(accepted) == 2)
    assert accepted == [Endpoint(*PEER)] * 2
    assert listener.pauses == 2
    assert "Too many open files" in caplog.text
    assert "ulimit -n" in caplog.text
    listener.close()


async def test_one_socket_rests_alone(connection: Callable[[], Accept]) -> None:
    """Another listening socket goes on while one rests, and closing ends both."""
    resting = FakeListening(OSError(errno.EMFILE, ""))
    working = FakeListening()
    accepted: list[Endpoint] = []
    listener = Listener([resting, working], lambda sock, peer: accepted.append(peer), pause=NEVER)
    await until(lambda: resting.calls == 1)
    working.script.append(connection())
    await until(lambda: len(accepted) == 1)
    listener.close()
    await turns()
    assert resting.calls == 1


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN])
async def test_a_connection_that_is_gone_is_passed_over(connection: Callable[[], Accept], number: int) -> None:
    """An error that is one connection's own does not keep the next from being accepted."""
    listening = FakeListening(OSError(number, ""), connection())
    accepted: list[Endpoint] = []
    listener = Listener([listening], lambda sock, peer: accepted.append(peer), pause=NEVER)
    await until(lambda: len(accepted) == 1)
    assert listener.pauses == 0
    listener.close()


async def test_a_flood_leaves_turns_to_others(connection: Callable[[], Accept]) -> None:
    """One turn of the loop accepts a batch, not all that come."""
    listening = FakeListening(*(connection() for _ in range(200)))
    accepted: list[int] = []
    listener = Listener([listening], lambda sock, peer: accepted.append(listening.calls), pause=NEVER)
    batches = []
    while len(accepted) < 200:
        await asyncio.sleep(0)
        batches.append(len(accepted))
    assert {16, 32, 192} <= set(batches)
    listener.close()


async def test_whoever_accepts_may_close(connection: Callable[[], Accept]) -> None:
    """Closing from within a callback ends accepting at once; closing again does nothing."""
    listening = FakeListening(connection(), connection())
    accepted: list[Endpoint] = []

    def close(sock: socket.socket, peer: Endpoint) -> None:
        accepted.append(peer)
        listener.close()

    listener = Listener([listening], close)
    await until(lambda: bool(accepted))
    await turns()
    listener.close()
    assert accepted == [Endpoint(*PEER)]


async def test_connections_are_handed_on_ready_for_use() -> None:
    """An accepted socket does not block, and comes with the address its visitor has."""
    (sock,) = open_sockets(Endpoint("127.0.0.1", 0))
    accepted: list[tuple[socket.socket, Endpoint]] = []
    listener = Listener([sock], lambda connection, peer: accepted.append((connection, peer)))
    with socket.create_connection(sock.getsockname()) as visitor:
        await until(lambda: bool(accepted))
        connection, peer = accepted[0]
        assert connection.gettimeout() == 0
        assert peer == Endpoint(*visitor.getsockname())
        connection.close()
    listener.close()


async def test_every_address_is_both_families() -> None:
    """No host means IPv4 and IPv6 on one port; an IPv4 visitor is told as one."""
    sockets = open_sockets(Endpoint("", 0))
    port = sockets[0].getsockname()[1]
    accepted: list[tuple[socket.socket, Endpoint]] = []
    listener = Listener(sockets, lambda connection, peer: accepted.append((connection, peer)))
    for host in ("127.0.0.1", "::1"):
        with socket.create_connection((host, port)) as visitor:
            await until(lambda: bool(accepted))
            connection, peer = accepted.pop()
            connection.close()
            assert peer == Endpoint(*visitor.getsockname()[:2])
            assert peer.host == host
    listener.close()


@pytest.fixture(params=["127.0.0.1", "::1", ""])
def opened(request: pytest.FixtureRequest) -> Iterator[tuple[list[socket.socket], tuple[str, int]]]:
    """Listening sockets, of IPv4, of IPv6 and of both, and where one of them is reached."""
    sockets = open_sockets(Endpoint(request.param, 0))
    yield sockets, (request.param or "127.0.0.1", sockets[0].getsockname()[1])
    for sock in sockets:
        sock.close()


def is_refused(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address).close()
    except ConnectionRefusedError:
        return True
    return False


def is_served(visitor: socket.socket) -> bool:
    """Whether it gets what the listener's side has sent, and not a reset."""
    try:
        return visitor.recv(10) == b"served"
    except ConnectionResetError:
        return False


def serve(sock: socket.socket, peer: Endpoint) -> None:
    with sock:
        sock.send(b"served")


async def test_who_waits_in_the_queue_is_accepted_before_it_is_closed(
    opened: tuple[list[socket.socket], tuple[str, int]], taken: ExitStack
) -> None:
    """However many they are: their connections stand, and the kernel would reset them."""
    sockets, address = opened
    listener = Listener(sockets, serve)
    visitors = [taken.enter_context(socket.create_connection(address)) for _ in range(100)]
    await finish([listener], within=NEVER)
    assert [is_served(visitor) for visitor in visitors] == [True] * 100
    assert is_refused(address)


async def test_who_waits_is_accepted_at_a_port_that_closes_at_once(
    opened: tuple[list[socket.socket], tuple[str, int]], taken: ExitStack
) -> None:
    """As a raw port does whose tunnel has moved."""
    sockets, address = opened
    listener = Listener(sockets, serve)
    visitors = [taken.enter_context(socket.create_connection(address)) for _ in range(100)]
    listener.retire()
    assert [is_served(visitor) for visitor in visitors] == [True] * 100
    assert is_refused(address)


async def test_while_handshakes_are_in_progress_it_accepts_and_refuses(
    opened: tuple[list[socket.socket], tuple[str, int]], taken: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New connections are refused at once, so that their visitors try the next address; whoever is accepted late is
    served."""
    sockets, address = opened
    looks: list[object] = []

    def in_progress(ports: set[int]) -> bool:
        looks.append(ports)
        return len(looks) < 2

    monkeypatch.setattr(listener_module, "handshakes_in_progress", in_progress)
    listener = Listener(sockets, serve)
    visitor = taken.enter_context(socket.create_connection(address))
    ending = asyncio.ensure_future(finish([listener], within=NEVER))
    await until(lambda: len(looks) == 1)
    assert is_refused(address)
    assert is_served(visitor)
    await ending
    assert looks == [{address[1]}] * 3


async def test_handshakes_are_not_waited_for_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger that never completes one keeps no server from stopping."""
    monkeypatch.setattr(listener_module, "handshakes_in_progress", lambda ports: True)
    listener = Listener(open_sockets(Endpoint("127.0.0.1", 0)), serve)
    await finish([listener], within=0.02)
    assert not listener.ports


async def test_a_look_stalls_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a machine has very many connections it takes long; visits go on, and it is over at the limit."""
    looking, ended = threading.Event(), threading.Event()

    def in_progress(ports: set[int]) -> bool:
        looking.set()
        ended.wait()
        return False

    monkeypatch.setattr(listener_module, "handshakes_in_progress", in_progress)
    listener = Listener(open_sockets(Endpoint("127.0.0.1", 0)), serve)
    ending = asyncio.ensure_future(finish([listener], within=0.1))
    await until(looking.is_set)
    assert not ending.done()
    await ending
    assert not listener.ports
    ended.set()


async def test_looks_that_take_long_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is as much time between two as one takes: they have half a core at most."""
    looks = 0

    def in_progress(ports: set[int]) -> bool:
        nonlocal looks
        looks += 1
        time.sleep(0.05)
        return True

    monkeypatch.setattr(listener_module, "handshakes_in_progress", in_progress)
    await finish([Listener(open_sockets(Endpoint("127.0.0.1", 0)), serve)], within=0.25)
    assert 1 <= looks <= 3


async def test_without_a_thread_to_look_on_handshakes_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the limit, as where the system does not say."""

    async def to_thread(*_: object) -> bool:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    listener = Listener(open_sockets(Endpoint("127.0.0.1", 0)), serve)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await finish([listener], within=0.02)
    assert loop.time() - began >= 0.02
    assert not listener.ports


async def test_where_the_system_cannot_refuse_the_queue_is_emptied(
    opened: tuple[list[socket.socket], tuple[str, int]], taken: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: as long as it listened, new ones would come. Those who come meanwhile do not make it last longer."""
    monkeypatch.setattr(listener_module, "refuse_connections", lambda sock: False)
    sockets, address = opened
    served: list[Endpoint] = []

    def serve_and_attract(sock: socket.socket, peer: Endpoint) -> None:
        serve(sock, peer)
        served.append(peer)
        if len(served) < 500:
            taken.enter_context(socket.create_connection(address))

    listener = Listener(sockets, serve_and_attract)
    visitors = [taken.enter_context(socket.create_connection(address)) for _ in range(100)]
    await finish([listener], within=NEVER)
    assert [is_served(visitor) for visitor in visitors] == [True] * 100
    assert len(served) == 100


async def test_where_the_system_does_not_say_how_many_wait_a_batch_is_accepted(
    connection: Callable[[], Accept],
) -> None:
    """There may be no end of them."""
    listening = FakeListening(*(connection() for _ in range(100)))
    accepted: list[Endpoint] = []
    listener = Listener([listening], lambda sock, peer: accepted.append(peer), batch=20)
    listener.retire()
    assert len(accepted) == 20


def test_the_kernel_says_how_many_wait(opened: tuple[list[socket.socket], tuple[str, int]], taken: ExitStack) -> None:
    """Those whose handshake is over, until they are accepted."""
    ((listening, *_), address) = opened
    assert queued(listening) == 0
    for _ in range(3):
        taken.enter_context(socket.create_connection(address))
    assert queued(listening) == 3
    listening.accept()[0].close()
    assert queued(listening) == 2


async def test_descriptors_are_waited_for(connection: Callable[[], Accept], monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that could not be accepted yet are, once there are descriptors again."""
    monkeypatch.setattr(listener_module, "handshakes_in_progress", lambda ports: False)
    listening = FakeListening(OSError(errno.EMFILE, ""), connection())
    monkeypatch.setattr(listening, "setsockopt", lambda level, option, value: None)
    accepted: list[Endpoint] = []
    listener = Listener([listening], lambda sock, peer: accepted.append(peer), pause=AT_ONCE)
    await until(lambda: listener.pauses == 1)
    await finish([listener], within=NEVER)
    assert accepted == [Endpoint(*PEER)]


def test_handshakes_are_counted_by_port() -> None:
    """An established connection is none."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()):
        assert not handshakes_in_progress({listening.getsockname()[1]})


def test_what_the_system_does_not_say_counts_as_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A container may have no /proc; then they are waited for until the limit."""
    monkeypatch.setattr(listening_module, "_TABLES", (tmp_path / "absent",))
    assert handshakes_in_progress({443})


def test_a_handshake_in_progress_is_found_in_either_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its line has the port in hexadecimal figures, behind an address of 4 or 16 bytes, and the state SYN_RECV."""
    head = "  sl  local_address rem_address   st tx_queue rx_queue\n"
    old, new = tmp_path / "tcp", tmp_path / "tcp6"
    monkeypatch.setattr(listening_module, "_TABLES", (old, new))
    old.write_text(f"{head}   0: 0100007F:01BB 0200007F:D431 03 00000000:00000000\n")
    new.write_text(f"{head}   0: {'0' * 31}1:1F90 {'0' * 31}1:D431 03 00000000:00000000\n")
    assert handshakes_in_progress({443})
    assert handshakes_in_progress({8080, 1})
    assert not handshakes_in_progress({444})


def test_a_handshake_is_found_wherever_it_stands_in_a_long_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is read in pieces, which end in the middle of a line."""
    table = tmp_path / "tcp"
    monkeypatch.setattr(listening_module, "_TABLES", (table,))
    other, wanted = (f"   0: 0100007F:01BB 0200007F:D431 {state} 00000000:00000000\n" for state in ("01", "03"))
    fitting = listening_module._CHUNK // len(other)
    for before in range(fitting - 2, fitting + 2):
        table.write_text(other * before + wanted + other * 10)
        assert handshakes_in_progress({443})
    table.write_text(other * (fitting + 2))
    assert not handshakes_in_progress({443})
