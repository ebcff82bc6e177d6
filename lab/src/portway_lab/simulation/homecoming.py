"""A region that is there again: clients that fled from it look for a nearer node and go back, as portway.engine does.

When they look, what they dial and where they go is the client's own rule. Here: time, what a look finds, counts. Not
here: their flight (region_death.py).
"""

import heapq
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from portway.config import ReturnTimes
from portway.engine.return_rule import Measured, NamedNode, ReturnRule, clearly_nearer
from portway.engine.returns import MANY_CANDIDATES
from portway_registry.placement.placed_nodes import placed_node

from portway_lab.simulation.arrivals import Sessions
from portway_lab.simulation.assumptions import HANDSHAKE_ROUND_TRIPS, HANDSHAKE_SECONDS, NOISE_MEAN_MS
from portway_lab.simulation.clients import Prefix
from portway_lab.simulation.fleet import Fleet
from portway_lab.simulation.learning import Learning
from portway_lab.simulation.paths import Paths, seconds

LASTS: Final = 3600  # seconds that are simulated
READY_AFTER: Final = 60.0  # seconds after the flight
SAMPLE: Final = 10_000  # clients, at most: each look of each of them is a Locate of its own
_MS: Final = 1000.0
_NOISE_MS: Final = 3 * NOISE_MEAN_MS  # one dial of twenty has more


@dataclass(slots=True)
class Homecoming:
    """The result. Times in seconds after the flight; counters by whole seconds.

    away: the clients to which the region is clearly nearer than the node that they fled to, by more than the noise of a
    dial. back: when each of them went to a node there, or to another one that the region is not clearly nearer than.
    """

    region: int
    clients: int = 0
    away: int = 0
    back: list[float] = field(default_factory=list)
    moved: int = 0  # clients, of all
    more_than_once: int = 0
    looks: Counter[int] = field(default_factory=Counter)
    dials: Counter[int] = field(default_factory=Counter)
    postponed: int = 0  # by the node that they went to
    before_ms: list[float] = field(default_factory=list)
    away_ms: list[float] = field(default_factory=list)
    after_ms: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _Client:
    rule: ReturnRule
    prefix: int
    node: int
    replica: int
    away: bool
    moves: int = 0


def come_back(
    region: int,
    fleet: Fleet,
    sessions: Sessions,
    homes: Mapping[int, int],
    prefixes: Sequence[Prefix],
    paths: Paths,
    learning: Learning,
    rng: random.Random,
    *,
    by_location: bool,
) -> Homecoming:
    """Simulate the clients whose sessions are in `homes`, with the nodes that they fled to. Changes the fleet."""
    result = Homecoming(region)
    began = fleet.now
    clients: list[_Client] = []
    for session in rng.sample(sorted(homes), min(SAMPLE, len(homes))):
        prefix, node = sessions.prefix[session], homes[session]
        row = paths.row(prefix)
        fled_to = fleet.nodes[node]
        rule = ReturnRule(ReturnTimes(), by_location=by_location, chance=rng.random)
        rule.measured(0.0, fleet.regions[region].name, row[region])
        rule.measured(0.0, fled_to.dialled.region, row[fled_to.region])
        expected = {one.node.name: one.expected_rtt_ms for one in fleet.candidates(prefixes[prefix].guess)}
        name = fled_to.dialled.name
        rule.attached(0.0, name, fled_to.dialled.region, expected.get(name, 0.0))
        away = clearly_nearer(row[region] + _NOISE_MS, row[fled_to.region])
        clients.append(_Client(rule, prefix, node, learning.replica(), away))
        if away:
            result.before_ms.append(row[region])
            result.away_ms.append(row[fled_to.region])
    result.away = len(result.away_ms)
    result.clients = len(clients)
    due = [(client.rule.look_at, number) for number, client in enumerate(clients)]
    heapq.heapify(due)
    second, ready = 0, False
    while due[0][0] < LASTS:
        now, number = due[0]
        client = clients[number]
        if not ready and now >= READY_AFTER:
            _start(region, fleet)
            ready = True
        while second < int(now):
            second += 1
            fleet.report(second)
        fleet.now = began + now
        _look(client, now, fleet, prefixes[client.prefix], paths.row(client.prefix), learning, rng, result)
        heapq.heapreplace(due, (client.rule.look_at, number))
    for client in clients:
        result.moved += client.moves > 0
        result.more_than_once += client.moves > 1
    return result


def looks_of_a_session(seconds: float) -> int:
    """The times that a session of this length looks for a nearer node, in the mean."""
    rule = ReturnRule(ReturnTimes(), chance=lambda: 0.5)
    rule.attached(0.0, "", "", 0.0)
    looks = 0
    while rule.look_at < seconds:
        looks += 1
        rule.looked(rule.look_at)
    return looks


def _start(region: int, fleet: Fleet) -> None:
    for number in fleet.of_region(region):
        node = fleet.nodes[number]
        node.alive, node.live.sessions, node.live.tunnels = True, 0, 0
        node.stored.CopyFrom(node.live)
        fleet.places.put(placed_node(node.stored))


def _look(
    client: _Client,
    now: float,
    fleet: Fleet,
    prefix: Prefix,
    row: Sequence[float],
    learning: Learning,
    rng: random.Random,
    result: Homecoming,
) -> None:
    result.looks[int(now)] += 1
    learned = learning.learned(client.replica, prefix)
    ranked = fleet.candidates(prefix.guess, learned)
    if client.rule.misses(now, {one.node.region for one in ranked}):
        result.looks[int(now)] += 1
        ranked = fleet.candidates(prefix.guess, learned, MANY_CANDIDATES)
    named = [NamedNode(one.node.name, one.node.region, one.expected_rtt_ms, one.node.penalty_ms) for one in ranked]
    rivals = client.rule.to_dial(now, named)
    if not rivals:
        return
    result.dials[int(now)] += 1 + len(rivals)
    measured = {name: _dial(row[fleet.nodes[fleet.by_name[name]].region], rng) for name in rivals}
    home = _dial(row[fleet.nodes[client.node].region], rng)
    target = client.rule.dialled(now, home, measured)
    if target is None:
        return
    client.rule.returning(now)
    number = fleet.by_name[target]
    if fleet.admit(number) is not None:
        result.postponed += 1
        return
    fleet.detach(client.node)
    client.node = number
    client.moves += 1
    if client.away and not clearly_nearer(row[result.region], row[fleet.nodes[number].region]):
        client.away = False
        result.back.append(now)
        result.after_ms.append(row[fleet.nodes[number].region])
    expected = next(one.expected_rtt_ms for one in ranked if one.node.name == target)
    client.rule.attached(now, target, fleet.nodes[number].dialled.region, expected)


def _dial(round_trip_ms: float, rng: random.Random) -> Measured:
    handshake = seconds(round_trip_ms, HANDSHAKE_ROUND_TRIPS, rng) + HANDSHAKE_SECONDS
    return Measured(seconds(round_trip_ms, 1, rng) * _MS, handshake * _MS)
