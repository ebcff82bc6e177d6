"""Nodes that were raced and not taken: they see nothing odd, say nothing, and keep nothing."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing

import pytest
from portway.engine import race_rule as racing
from portway.engine.dialling import RaceRecord, race
from portway.engine.directory import Node
from portway_carrier.select import make_carrier
from portway_runtime.endpoints import Endpoint
from portway_testkit.clusters.cluster import LOOPBACK, Cluster, NodePlan, RunningNode
from portway_testkit.waiting import eventually

ROUNDS = 10


def dialled(node: RunningNode) -> Node:
    name = node.config.name
    return Node(name, node.config.region, Endpoint(LOOPBACK, node.port), node.config.server_name, node.config.domain)


async def taken(nodes: list[Node], ca: bytes) -> str:
    """The winner of one race between all of them at once, let go at once."""
    carrier = make_carrier()
    course = RaceRecord()
    try:
        async with aclosing(race(carrier, nodes, ca, course, 0.0)) as ready:
            async for node, stream in ready:
                stream.abort()
                return node.name
        raise AssertionError(f"nobody was ready: {course.attempts}")
    finally:
        await carrier.close()


def odd(node: RunningNode) -> dict[str, float]:
    """Every count of a node that a trouble-free client leaves at 0."""
    counts = node.metrics()
    names = ("handshakes_failed_total", "half_open_connections", "greeting_lanes", "sessions", "sessions_away")
    return {
        name: value
        for name, value in counts.items()
        if value and (name in names or name.startswith(("turned_away", "visits_ended")))
    }


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the parts that clients meet have logged; what a node says of peers and registries is another matter."""
    parts = ("portway_proto", "portway_relay.ingress", "portway_relay.sessions", "asyncio")
    return [record.getMessage() for record in caplog.records if record.name.startswith(parts)]


def test_losers_leave_no_trace(
    start_cluster: Callable[..., Cluster], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropped before, in or after their handshakes: no failed handshake is counted, no line logged, no lane kept."""
    monkeypatch.setattr(racing, "STAGGER", 0.0)
    cluster = start_cluster(*(NodePlan(f"{region}-1", region) for region in ("fra", "par", "syd")))
    nodes = [dialled(node) for node in cluster.nodes.values()]
    ca = cluster.ca.read_bytes()
    eventually(lambda: all(node.metrics()["registry_connected"] for node in cluster.nodes.values()))
    caplog.clear()
    with caplog.at_level(logging.INFO):
        winners = [asyncio.run(taken(nodes, ca)) for _ in range(ROUNDS)]
        assert set(winners) <= set(cluster.nodes)
        eventually(
            lambda: [odd(node) for node in cluster.nodes.values()] == [{}, {}, {}],
            shown=lambda: [odd(node) for node in cluster.nodes.values()],
        )
    assert said(caplog) == []


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 8, 13, 21])
def test_a_loser_may_be_dropped_at_any_moment(
    start_cluster: Callable[..., Cluster], caplog: pytest.LogCaptureFixture, steps: int
) -> None:
    """So many turns of the client's loop after it was dialled."""
    cluster = start_cluster()
    node, ca = dialled(cluster.node), cluster.ca.read_bytes()

    async def give_up() -> None:
        carrier = make_carrier()
        ready = race(carrier, [node], ca, RaceRecord(), 0.0)
        waiting = asyncio.ensure_future(anext(ready))
        for _ in range(steps):
            await asyncio.sleep(0.001)
        waiting.cancel()
        await asyncio.wait([waiting])
        await ready.aclose()
        await carrier.close()

    caplog.clear()
    with caplog.at_level(logging.INFO):
        asyncio.run(give_up())
        eventually(lambda: odd(cluster.node) == {}, shown=lambda: odd(cluster.node))
    assert said(caplog) == []
