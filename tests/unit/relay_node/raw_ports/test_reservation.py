"""When a registry is asked for raw ports, and what its answers mean."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from portway_proto.v1.mesh_pb2 import HeldPort, PortBlock, ReservePortsRequest, ReservePortsResponse
from portway_relay.config import PortRange
from portway_relay.raw_ports import reservation as port_reservation
from portway_relay.raw_ports.account import PortAccount
from portway_relay.raw_ports.reservation import PortReservation
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.links.carrier_link import until

REST = 60.0
FIRST, SIZE = 20_000, 20


class Registry:
    """Gives blocks of twenty ports, as many as `most`; None when it cannot be asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []  # how many blocks each time
        self.most = 3
        self.held: dict[int, str] = {}
        self.old = 0  # so many are those that the node had before it was started
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def ask(self, request: ReservePortsRequest) -> ReservePortsResponse | None:
        self.asked.append(request.blocks)
        await self.gate.wait()
        if self.away:
            return None
        given = max(self.old, min(request.blocks, self.most))
        return ReservePortsResponse(
            blocks=[
                PortBlock(first=FIRST + SIZE * n, last=FIRST + SIZE * (n + 1) - 1, fresh=n >= self.old)
                for n in range(given)
            ],
            held=[HeldPort(port=port, label=label) for port, label in self.held.items()],
        )


class Node:
    def __init__(self, clock: ManualClock, rest: float = REST) -> None:
        self.registry = Registry()
        self.account = PortAccount(PortRange(FIRST, FIRST + 99), rest, clock)
        self.failures: list[BaseException] = []
        self.reservation = PortReservation(
            self.account, self.registry.ask, rest=rest, clock=clock, on_failure=self.failures.append
        )
        self.reservation.start()

    def take(self, ports: int) -> None:
        for _ in range(ports):
            self.account.hold(next(iter(self.account.candidates("a", None))), "a")
            self.reservation.taken()


@pytest.fixture
async def node(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    monkeypatch.setattr(port_reservation, "_SHORTEST_PAUSE", 0.001)
    monkeypatch.setattr(port_reservation, "_GATHERING_SHARE", 0.0)
    monkeypatch.setattr(port_reservation, "_PAUSE_AFTER_FAILURE", 0.001)
    node = Node(clock)
    yield node
    await node.reservation.close()
    assert not node.failures


async def test_a_block_is_reserved_as_soon_as_a_registry_is_there(node: Node) -> None:
    """Before any client asks for a port."""
    node.reservation.registry_away(False)
    await until(lambda: node.account.free == SIZE)
    assert node.registry.asked == [1]


async def test_nobody_is_asked_while_no_registry_is_there(node: Node) -> None:
    """A client that needs a port then is not kept waiting for ever, either."""
    await asyncio.sleep(0)
    assert node.registry.asked == []
    assert node.account.free == 0


async def test_the_next_block_is_asked_for_before_the_last_port_is_gone(node: Node) -> None:
    """A client does not wait for a registry."""
    node.reservation.registry_away(False)
    await until(lambda: node.account.free == SIZE)
    node.take(4)
    assert node.account.free == 16
    node.take(1)
    await until(lambda: node.account.free == 15 + SIZE)
    assert node.registry.asked == [1, 2]


async def test_a_registry_that_fails_is_asked_again(node: Node) -> None:
    """An outage of its store passes."""
    node.registry.away = True
    node.reservation.registry_away(False)
    await until(lambda: len(node.registry.asked) >= 3)
    node.registry.away = False
    await until(lambda: node.account.free == SIZE)


async def test_who_needs_a_port_waits_for_the_answer(node: Node) -> None:
    """Of a question that was asked after the need, for the one before may say what was before."""
    node.reservation.registry_away(False)
    await until(lambda: node.account.free == SIZE)
    node.registry.gate.clear()
    node.take(SIZE)
    await until(lambda: len(node.registry.asked) == 2)
    room = asyncio.ensure_future(node.reservation.room())
    node.registry.gate.set()
    assert await room
    assert node.account.free


async def test_a_used_up_range_is_told_at_once(node: Node) -> None:
    """Who waits hears that there is none."""
    node.registry.most = 1
    node.reservation.registry_away(False)
    await until(lambda: node.account.free == SIZE)
    node.take(SIZE)
    assert not await node.reservation.room()
    assert node.account.free == 0


async def test_rested_ports_are_asked_about_and_wake(node: Node, clock: ManualClock) -> None:
    """All that have rested at once; one that a tunnel has elsewhere goes on resting."""
    node.reservation.registry_away(False)
    await until(lambda: node.account.free == SIZE)
    node.take(3)
    ports = sorted(node.account._held)
    for port in ports:
        node.account.release(port)
    node.registry.held = {ports[0]: "a"}
    assert node.account.resting == 3
    clock.now += REST
    node.reservation.registry_away(False)
    await until(lambda: node.account.resting == 1)
    assert node.account.free == SIZE - 1


async def test_a_port_let_go_while_nothing_is_asked_is_free_after_its_rest(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody tells of it: while ports are held it is looked after them."""
    monkeypatch.setattr(port_reservation, "_SHORTEST_PAUSE", 0.001)
    node = Node(clock, rest=0.01)
    node.registry.most = 1
    node.reservation.registry_away(False)
    await until(lambda: node.account.free == SIZE)
    node.take(SIZE)
    await until(lambda: len(node.registry.asked) > 2)  # all are taken, and it has come to rest
    for port in range(FIRST, FIRST + SIZE):
        node.account.release(port)
    clock.now += 1.0
    await until(lambda: node.account.free == SIZE)
    await node.reservation.close()
    assert not node.failures


async def test_a_node_that_is_started_again_takes_no_more_than_it_had(node: Node, clock: ManualClock) -> None:
    """When its old ports have rested they are enough: a region's blocks are not used up by restarts."""
    node.registry.old = 2
    node.reservation.registry_away(False)
    await until(lambda: node.account.resting == 2 * SIZE)
    clock.now += REST
    node.reservation.registry_away(False)
    await until(lambda: node.account.free == 2 * SIZE)
    assert max(node.registry.asked) == 2


async def test_a_node_whose_old_ports_are_in_use_elsewhere_gets_a_block(node: Node, clock: ManualClock) -> None:
    """They had rested, and a registry says whose they are."""
    node.registry.old = 1
    node.reservation.registry_away(False)
    await until(lambda: node.account.resting == SIZE)
    node.registry.held = {FIRST + number: f"label-{number}" for number in range(SIZE - 1)}
    clock.now += REST
    node.reservation.registry_away(False)
    await until(lambda: node.account.free == 1 + SIZE)
    assert node.registry.asked == [1, 1, 2]


async def test_who_comes_while_old_ports_rest_gets_a_port_of_a_new_block(node: Node) -> None:
    """A client does not wait for a minute."""
    node.registry.old = 1
    node.reservation.registry_away(False)
    await until(lambda: node.account.resting == SIZE)
    assert await node.reservation.room()
    assert node.account.free == SIZE
