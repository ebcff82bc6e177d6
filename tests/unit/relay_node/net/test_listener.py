"""Listening sockets: where they are opened, who is accepted, and what running out of descriptors does."""

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
from portway_relay.config import Endpoint
from portway_relay.errors import ListenError
from portway_relay.net import listener as listener_module
from portway_relay.net.listener import Listener, open_sockets, peer_of
from portway_testkit.carriers import until

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

    lowest_free = listener_module._lowest_free(listening.fileno())
    fits_two = next(limit for limit in itertools.count() if limit - min(64, limit // 4) == lowest_free + 2)
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


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        (("192.0.2.7", 80), Endpoint("192.0.2.7", 80)),
        (("::ffff:192.0.2.7", 80, 0, 0), Endpoint("192.0.2.7", 80)),
        (("2001:db8::1", 80, 0, 0), Endpoint("2001:db8::1", 80)),
        (("fe80::1%eth0", 80, 0, 2), Endpoint("fe80::1", 80)),
        (("::ffff:0:0:1", 80, 0, 0), Endpoint("::ffff:0:0:1", 80)),
    ],
)
def test_a_peer_is_told_by_the_address_it_has(name: tuple[object, ...], peer: Endpoint) -> None:
    """Mapped addresses are IPv4 ones; scopes are no part of an address."""
    assert peer_of(name) == peer


def _resolve_to(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    def getaddrinfo(host: str, port: int, **hints: object) -> list[tuple[object, ...]]:
        family = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(family[":" in found], socket.SOCK_STREAM, 6, "", (found, port)) for found in hosts]

    monkeypatch.setattr(listener_module.socket, "getaddrinfo", getaddrinfo)


def _ports(sockets: list[socket.socket]) -> list[tuple[str, int]]:
    names = [sock.getsockname()[:2] for sock in sockets]
    for sock in sockets:
        assert sock.gettimeout() == 0
        sock.close()
    return names


def test_a_name_is_listened_on_at_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Port 0 becomes one port, the same on each address, each of them once."""
    _resolve_to(monkeypatch, "127.0.0.1", "::1", "127.0.0.1")
    names = _ports(open_sockets(Endpoint("relay.example.com", 0)))
    assert [host for host, _ in names] == ["127.0.0.1", "::1"]
    assert len({port for _, port in names}) == 1
    assert names[0][1] != 0


def test_a_port_that_is_taken_on_one_address_is_tried_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A free port of the first address that somebody holds on the second is given up for another."""
    _resolve_to(monkeypatch, "127.0.0.1", "127.0.0.2")
    opened: list[tuple[str, int]] = []
    really_open = listener_module._open

    def open_once_in_vain(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
        opened.append((host, port))
        if len(opened) == 2:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        return really_open(family, host, port)

    monkeypatch.setattr(listener_module, "_open", open_once_in_vain)
    names = _ports(open_sockets(Endpoint("relay.example.com", 0)))
    assert [host for host, _ in opened] == ["127.0.0.1", "127.0.0.2"] * 2
    assert opened[2] == ("127.0.0.1", 0)
    assert names == [("127.0.0.1", names[0][1]), ("127.0.0.2", names[0][1])]


def test_a_port_that_is_never_free_everywhere_ends_the_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries for one port on every address are bounded, and leave no socket."""
    _resolve_to(monkeypatch, "127.0.0.1", "127.0.0.2")
    really_open = listener_module._open
    tries: list[str] = []

    def open_first_alone(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
        tries.append(host)
        if host == "127.0.0.2":
            raise OSError(errno.EADDRINUSE, "Address already in use")
        return really_open(family, host, port)

    monkeypatch.setattr(listener_module, "_open", open_first_alone)
    with pytest.raises(ListenError, match=r"cannot listen on relay\.example\.com:0: Address already in use"):
        open_sockets(Endpoint("relay.example.com", 0))
    assert tries == ["127.0.0.1", "127.0.0.2"] * 16


def test_an_address_that_is_nobodys_here_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another port cannot mend is told at the first try."""
    _resolve_to(monkeypatch, "127.0.0.1", "192.0.2.1")
    with pytest.raises(ListenError, match=r"cannot listen on relay\.example\.com:0: Cannot assign"):
        open_sockets(Endpoint("relay.example.com", 0))


def test_a_port_that_is_taken_is_named() -> None:
    """The error says which address, what is wrong with it, and that another port could be had."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use") as caught:
            open_sockets(Endpoint("127.0.0.1", port))
    assert caught.value.port_taken


def test_an_address_of_another_machine_is_named() -> None:
    """No port of an address that is not this machine's can be listened on."""
    with pytest.raises(ListenError, match=r"cannot listen on \[2001:db8::1\]:0: ") as caught:
        open_sockets(Endpoint("2001:db8::1", 0))
    assert not caught.value.port_taken


def test_a_name_that_nobody_knows_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver's answer is passed on."""

    def getaddrinfo(*arguments: object, **hints: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(listener_module.socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(ListenError, match=r"cannot listen on relay\.example:443: Name or service not known"):
        open_sockets(Endpoint("relay.example", 443))


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..example", ".example"])
def test_what_can_be_no_name_is_a_listen_error_too(host: str) -> None:
    """A host that cannot even be asked for is told like one that nobody knows."""
    with pytest.raises(ListenError, match="no host name"):
        open_sockets(Endpoint(host, 0))
