"""A listener that ends: who still waits in the queue is accepted, and who comes later is refused."""

import asyncio
import errno
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import pytest
from portway_runtime import listener as listener_module
from portway_runtime.endpoints import Endpoint
from portway_runtime.listener import Listener, finish
from portway_runtime.listening import open_sockets, queued
from portway_testkit.fakes.fake_listening import PEER, Accept, FakeListening
from portway_testkit.links.carrier_link import until
from portway_testkit.waiting import eventually

NEVER = 3600.0
AT_ONCE = 0.001


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


async def finished(listener: Listener) -> None:
    await finish([listener], within=NEVER)


async def retired(listener: Listener) -> None:
    listener.retire()


@pytest.mark.parametrize("end", [finished, retired])
async def test_who_waits_in_the_queue_is_accepted_before_it_is_closed(
    opened: tuple[list[socket.socket], tuple[str, int]], taken: ExitStack, end: Callable[[Listener], Awaitable[None]]
) -> None:
    """However many they are: their connections stand, and the kernel would reset them. So also at a port that closes at
    once, as a raw port does whose tunnel has moved."""
    sockets, address = opened
    listener = Listener(sockets, serve)
    visitors = [taken.enter_context(socket.create_connection(address)) for _ in range(100)]
    eventually(lambda: queued(sockets[0]) == 100)
    await end(listener)
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
    clock = asyncio.get_running_loop().time
    began = clock()
    ending = asyncio.ensure_future(finish([listener], within=0.1))
    # A machine that stands still meanwhile leaves no time for a look.
    await until(lambda: looking.is_set() or ending.done())
    await ending
    took = clock() - began
    ended.set()
    assert took >= 0.099  # uvloop's clock has whole milliseconds
    assert not listener.ports


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
    assert looks <= 3  # none where the machine stood still before the first


async def test_without_a_thread_to_look_on_handshakes_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the limit, as where the system does not say."""

    async def to_thread(*_: object) -> bool:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    listener = Listener(open_sockets(Endpoint("127.0.0.1", 0)), serve)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await finish([listener], within=0.02)
    assert loop.time() - began >= 0.019  # uvloop's clock has whole milliseconds
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
    eventually(lambda: queued(sockets[0]) == 100)
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
