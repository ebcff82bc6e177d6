"""A node's state: orders of operators, and the way out when it stops."""

import asyncio
from typing import Any

import pytest
from portway_proto.v1.types_pb2 import NODE_STATE_CORDONED, NODE_STATE_DRAINING, NODE_STATE_READY
from portway_relay import lifecycle
from portway_relay.lifecycle import Lifecycle


class Parts:
    """All parts that a Lifecycle acts on; `calls` is what it asked of them, in order."""

    def __init__(self, *, peers: int = 1, grace: float = 30.0, lame_duck: float = 0.0) -> None:
        self.calls: list[str] = []
        self.all_heard = asyncio.Event()
        self.all_heard.set()
        self.clients_gone = asyncio.Event()
        self.visits_over = asyncio.Event()
        self.passages_over = asyncio.Event()
        self.passages_over.set()
        self.visits_of_now_over = asyncio.Event()
        self.peers = OtherNodes(peers)
        self.serves_own_zone = asyncio.Event()
        self.serves_own_zone.set()
        self.running = 3
        parts: Any = self
        sessions: Any = Sessions(self)
        ports: dict[str, Any] = {name: Port(self, name) for name in ("public", "http", "raw")}
        visitors: Any = RawVisitors(self)
        passages: Any = Passages(self)
        self.lifecycle = Lifecycle(
            sessions,
            parts.peers,
            parts,
            passages,
            ports["public"],
            ports["http"],
            ports["raw"],
            visitors,
            parts,
            self.serves_own_zone,
            grace=grace,
            lame_duck=lame_duck,
        )

    # The visits, the outbox.

    async def over(self) -> None:
        self.calls.append("wait for visits")
        await self.visits_over.wait()

    async def over_of_now(self) -> None:
        self.calls.append("wait for visits of now")
        await self.visits_of_now_over.wait()

    def moved(self) -> dict[str, int]:
        return {"a visit": 1}

    def close_idle(self, before: dict[str, int]) -> int:
        self.calls.append(f"close {', '.join(before)}, if idle")
        return 1

    def state_changed(self) -> None:
        self.calls.append("tell the registry")


class OtherNodes:
    """The other nodes of Parts; `told` is which states they were told."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.told: list[int] = []

    def __len__(self) -> int:
        return self._number

    def tell_state(self, state: int) -> None:
        self.told.append(state)


class Port:
    """A port of Parts, or several."""

    def __init__(self, parts: Parts, name: str) -> None:
        self._parts = parts
        self._name = name
        self.arrivals = self

    @property
    def listeners(self) -> list[Any]:
        return [self]

    @property
    def ports(self) -> set[int]:
        return set()

    def refuse(self) -> bool:
        self._parts.calls.append(f"refuse at {self._name}")
        return True

    def retire(self) -> None:
        self._parts.calls.append(f"retire {self._name}")

    async def heard(self) -> None:
        self._parts.calls.append(f"hear {self._name}")
        await self._parts.all_heard.wait()

    def open_no_more(self) -> None:
        self._parts.calls.append(f"open no more {self._name}")

    async def over(self) -> None:
        self._parts.calls.append(f"wait for visitors of {self._name}")


class RawVisitors:
    """The visitors of Parts whose tunnel is looked up."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def over(self) -> None:
        self._parts.calls.append("wait for raw visitors")


class Passages:
    """The connections for the registry of Parts, in progress or not."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def over(self) -> None:
        await self._parts.passages_over.wait()


class Sessions:
    """The sessions of Parts."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def ask_to_leave(self, why: str) -> None:
        self._parts.calls.append(f"ask to leave: {why}")

    def refuse_new(self) -> None:
        self._parts.calls.append("refuse new")

    def accept_new(self) -> None:
        self._parts.calls.append("accept new")

    async def over(self) -> None:
        self._parts.calls.append("wait for clients")
        await self._parts.clients_gone.wait()


SHUT = (
    "open no more raw",
    *("refuse at public", "refuse at http", "refuse at raw"),
    *("retire public", "retire http", "retire raw"),
    *("hear public", "hear http"),
    *("wait for visitors of public", "wait for raw visitors"),
)


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_orders_are_obeyed_and_reported() -> None:
    """Each once; the registry is told of each change."""
    parts = Parts()
    states = []
    for order in (NODE_STATE_CORDONED, NODE_STATE_CORDONED, NODE_STATE_DRAINING, NODE_STATE_READY):
        parts.lifecycle.obey(order)
        states.append(parts.lifecycle.state)
    assert states == [NODE_STATE_CORDONED, NODE_STATE_CORDONED, NODE_STATE_DRAINING, NODE_STATE_READY]
    assert parts.calls == [
        *("refuse new", "tell the registry"),
        *("ask to leave: this node is being drained", "tell the registry"),
        *("accept new", "tell the registry"),
    ]


async def test_the_way_out_has_an_order() -> None:
    """The registry and the clients are told; clients leave; all ports refuse; visits finish, though others may come
    until the ports refuse."""
    parts = Parts()
    leaving = asyncio.ensure_future(parts.lifecycle.leave())
    await turns()
    assert parts.lifecycle.state == NODE_STATE_DRAINING
    told = ["tell the registry", "ask to leave: this node is stopping", "wait for clients"]
    assert parts.calls == told
    parts.clients_gone.set()
    await turns()
    assert parts.calls == [*told, *SHUT, "wait for visits"]
    parts.visits_over.set()
    await leaving
    assert parts.calls == [*told, *SHUT, "wait for visits"]


async def test_what_is_passed_on_to_a_registry_may_finish() -> None:
    """Within the grace, as visits may."""
    parts = Parts()
    parts.passages_over.clear()
    parts.clients_gone.set()
    parts.visits_over.set()
    leaving = asyncio.ensure_future(parts.lifecycle.leave())
    await turns()
    assert not leaving.done()
    parts.passages_over.set()
    await leaving


async def test_visitors_are_taken_for_a_while_after_the_clients_have_left() -> None:
    """A balancer, or a DNS server, that looks at /readyz sends them elsewhere meanwhile. Asked again, it does not wait
    again."""
    parts = Parts(lame_duck=0.05)
    parts.clients_gone.set()
    parts.visits_over.set()
    loop = asyncio.get_running_loop()
    began = loop.time()
    await parts.lifecycle.leave()
    assert loop.time() - began >= 0.05
    parts.lifecycle.lame_duck = 3600.0
    await parts.lifecycle.leave()
    assert "close a visit, if idle" not in parts.calls


async def test_clients_that_stay_do_not_keep_the_ports_open() -> None:
    """Half of the grace is for the visits that came last."""
    parts = Parts(grace=0.04)
    parts.visits_over.set()
    await parts.lifecycle.leave()
    assert "retire public" in parts.calls


@pytest.mark.parametrize(("grace", "expected"), [(30.0, 1.0), (2.0, 0.5), (0.04, 0.01), (0.0, 0.0)])
async def test_those_who_came_last_take_a_quarter_of_the_grace_at_most(
    monkeypatch: pytest.MonkeyPatch, grace: float, expected: float
) -> None:
    """And a second at most: a stranger who connects and says nothing does not make a stop last longer than it may. All
    ports end together; half of the time is for handshakes."""
    ended: list[tuple[int, float]] = []

    async def finish(listeners: list[Any], *, within: float) -> None:
        ended.append((len(listeners), within))

    monkeypatch.setattr(lifecycle, "finish", finish)
    parts = Parts(grace=grace)
    parts.clients_gone.set()
    parts.visits_over.set()
    await parts.lifecycle.leave()
    assert ended == [(3, expected / 2)]


async def test_who_says_nothing_is_not_waited_for_beyond_that() -> None:
    """Visits are then waited for as ever."""
    parts = Parts(grace=0.04)
    parts.all_heard.clear()
    parts.clients_gone.set()
    parts.visits_over.set()
    loop = asyncio.get_running_loop()
    began = loop.time()
    await parts.lifecycle.leave()
    assert loop.time() - began >= 0.01
    assert parts.calls[-1] == "wait for visits"


async def test_clients_without_another_node_stay() -> None:
    """They could attach nowhere, nor could visitors: the ports close after the visits that were in progress, and at
    once when there are none."""
    parts = Parts(peers=0, lame_duck=3600.0)
    leaving = asyncio.ensure_future(parts.lifecycle.leave())
    await turns()
    assert parts.calls[-1] == "wait for visits of now"
    parts.visits_of_now_over.set()
    parts.visits_over.set()
    await leaving
    assert "wait for clients" not in parts.calls
    assert parts.calls[-len(SHUT) - 1 :] == [*SHUT, "wait for visits"]


@pytest.mark.parametrize("idle_time", [0.0, 3600.0])
async def test_the_way_out_has_an_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, idle_time: float
) -> None:
    """After the grace period idle visits are closed, and the others cut, which is logged. A visit cannot be idle that
    was not looked at for long enough."""
    monkeypatch.setattr("portway_relay.lifecycle._IDLE_TIME", idle_time)
    parts = Parts(grace=0.01)
    with caplog.at_level("INFO"):
        await parts.lifecycle.leave()
    assert ("close a visit, if idle" in parts.calls) is (idle_time == 0.0)
    assert "visits are cut" in caplog.text


async def test_a_removed_node_sends_its_clients_away_and_then_listens_no_more() -> None:
    """Visitors that still arrive could not be forwarded; those that are here finish."""
    parts = Parts(lame_duck=3600.0)
    parts.lifecycle.remove()
    parts.lifecycle.obey(NODE_STATE_READY)
    assert parts.lifecycle.state == NODE_STATE_DRAINING
    asked = "ask to leave: this node was removed from the cluster"
    assert parts.calls == [asked]
    leaving = asyncio.ensure_future(parts.lifecycle.leave())
    await turns()
    parts.clients_gone.set()
    await turns()
    assert parts.calls == [asked, "tell the registry", "wait for clients", *SHUT, "wait for visits"]
    parts.visits_over.set()
    await leaving


async def test_other_nodes_are_told_each_state() -> None:
    """By itself, since no registry may be there: they answer DNS, and send no visitor to a node that leaves."""
    parts = Parts()
    parts.lifecycle.obey(NODE_STATE_CORDONED)
    parts.lifecycle.obey(NODE_STATE_READY)
    assert parts.peers.told == [NODE_STATE_CORDONED, NODE_STATE_READY]
    parts.clients_gone.set()
    parts.visits_over.set()
    await parts.lifecycle.leave()
    assert parts.peers.told[2:] == [NODE_STATE_DRAINING]
    removed = Parts()
    removed.lifecycle.remove()
    assert removed.peers.told == [NODE_STATE_DRAINING]


async def test_a_node_that_stops_takes_no_orders() -> None:
    """An order that crosses the stop does not welcome clients again."""
    parts = Parts(peers=0)
    parts.visits_over.set()
    parts.visits_of_now_over.set()
    await parts.lifecycle.leave()
    before = list(parts.calls)
    parts.lifecycle.obey(NODE_STATE_CORDONED)
    assert parts.calls == before
    assert parts.lifecycle.state == NODE_STATE_DRAINING


async def test_a_node_without_a_certificate_for_its_own_names_gets_no_clients() -> None:
    """Their addresses would be good for nothing. Registries are told that it is cordoned, whatever it does."""
    parts = Parts()
    parts.serves_own_zone.clear()
    assert parts.lifecycle.state == NODE_STATE_CORDONED
    parts.lifecycle.obey(NODE_STATE_DRAINING)
    assert parts.lifecycle.state == NODE_STATE_DRAINING
    parts.lifecycle.obey(NODE_STATE_READY)
    parts.serves_own_zone.set()
    assert parts.lifecycle.state == NODE_STATE_READY
