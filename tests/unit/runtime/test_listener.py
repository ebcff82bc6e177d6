"""A listener at work: who is accepted, and what running out of descriptors does."""

import asyncio
import errno
import itertools
import logging
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from portway_runtime.descriptors import lowest_free
from portway_runtime.endpoints import Endpoint
from portway_runtime.listener import Listener
from portway_runtime.listening import open_sockets
from portway_testkit.fakes.fake_listening import PEER, Accept, FakeListening
from portway_testkit.links.carrier_link import until

NEVER = 3600.0
AT_ONCE = 0.001


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    """How many descriptors this process may have, softly and at all; as before after the test."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


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
