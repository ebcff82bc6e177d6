"""Round trips that clients have measured, by the prefix of their address; kept in memory, forgotten in time.

What is learned is learned for a place, that is a region's nodes at one position: the same path leads to all of them, so
that a few reports tell about many nodes, and nodes of one place stay equals. A node that is reached otherwise than its
place is kept apart. A token's newer values weigh more than its older ones, and the median over tokens counts, of
SEVERAL at the least: one token alone decides nothing, and whoever has a few can mislead clients of his own prefix only.

Here: what is kept, how long, and what it comes to. Not here: who may report how much (reports.py), the order of nodes
(order.py). Time is an argument, in seconds of any one clock.
"""

import ipaddress
import statistics
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from portway_geo.position import Position, distance_km, light_round_trip_ms

from portway_registry.placement.placed_nodes import Place, PlacedNode

# What providers announce at the least, and so what takes one way through the Internet: longer IPv4 prefixes than /24
# and longer IPv6 ones than /48 are not routed.
IPV4_PREFIX_BYTES: Final = 3
IPV6_PREFIX_BYTES: Final = 6
# With three, one that lies moves the median no farther than to an honest one's value.
SEVERAL: Final = 3
# Ways through the Internet change within hours, not minutes; and a way that was slow once is not tried first again,
# which only forgetting it puts right.
LIFETIME: Final = 2 * 3600.0
# A token's value so old weighs a quarter against its next one; one just told weighs half.
HALF_LIFE: Final = 600.0
# A client gives up dialling after 3 s, which is two round trips.
LONGEST_MS: Final = 1_500.0
# A client's position is the middle of a whole degree's field: its corner is so far away.
POSITION_ERROR_KM: Final = 80.0
# A node differs from its place by more than both, or it is taken for an equal of its neighbours.
APART_MS: Final = 2.0
APART_SHARE: Final = 0.25
# An odd number has a median of its own; more tokens tell no more.
MOST_TOKENS: Final = 9
# Of one prefix: places and nodes. Clients try a handful.
MOST_SUBJECTS: Final = 64
# Of all prefixes, some 320 bytes each: 32 MB. The prefix that was asked for and told of longest ago is forgotten first.
MOST_SAMPLES: Final = 100_000

Prefix = bytes
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """One measurement of a client's. `at_least`: it gave up after so long, the true one is not shorter."""

    node: PlacedNode
    ms: float
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Expected:
    """What several tokens' clients came to; not `exact`: the true one is not shorter."""

    ms: float
    exact: bool

    def beside(self, estimate: float) -> float:
        """What to expect where this distance alone would give `estimate`."""
        return self.ms if self.exact else max(self.ms, estimate)


@dataclass(frozen=True, slots=True)
class Learned:
    """What is known for one prefix: of places, and of the nodes by name that are not like their place."""

    places: Mapping[Place, Expected] = field(default_factory=dict)
    nodes: Mapping[str, Expected] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.places or self.nodes)


NOTHING: Final = Learned()


def prefix_of(address: Address) -> Prefix:
    """What clients that share a way through the Internet have in common. Those of IPv4 and IPv6 differ in length."""
    return address.packed[: IPV4_PREFIX_BYTES if address.version == 4 else IPV6_PREFIX_BYTES]


def possible(trip: RoundTrip, client: Position | None) -> bool:
    """Whether light in fibre could have done it, from where the client is thought to be; and not absurdly long."""
    if not 0 < trip.ms <= LONGEST_MS:  # which not-a-number is not, either
        return False
    if trip.at_least or client is None or trip.node.position is None:
        return True
    km = distance_km(client, trip.node.position) - POSITION_ERROR_KM
    return trip.ms >= light_round_trip_ms(max(0.0, km))


@dataclass(frozen=True, slots=True)
class _Sample:
    """A token's word on one subject."""

    ms: float
    exact: bool
    at: float


@dataclass(slots=True)
class _Reports:
    """What clients of one prefix said: by place or node, then by token; the least recently told first in each."""

    samples: OrderedDict[Place | str, OrderedDict[str, _Sample]] = field(default_factory=OrderedDict)
    places: dict[str, Place] = field(default_factory=dict)  # of the nodes among them
    learned: Learned | None = None  # what it comes to, until somebody says more or `good_until`
    good_until: float = 0.0  # nothing in it is too old before; what is told later is younger


class RoundTrips:
    """All that was reported and is not too old."""

    def __init__(self, most_samples: int = MOST_SAMPLES) -> None:
        self._most_samples = most_samples
        self._prefixes: OrderedDict[Prefix, _Reports] = OrderedDict()
        self.samples = 0

    def __len__(self) -> int:
        """The prefixes that something is known of."""
        return len(self._prefixes)

    def report(self, prefix: Prefix, token: str, trips: Iterable[RoundTrip], now: float) -> None:
        """What a client with this token has measured, all at once, each of them `possible`."""
        reports = self._prefixes.setdefault(prefix, _Reports())
        self._prefixes.move_to_end(prefix)
        reports.learned = None
        by_place: dict[Place, RoundTrip] = {}
        for trip in trips:
            place, name = trip.node.place, trip.node.name
            if reports.places.get(name, place) != place:  # it was moved
                self._drop(reports, name)
            reports.places[name] = place
            self._note(reports, name, token, trip, now)
            best = by_place.get(place)
            # How near a place is its nearest node says; of one that was given up nothing is known but a bound.
            if best is None or (trip.at_least, trip.ms) < (best.at_least, best.ms):
                by_place[place] = trip
        for place, trip in by_place.items():
            self._note(reports, place, token, trip, now)
        while self.samples > self._most_samples:
            _, forgotten = self._prefixes.popitem(last=False)
            self.samples -= sum(map(len, forgotten.samples.values()))

    def learned(self, prefix: Prefix, now: float) -> Learned:
        """What several tokens agree on; quick, for it is worked out once for each report."""
        reports = self._prefixes.get(prefix)
        if reports is None:
            return NOTHING
        if reports.learned is None or now >= reports.good_until:
            if now >= reports.good_until:
                self._forget(reports, now - LIFETIME)
                if not reports.samples:
                    del self._prefixes[prefix]
                    return NOTHING
                reports.good_until = LIFETIME + min(
                    sample.at for samples in reports.samples.values() for sample in samples.values()
                )
            reports.learned = _conclusion(reports)
        self._prefixes.move_to_end(prefix)
        return reports.learned

    def _note(self, reports: _Reports, subject: Place | str, token: str, trip: RoundTrip, now: float) -> None:
        samples = reports.samples.setdefault(subject, OrderedDict())
        reports.samples.move_to_end(subject)
        before = samples.pop(token, None)
        self.samples += before is None
        samples[token] = _joined(before, trip, now)
        if len(samples) > MOST_TOKENS:
            samples.popitem(last=False)
            self.samples -= 1
        if len(reports.samples) > MOST_SUBJECTS:
            self._drop(reports, next(iter(reports.samples)))

    def _drop(self, reports: _Reports, subject: Place | str) -> None:
        self.samples -= len(reports.samples.pop(subject, ()))
        if isinstance(subject, str):
            reports.places.pop(subject, None)

    def _forget(self, reports: _Reports, before: float) -> None:
        """Drop what was said before a time."""
        for subject, samples in list(reports.samples.items()):
            for token, sample in list(samples.items()):
                if sample.at <= before:
                    del samples[token]
                    self.samples -= 1
            if not samples:
                self._drop(reports, subject)


def _joined(before: _Sample | None, trip: RoundTrip, now: float) -> _Sample:
    """A token's new word together with what it said before."""
    new = _Sample(trip.ms, not trip.at_least, now)
    if before is None or now - before.at >= LIFETIME:
        return new
    if trip.at_least:
        # A lower bound that was known says nothing, and keeps nothing alive.
        stale = not before.exact and now - before.at >= HALF_LIFE
        return new if stale or trip.ms > before.ms else before
    if not before.exact:
        return new
    weight = 0.5 ** (1 + (now - before.at) / HALF_LIFE)
    return _Sample(trip.ms + (before.ms - trip.ms) * weight, True, now)


def _conclusion(reports: _Reports) -> Learned:
    places: dict[Place, Expected] = {}
    nodes: dict[str, Expected] = {}
    for subject, samples in reports.samples.items():
        expected = _median(samples.values())
        if expected is None:
            continue
        if isinstance(subject, str):
            nodes[subject] = expected
        else:
            places[subject] = expected
    apart = {name: own for name, own in nodes.items() if _differ(own, places.get(reports.places[name]))}
    return Learned(places, apart)


def _median(samples: Iterable[_Sample]) -> Expected | None:
    """Of several exact values; of too few, of the bounds with them, which is a bound."""
    told = list(samples)
    exact = [sample.ms for sample in told if sample.exact]
    if len(exact) >= SEVERAL:
        return Expected(statistics.median(exact), True)
    if len(told) >= SEVERAL:
        return Expected(statistics.median_low(sample.ms for sample in told), False)
    return None


def _differ(own: Expected, place: Expected | None) -> bool:
    if place is None:
        return True
    if not own.exact and own.ms <= place.ms:
        return False  # it tells nothing that is not known of its place
    return abs(own.ms - place.ms) > max(APART_MS, APART_SHARE * place.ms)
