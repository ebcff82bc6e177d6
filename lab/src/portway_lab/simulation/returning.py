"""A client whose node fell silent: what it does until its tunnel is served again, as portway.engine does it.

A generator that yields the time at which it is to be resumed. Order of nodes, race, pauses and the use of a node's
hints are the client's own code. Not here: what nodes answer (storm.py).
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Final

from portway.engine.dialogue import SessionCredentials
from portway.engine.failures import hint_seconds, pauses, spread_hint
from portway.engine.foreseen_race import foreseen_race
from portway.engine.grpc_registries import CALL_TIMEOUT
from portway.engine.race_rule import STAGGER
from portway.engine.search import RESUME_HEAD_START, Resumption, in_order
from portway_carrier.values import Limits, SpareSizes
from portway_geo.position import Position

from portway_lab.simulation.assumptions import ANSWER_ROUND_TRIPS, LOCATE_ROUND_TRIPS
from portway_lab.simulation.paths import seconds
from portway_lab.simulation.storm import NODE_LIMITS, Storm

CARRIER_LIMITS: Final = Limits()
_SWEEP: Final = 1.0  # seconds between the carrier's looks at its lanes
# Not a real key: the order of nodes depends only on whether there is one.
_KEY: Final = SessionCredentials(b"", b"")

Resumptions = Generator[float, None, None]  # the times at which a client is to be resumed


@dataclass(frozen=True, slots=True)
class Lost:
    """A session of the region: its home node, its client's candidates, GeoIP's position, its round trips by region."""

    home: int
    known: Sequence[int]
    guess: Position | None
    row: Sequence[float]


class Returning:
    """One client. `replicas` are the regions of the registry's replicas; `served` is called with the new node."""

    def __init__(self, storm: Storm, lost: Lost, replicas: Sequence[int], served: Callable[[int], None]) -> None:
        self._storm = storm
        self._lost = lost
        self._known = list(lost.known)
        self._replicas = replicas
        self._served = served
        self._not_before: dict[int, float] = {}  # nodes that asked not to be dialled before

    def run(self) -> Resumptions:
        """From the region's death on. Yields times in seconds after it."""
        storm, lost = self._storm, self._lost
        # The last frame came at most one interval before the death.
        silence = CARRIER_LIMITS.ping_interval * CARRIER_LIMITS.silences
        age = storm.rng.uniform(0.0, CARRIER_LIMITS.ping_interval)
        noticed = silence - age + storm.rng.uniform(0.0, _SWEEP)
        yield noticed
        node = None
        for pause in pauses():
            yield storm.now + max(pause, self._hinted_pause())
            resume = storm.now < noticed + NODE_LIMITS.resume_time
            tried = self._in_order(resume)
            node = yield from self._first_to_accept(tried, resume)
            if node is None:
                yield from self._locate()
                fresh = [number for number in self._in_order(resume) if number not in tried]
                node = yield from self._first_to_accept(fresh, resume)
            if node is not None:
                break
        assert node is not None, "pauses have no end"
        round_trip = lost.row[storm.fleet.nodes[node].region]
        for _ in range(SpareSizes().quiet):  # the session's lanes, dialled beside BIND
            storm.shake(node, storm.now + 1.5 * round_trip / 1000)
        yield storm.now + seconds(round_trip, ANSWER_ROUND_TRIPS, storm.rng)
        self._served(node)

    def _hinted_pause(self) -> float:
        if not self._known:
            return 0.0
        now = self._storm.now
        return max(0.0, min(self._not_before.get(number, now) for number in self._known) - now)

    def _in_order(self, resume: bool) -> list[int]:
        """The nodes to dial in the client's order, without those that asked not to be dialled yet."""
        fleet, now = self._storm.fleet, self._storm.now
        left = fleet.nodes[self._lost.home].dialled
        resumption = Resumption(left.name, _KEY) if resume else None
        ordered = in_order([fleet.nodes[number].dialled for number in self._known], resumption, None, left)
        numbers = (fleet.by_name[node.name] for node in ordered)
        return [number for number in numbers if self._not_before.get(number, now) <= now]

    def _locate(self) -> Resumptions:
        """Ask the replicas in random order; one in the dead region costs the time limit of a call."""
        storm = self._storm
        for region in storm.rng.sample(self._replicas, len(self._replicas)):
            if region == storm.death.region:
                yield storm.now + CALL_TIMEOUT
                continue
            yield storm.now + seconds(self._lost.row[region], LOCATE_ROUND_TRIPS, storm.rng)
            storm.death.locates[int(storm.now)] += 1
            ranked = storm.fleet.candidates(self._lost.guess)
            self._known = [storm.fleet.by_name[one.node.name] for one in ranked]
            return

    def _first_to_accept(self, order: Sequence[int], resume: bool) -> Generator[float, None, int | None]:
        storm, row = self._storm, self._lost.row
        nodes = storm.fleet.nodes
        running = foreseen_race(
            order,
            lambda number, at: storm.dial(number, at, row[nodes[number].region]),
            storm.now,
            RESUME_HEAD_START if resume else STAGGER,
        )
        try:
            step = next(running)
            while True:
                if step.ready is None:
                    yield step.at
                else:
                    yield storm.now + seconds(row[nodes[step.ready].region], ANSWER_ROUND_TRIPS, storm.rng)
                    wait = storm.hello(step.ready)
                    if wait is None:
                        return step.ready
                    if wait:
                        self._not_before[step.ready] = storm.now + spread_hint(hint_seconds(round(wait * 1000)))
                step = running.send(storm.now)
        except StopIteration:
            return None
        finally:
            running.close()
