"""Dialling a host with several addresses. A full accept queue stands for a network that loses what is sent."""

import asyncio
import errno
import gc
import socket
from collections.abc import Awaitable, Iterator
from functools import partial

import pytest
from portway_runtime.dialling import Dialler, race
from portway_runtime.names import Address, Names
from portway_testkit.links.carrier_link import until

DELAY = 0.05
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
NO_ROUTE = OSError(errno.ENETUNREACH, "no route")


class Attempts:
    """Attempts whose outcome is that of their candidate: an error to raise, None to never end, or a result."""

    def __init__(self, *outcomes: object) -> None:
        self.candidates = range(len(outcomes))
        self.begun: list[int] = []
        self.cancelled: list[int] = []
        self.discarded: list[object] = []
        self._outcomes = outcomes

    async def attempt(self, candidate: int) -> object:
        self.begun.append(candidate)
        outcome = self._outcomes[candidate]
        if outcome is None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.append(candidate)
                raise
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def race(self, delay: float = 3600.0) -> Awaitable[object]:
        return race(self.candidates, self.attempt, self.discarded.append, delay=delay)


async def test_the_first_that_succeeds_at_once_is_the_only_one() -> None:
    attempts = Attempts("first", "second")
    assert await attempts.race() == "first"
    assert attempts.begun == [0]


async def test_the_next_begins_as_soon_as_one_has_failed() -> None:
    attempts = Attempts(REFUSED, NO_ROUTE, "third")
    assert await attempts.race() == "third"
    assert attempts.discarded == []


async def test_the_next_begins_beside_one_that_does_not_answer() -> None:
    attempts = Attempts(None, None, "third", "fourth")
    began = asyncio.get_running_loop().time()
    assert await attempts.race(DELAY) == "third"
    assert asyncio.get_running_loop().time() - began >= 2 * DELAY - 0.01
    assert (attempts.begun, attempts.cancelled) == ([0, 1, 2], [0, 1])


async def test_what_a_loser_has_achieved_is_discarded() -> None:
    both = asyncio.Event()

    async def attempt(candidate: int) -> int:
        if candidate == 1:
            both.set()
        await both.wait()
        return candidate

    discarded: list[int] = []
    won = await race([0, 1], attempt, discarded.append, delay=0.001)
    assert sorted([won, *discarded]) == [0, 1]


@pytest.mark.parametrize(("failures", "told"), [([NO_ROUTE, REFUSED], REFUSED), ([NO_ROUTE, NO_ROUTE], NO_ROUTE)])
async def test_a_refusal_says_more_than_no_route(failures: list[OSError], told: OSError) -> None:
    with pytest.raises(type(told)) as raised:
        await Attempts(*failures).race()
    assert raised.value is told


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "no descriptors"), ValueError()])
async def test_what_no_other_address_would_change_ends_it(error: Exception) -> None:
    attempts = Attempts(error, "second")
    with pytest.raises(type(error)):
        await attempts.race()
    assert attempts.begun == [0]


async def test_cancelled_it_leaves_no_attempt() -> None:
    attempts = Attempts(None, None)
    racing = asyncio.ensure_future(attempts.race(0.001))
    await until(lambda: attempts.begun == [0, 1])
    racing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await racing
    assert sorted(attempts.cancelled) == [0, 1]


class Client(asyncio.Protocol):
    transport: asyncio.Transport | None = None
    lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "abort")
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True


def _listening() -> tuple[socket.socket, socket.socket]:
    """Sockets that listen at the same port of 127.0.0.1 and 127.0.0.2; the second one's accept queue has no room."""
    while True:
        first, second = socket.create_server(("127.0.0.1", 0)), socket.socket()
        try:
            second.bind(("127.0.0.2", first.getsockname()[1]))
        except OSError:  # in use there
            first.close()
            second.close()
            continue
        second.listen(0)
        return first, second


@pytest.fixture
def port() -> Iterator[int]:
    """At this port 127.0.0.1 accepts connections, 127.0.0.2 loses what is sent, and every other address refuses."""
    answers, loses = _listening()
    with answers, loses:
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(loses.getsockname())
        yield answers.getsockname()[1]
        for filler in fillers:
            filler.close()


def address(host: str) -> Address:
    return Address(socket.AF_INET, host)


def dialler_to(*hosts: str, looked_up: list[str] | None = None) -> Dialler:
    """A dialler for which every name leads to these hosts."""

    def resolve(name: str) -> list[Address]:
        if looked_up is not None:
            looked_up.append(name)
        return [address(host) for host in hosts]

    return Dialler(Names(resolve=resolve), delay=DELAY)


async def opened(dialler: Dialler, host: str, port: int) -> str:
    """The address that a connection to this host was made to; it is closed again."""
    client = Client()
    prepared: list[socket.socket] = []
    async with asyncio.timeout(10):
        await dialler.open(host, port, prepared.append, lambda: client)
    assert len(prepared) == 1
    assert client.transport is not None
    peer: str = client.transport.get_extra_info("peername")[0]
    sock = client.transport.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    client.transport.abort()
    await until(lambda: client.lost)
    return peer


async def test_an_address_that_loses_everything_costs_a_moment(port: int) -> None:
    """And the next connections none: the address that answered comes first from then on."""
    dialler = dialler_to("127.0.0.2", "127.0.0.1")
    clock = asyncio.get_running_loop().time
    began = clock()
    assert await opened(dialler, "node.test", port) == "127.0.0.1"
    assert clock() - began >= DELAY - 0.01
    dialler._delay = 3600.0
    for _ in range(3):
        assert await opened(dialler, "node.test", port) == "127.0.0.1"


async def test_an_address_that_refuses_costs_nothing(port: int) -> None:
    dialler = dialler_to("127.0.0.3", "127.0.0.1")
    dialler._delay = 3600.0
    assert await opened(dialler, "node.test", port) == "127.0.0.1"


async def test_a_literal_address_is_dialled_as_it_is(port: int) -> None:
    assert await opened(dialler_to("192.0.2.1"), "127.0.0.1", port) == "127.0.0.1"


@pytest.mark.parametrize("hosts", [["127.0.0.3"], ["127.0.0.3", "127.0.0.4"]])
async def test_a_name_that_leads_nowhere_is_looked_up_again(port: int, hosts: list[str]) -> None:
    looked_up: list[str] = []
    dialler = dialler_to(*hosts, looked_up=looked_up)
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            await opened(dialler, "node.test", port)
    assert looked_up == ["node.test"] * 2


async def test_cancelled_it_leaves_no_socket(port: int) -> None:
    """The fixture that looks for leaked sockets is the check."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await dialler_to("127.0.0.2", "127.0.0.2").open("node.test", port, lambda sock: None, Client)


async def test_cancelled_with_its_connection_made_it_leaves_no_socket(port: int) -> None:
    """The time limit is over while the loop makes a transport of it."""

    def late() -> asyncio.Protocol:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return Client()

    dialling = asyncio.ensure_future(dialler_to("127.0.0.1").open("node.test", port, lambda sock: None, late))
    with pytest.raises(asyncio.CancelledError):
        await dialling


async def test_a_protocol_that_fails_leaves_no_socket(port: int) -> None:
    def fail() -> asyncio.Protocol:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await dialler_to("127.0.0.1").open("node.test", port, lambda sock: None, fail)


async def test_a_connection_that_is_dropped_at_once_closes_its_own_descriptor_alone(port: int) -> None:
    """On either loop, whoever frees what was handed over: here the transport ends before the loop has all of it."""

    class Leaving(Client):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            assert self.transport is not None
            self.transport.abort()

        def itself(self) -> "Leaving":
            return self

    kept: list[socket.socket] = []
    for _ in range(10):
        client = Leaving()
        await dialler_to("127.0.0.1").open("node.test", port, lambda sock: None, partial(Leaving.itself, client))
        await until(lambda: client.lost)
        kept += socket.socketpair()  # they get the number that has just become free
    gc.collect()
    for sock in kept:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
        sock.close()


async def test_the_processs_default_timeout_is_not_taken_over(port: int) -> None:
    socket.setdefaulttimeout(30)
    try:
        assert await opened(dialler_to("127.0.0.2", "127.0.0.1"), "node.test", port) == "127.0.0.1"
    finally:
        socket.setdefaulttimeout(None)
