"""When a session goes to a nearer node: back to the one that was restarted, or to one that is new. No clock, no I/O.

A session **looks** for a nearer node now and then: a registry names nodes, and those that may be clearly nearer are
dialled beside its own. One that is found nearer is looked at once more, at least `ready` seconds and up to `spread`
later. If its region is still clearly nearer, the session goes there. So a node is left alone while it starts, and
clients that lost a node together do not come back together. Regions are remembered, not nodes: of a region with many
nodes a registry names others each time.

No circles: what is nearer by less than MARGIN_MS or a third is no reason to go; two measurements, a while apart, must
say so; and after each return there is a pause, twice as long as the one before if that was not long ago. A node that
ends whenever somebody has come, and two nodes whose round trips take turns, are gone to ever more rarely.

ReturnRule is the rule; its caller asks, dials, moves, and passes the time: the client (returns.py), `portway netcheck`
(survey.py), the simulation.
"""

import math
import random
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from portway_runtime.bounded import BoundedMap

from portway.config import ReturnTimes

# Milliseconds, and the share of the longer round trip: two nodes of one city, or of two on the same coast, are equals.
MARGIN_MS: Final = 10.0
MARGIN_SHARE: Final = 1 / 3
# Nodes that one look dials beside the session's own, each of another region: as many rivals as a race has.
RIVALS: Final = 2
# The pause after a return is doubled up to this many times `pause`; without one for QUIET pauses it is `pause` again.
LONGEST_PAUSE: Final = 32.0
QUIET: Final = 4.0
# Seconds for which the round trip that was measured to a region counts more than what a registry expects.
REMEMBERED_FOR: Final = 3600.0
_REMEMBERED: Final = 64


@dataclass(frozen=True, slots=True)
class NamedNode:
    """A node that a registry names: the round trip that it expects, 0 if it knows none, and what load adds, in ms."""

    name: str
    region: str
    expected_ms: float = 0.0
    load_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Measured:
    """A dial in milliseconds: the kernel's round trip, and the time until TLS was ready.

    A node can make the kernel's shorter than it is, by acknowledging what has not arrived yet. It cannot answer a
    handshake that it has not received, so `ready_ms` must be shorter as well.
    """

    ms: float
    ready_ms: float


def clearly_nearer(ms: float, than_ms: float) -> bool:
    """Whether a round trip is shorter by MARGIN_MS and by MARGIN_SHARE."""
    return than_ms - ms >= max(MARGIN_MS, MARGIN_SHARE * than_ms)


class ReturnRule:
    """The returns of one session. Every method takes the current time in seconds, of a clock that never goes back.

    look_at: when to look next; infinite while there is no session.
    """

    def __init__(
        self, times: ReturnTimes, *, by_location: bool = False, chance: Callable[[], float] = random.random
    ) -> None:
        """`by_location`: what a registry expects decides in place of what was measured. `chance`: from 0 to 1."""
        self.look_at = math.inf
        self._times = times
        self._by_location = by_location
        self._chance = chance
        self._home = self._home_region = ""
        self._home_ms: float | None = None
        self._interval = times.look
        self._named: dict[str, NamedNode] = {}
        self._measured: BoundedMap[str, tuple[float, float]] = BoundedMap(_REMEMBERED)  # by region
        self._nearer_since: dict[str, float] = {}  # by region
        self._returned_at = -math.inf
        self._pause = times.pause

    def measured(self, now: float, region: str, ms: float) -> None:
        """A round trip to a node of this region was measured in passing, by a race."""
        self._measured[region] = (ms, now)

    def attached(self, now: float, home: str, region: str, expected_ms: float) -> None:
        """The session is at the node `home`, so many milliseconds away as a registry has it; 0 if it has not said."""
        self._home, self._home_region = home, region
        self._home_ms = (expected_ms or None) if self._by_location else self._remembered(region, now)
        self._nearer_since.clear()
        self._interval = self._times.look
        self.looked(now)

    def detached(self) -> None:
        """The session is at no node, or about to go to another one."""
        self.look_at = math.inf

    def misses(self, now: float, regions: Collection[str]) -> bool:
        """Whether a registry that names these regions leaves out one that was measured to be clearly nearer."""
        if self._home_ms is None or self._by_location:
            return False
        return any(
            region not in regions and now - at < REMEMBERED_FOR and clearly_nearer(ms, self._home_ms)
            for region, (ms, at) in self._measured.items()
        )

    def to_dial(self, now: float, named: Iterable[NamedNode]) -> tuple[str, ...]:
        """The nodes to dial beside the session's own, of those that a registry names now. Without any the look is
        over."""
        self._named = {node.name: node for node in named}
        regions = {node.region for node in self._named.values()}
        self._nearer_since = {region: at for region, at in self._nearer_since.items() if region in regions}
        home = self._named.get(self._home)
        if self._by_location and home is not None and home.expected_ms:
            self._home_ms = home.expected_ms
        ordered = sorted(
            (node for node in self._named.values() if node is not home and self._may_be_nearer(node, now)),
            key=lambda node: (node.region not in self._nearer_since, self._estimate(node, now) or math.inf),
        )
        chosen: dict[str, str] = {}
        for node in ordered:
            chosen.setdefault(node.region, node.name)
        if not chosen:
            self.looked(now)
        return tuple(chosen.values())[:RIVALS]

    def dialled(self, now: float, home: Measured | None, rivals: Mapping[str, Measured]) -> str | None:
        """What the dials of a look measured, without the nodes that were not reached; `home` is None if that was not.
        Returns the node to go to now; with None the look is over."""
        for name, one in rivals.items():
            self.measured(now, self._named[name].region, one.ms)
        if home is None and not self._by_location:
            self.looked(now)
            return None
        if home is not None and not self._by_location:
            self._home_ms = home.ms
            self.measured(now, self._home_region, home.ms)
        nearer = {name: self._cost(name, one) for name, one in rivals.items() if self._is_nearer(name, one, home)}
        regions = {name: self._named[name].region for name in nearer}
        self._nearer_since = {region: self._nearer_since.get(region, now) for region in regions.values()}
        if not nearer:
            self.looked(now)
            return None
        best = min(nearer, key=nearer.__getitem__)
        steady = [name for name in nearer if now >= self._nearer_since[regions[name]] + self._times.ready]
        target = min(steady, key=nearer.__getitem__, default=None)
        waits = target is None or clearly_nearer(nearer[best], nearer[target]) or now < self._may_return_at
        if not waits:
            return target
        spread = self._times.spread if target is None else self._times.ready
        ready_at = self._nearer_since[regions[best]] + self._times.ready
        self.look_at = max(ready_at, self._may_return_at) + self._chance() * spread
        return None

    def returning(self, now: float) -> None:
        """The session tries to go to the node that `dialled` returned. It may fail, and counts nevertheless."""
        recent = now - self._returned_at < QUIET * self._pause
        longest = LONGEST_PAUSE * self._times.pause
        self._pause = min(2 * self._pause, longest) if recent else self._times.pause
        self._returned_at = now
        self._nearer_since.clear()
        self.looked(now)

    def looked(self, now: float) -> None:
        """A look is over, or was not possible: the next one comes after twice the time."""
        self.look_at = now + self._interval * (0.5 + self._chance())
        self._interval = min(2 * self._interval, max(self._times.rest, self._times.look))

    @property
    def _may_return_at(self) -> float:
        return self._returned_at + self._pause

    def _estimate(self, node: NamedNode, now: float) -> float | None:
        """Milliseconds to it; None if nothing is known."""
        own = self._by_location or node.region == self._home_region
        measured_ms = None if own else self._remembered(node.region, now)
        return measured_ms if measured_ms is not None else node.expected_ms or None

    def _remembered(self, region: str, now: float) -> float | None:
        ms, at = self._measured.get(region, (0.0, -math.inf))
        return ms if now - at < REMEMBERED_FOR else None

    def _may_be_nearer(self, node: NamedNode, now: float) -> bool:
        """Of nodes in the session's own region, one of which nothing is known is as near as its own."""
        estimate = self._estimate(node, now)
        if estimate is None or self._home_ms is None:
            return not self._by_location and node.region != self._home_region
        return self._pays(estimate, self._home_ms, node.load_ms)

    def _is_nearer(self, name: str, one: Measured, home: Measured | None) -> bool:
        node = self._named[name]
        if self._home_ms is None:
            return False
        if self._by_location or home is None:
            return self._pays(node.expected_ms, self._home_ms, node.load_ms)
        return self._pays(one.ms, home.ms, node.load_ms) and one.ready_ms + MARGIN_MS <= home.ready_ms

    def _pays(self, ms: float, home_ms: float, load_ms: float) -> bool:
        """Load counts as it does when a node is chosen, but is by itself no reason to leave one."""
        home = self._named.get(self._home)
        home_load_ms = 0.0 if home is None else home.load_ms
        return clearly_nearer(ms, home_ms) and clearly_nearer(ms + load_ms, home_ms + home_load_ms)

    def _cost(self, name: str, one: Measured) -> float:
        node = self._named[name]
        return (node.expected_ms if self._by_location else one.ms) + node.load_ms
