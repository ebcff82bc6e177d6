"""Round trips that clients have measured, by the prefix of their address; in memory, for a limited time.

A measurement counts for its node and for the node's place, which is a region's nodes at one position. The same path
leads to all of them, so a few reports tell about many nodes, and the nodes of a place stay equals. A node whose round
trip differs from its place's is an outlier and has its own. Each token counts once, its newer values more than its
older ones. The result is the median over tokens, of at least QUORUM: one token alone decides nothing, and the holder of
several can mislead only clients of the same prefix. docs/decisions/0022-round-trips-are-learned-by-place.md has the
reasons.

Here: what is kept, how long, and what it amounts to. Not here: who may report how much (reports.py), the order of nodes
(order.py). Time is an argument, in seconds of any one clock.
"""

import ipaddress
import statistics
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from portway_runtime.bounded import BoundedMap

from portway_registry.placement.placed_nodes import Place, PlacedNode

# The longest prefixes that providers announce, so addresses that share one share a path: IPv4 prefixes longer than /24
# and IPv6 prefixes longer than /48 are not routed.
IPV4_PREFIX_BYTES: Final = 3
IPV6_PREFIX_BYTES: Final = 6
# Tokens without which nothing is concluded. With three, a lying one moves the median no farther than to an honest one's
# value.
QUORUM: Final = 3
# Seconds. Paths through the Internet change within hours, not minutes; and a node that was slow once is not tried first
# again, so only forgetting corrects it.
LIFETIME: Final = 2 * 3600.0
# Seconds after which a token's value has half the weight against its next one that it has at once (a half).
HALF_LIFE: Final = 600.0
# A node is an outlier when it differs from its place by more than both; else it stays an equal of its neighbours.
OUTLIER_MS: Final = 2.0
OUTLIER_SHARE: Final = 0.25
# Tokens of one subject. An odd number has a median of its own, and more tokens tell no more.
MAX_TOKENS: Final = 9
# Subjects (places and nodes) of one prefix. Clients try a handful.
MAX_SUBJECTS: Final = 64
# Samples of all prefixes: 25 MB where three tokens report each subject, 55 MB where one does. The prefix that was least
# recently used makes room.
MAX_SAMPLES: Final = 100_000

Prefix = bytes
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Measurement:
    """A round trip to a node that a client has measured.

    at_least: the client gave up after `ms`; the true round trip is not shorter.
    """

    node: PlacedNode
    ms: float
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Expected:
    """The round trip to expect, by several tokens' clients. If it is not `exact`, the true one is not shorter."""

    ms: float
    exact: bool

    def beside(self, estimate_ms: float) -> float:
        """The milliseconds to expect where the distance alone would give `estimate_ms`."""
        return self.ms if self.exact else max(self.ms, estimate_ms)


@dataclass(frozen=True, slots=True)
class Learned:
    """What is known for one prefix: of places, and of the outliers by their nodes' names."""

    places: Mapping[Place, Expected] = field(default_factory=dict)
    nodes: Mapping[str, Expected] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.places or self.nodes)


NOTHING: Final = Learned()


def prefix_of(address: Address) -> Prefix:
    """The prefix that an address shares with others on its path; for IPv4 and IPv6 it differs in length."""
    return address.packed[: IPV4_PREFIX_BYTES if address.version == 4 else IPV6_PREFIX_BYTES]


class RoundTrips:
    """The measurements of all prefixes that are not too old. `samples` is how many are kept."""

    def __init__(self, max_samples: int = MAX_SAMPLES) -> None:
        self._max_samples = max_samples
        self._prefixes: OrderedDict[Prefix, _PrefixReports] = OrderedDict()
        self.samples = 0

    def __len__(self) -> int:
        """The number of prefixes with samples."""
        return len(self._prefixes)

    def report(self, prefix: Prefix, token: str, measurements: Iterable[Measurement], now: float) -> None:
        """Take in plausible measurements that a client with this token has made in one race."""
        reports = self._prefixes.setdefault(prefix, _PrefixReports())
        self._prefixes.move_to_end(prefix)
        self.samples += reports.add(token, measurements, now)
        while self.samples > self._max_samples:
            _, evicted = self._prefixes.popitem(last=False)
            self.samples -= evicted.samples

    def learned(self, prefix: Prefix, now: float) -> Learned:
        """What several tokens agree on; quick, because it is worked out once after each report."""
        reports = self._prefixes.get(prefix)
        if reports is None:
            return NOTHING
        if now >= reports.young_until:
            self.samples -= reports.forget(now - LIFETIME)
            if not reports.samples:
                del self._prefixes[prefix]
                return NOTHING
        self._prefixes.move_to_end(prefix)
        return reports.learned()


@dataclass(frozen=True, slots=True)
class _Sample:
    """What one token has reported of one subject, at the time of its last report."""

    ms: float
    exact: bool
    time: float


@dataclass(slots=True)
class _Subject:
    """A place, or a node at its place, with its samples by token, the least recently reported first."""

    place: Place
    samples: dict[str, _Sample] = field(default_factory=dict)  # there are many: a BoundedMap is several times larger

    def add(self, token: str, measurement: Measurement, now: float) -> None:
        """Join a measurement to the token's sample; above MAX_TOKENS the first token is removed."""
        before = self.samples.pop(token, None)
        self.samples[token] = _joined(before, measurement, now)
        if len(self.samples) > MAX_TOKENS:
            del self.samples[next(iter(self.samples))]

    def expected(self) -> Expected | None:
        """The median of the exact samples; with too few of them a lower bound, from all samples; else None."""
        exact = [sample.ms for sample in self.samples.values() if sample.exact]
        if len(exact) >= QUORUM:
            return Expected(statistics.median(exact), True)
        if len(self.samples) >= QUORUM:
            return Expected(statistics.median_low(sample.ms for sample in self.samples.values()), False)
        return None


class _PrefixReports:
    """The samples of one prefix.

    samples: how many there are.
    young_until: no sample becomes too old before this time.
    """

    __slots__ = ("_learned", "_subjects", "samples", "young_until")

    def __init__(self) -> None:
        # By place, or by a node's name; the least recently reported makes room.
        self._subjects: BoundedMap[Place | str, _Subject] = BoundedMap(MAX_SUBJECTS)
        self._learned: Learned | None = None
        self.samples = 0
        self.young_until = 0.0

    def add(self, token: str, measurements: Iterable[Measurement], now: float) -> int:
        """Take in one race of a token's client. Returns how many samples there are more than before."""
        by_place: dict[Place, Measurement] = {}
        for one in measurements:
            place = one.node.place
            self._add(one.node.name, place, token, one, now)
            best = by_place.get(place)
            # A place is as near as its nearest node; a node that was given up yields a lower bound only.
            if best is None or (one.at_least, one.ms) < (best.at_least, best.ms):
                by_place[place] = one
        for place, one in by_place.items():
            self._add(place, place, token, one, now)
        self._learned = None
        return self._count()

    def _add(self, key: Place | str, place: Place, token: str, measurement: Measurement, now: float) -> None:
        subject = self._subjects.get(key)
        if subject is None or subject.place != place:  # a node that was moved is another subject
            subject = _Subject(place)
        self._subjects[key] = subject
        subject.add(token, measurement, now)

    def forget(self, before: float) -> int:
        """Remove what was reported before a time. Returns how many samples there are fewer than before."""
        for key, subject in list(self._subjects.items()):
            for token in [token for token, sample in subject.samples.items() if sample.time <= before]:
                del subject.samples[token]
            if not subject.samples:
                del self._subjects[key]
        self._learned = None
        oldest = (sample.time for subject in self._subjects.values() for sample in subject.samples.values())
        self.young_until = LIFETIME + min(oldest, default=0.0)
        return -self._count()

    def learned(self) -> Learned:
        """What the samples amount to, worked out once after each change."""
        if self._learned is None:
            self._learned = self._conclude()
        return self._learned

    def _count(self) -> int:
        """Count the samples again. Returns how many there are more than before."""
        before, self.samples = self.samples, sum(len(subject.samples) for subject in self._subjects.values())
        return self.samples - before

    def _conclude(self) -> Learned:
        places: dict[Place, Expected] = {}
        nodes: dict[str, tuple[Place, Expected]] = {}
        for key, subject in self._subjects.items():
            expected = subject.expected()
            if expected is None:
                continue
            if isinstance(key, str):
                nodes[key] = subject.place, expected
            else:
                places[key] = expected
        return Learned(places, {name: own for name, (at, own) in nodes.items() if _is_outlier(own, places.get(at))})


def _joined(before: _Sample | None, measurement: Measurement, now: float) -> _Sample:
    """A token's sample after one more measurement."""
    new = _Sample(measurement.ms, not measurement.at_least, now)
    if before is None or now - before.time >= LIFETIME:
        return new
    if measurement.at_least:
        # A bound below what is known adds nothing, and does not make the sample younger.
        stale = not before.exact and now - before.time >= HALF_LIFE
        return new if stale or measurement.ms > before.ms else before
    if not before.exact:
        return new
    weight = 0.5 ** (1 + (now - before.time) / HALF_LIFE)
    return _Sample(measurement.ms + (before.ms - measurement.ms) * weight, True, now)


def _is_outlier(own: Expected, place: Expected | None) -> bool:
    """Whether a node's own round trip says something that its place's does not."""
    if place is None:
        return True
    if not own.exact and own.ms <= place.ms:
        return False  # a bound that its place meets anyway
    return abs(own.ms - place.ms) > max(OUTLIER_MS, OUTLIER_SHARE * place.ms)
