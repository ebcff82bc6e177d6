"""A node's state: orders of operators, and the way out when it stops."""

import asyncio
from typing import Any

import pytest
from portway_proto.v1.types_pb2 import NODE_STATE_CORDONED, NODE_STATE_DRAINING, NODE_STATE_READY
from portway_relay.lifecycle import Lifecycle


class Parts:
    """All parts that a Lifecycle acts on; `calls` is what it asked of them, in order."""

    def __init__(self, *, peers: int = 1, grace: float = 30.0) -> None:
        self.calls: list[str] = []
        self.clients_gone = asyncio.Event()
        self.visits_over = asyncio.Event()
        self.peers = range(peers)
        self.running = 3
        self.paused = 0
        self.raw: Any = self
        parts: Any = self
        sessions: Any = Sessions(self)
        http_port: Any = HttpPort(self)
        self.lifecycle = Lifecycle(sessions, parts.peers, parts, parts, parts, http_port, parts, grace=grace)

    # The visits, the public port, the tunnels, the outbox.

    async def over(self) -> None:
        self.calls.append("wait for visits")
        await self.visits_over.wait()

    async def stop_listening(self, *, within: float) -> None:
        self.calls.append("stop listening")

    def all_live(self) -> list[Any]:
        return [self]

    def pause(self) -> None:
        self.paused += 1

    def state_changed(self) -> None:
        self.calls.append("tell the registry")


class HttpPort:
    """The plain HTTP port of Parts."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def stop_listening(self, *, within: float) -> None:
        self._parts.calls.append("stop redirecting")


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
    """The registry and the clients are told; clients leave, then visits; the ports close while nobody is left."""
    parts = Parts()
    leaving = asyncio.ensure_future(parts.lifecycle.leave())
    await asyncio.sleep(0)
    assert parts.lifecycle.state == NODE_STATE_DRAINING
    told = ["tell the registry", "ask to leave: this node is stopping"]
    assert parts.calls == [*told, "wait for clients"]
    parts.clients_gone.set()
    parts.visits_over.set()
    await leaving
    waited = ("wait for clients", "wait for visits", "stop listening", "stop redirecting", "wait for visits")
    assert parts.calls == [*told, *waited]
    assert parts.paused == 1


async def test_clients_without_another_node_stay() -> None:
    """They could attach nowhere; only visits are waited for."""
    parts = Parts(peers=0)
    parts.visits_over.set()
    await parts.lifecycle.leave()
    assert "wait for clients" not in parts.calls


async def test_the_way_out_has_an_end(caplog: pytest.LogCaptureFixture) -> None:
    """After the grace period visits are cut, which is logged."""
    parts = Parts(grace=0.01)
    with caplog.at_level("INFO"):
        await parts.lifecycle.leave()
    assert "visits are cut" in caplog.text


async def test_a_removed_node_sends_its_clients_away_and_then_listens_no_more() -> None:
    """Visitors that still arrive could not be forwarded; those that are here finish."""
    parts = Parts()
    parts.lifecycle.remove()
    parts.lifecycle.obey(NODE_STATE_READY)
    assert parts.lifecycle.state == NODE_STATE_DRAINING
    asked = "ask to leave: this node was removed from the cluster"
    assert parts.calls == [asked]
    leaving = asyncio.ensure_future(parts.lifecycle.leave())
    await asyncio.sleep(0)
    parts.clients_gone.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert parts.calls == [
        *(asked, "tell the registry", "wait for clients"),
        *("stop listening", "stop redirecting", "wait for visits"),
    ]
    parts.visits_over.set()
    await leaving


async def test_a_node_that_stops_takes_no_orders() -> None:
    """An order that crosses the stop does not welcome clients again."""
    parts = Parts(peers=0)
    parts.visits_over.set()
    await parts.lifecycle.leave()
    before = list(parts.calls)
    parts.lifecycle.obey(NODE_STATE_CORDONED)
    assert parts.calls == before
    assert parts.lifecycle.state == NODE_STATE_DRAINING
