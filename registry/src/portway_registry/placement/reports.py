"""What clients report of round trips, judged: who may say how much, of which nodes, and what is impossible.

Nothing here ever refuses a call: what is not believed is passed over and counted. Not here: what is made of what is
believed (placement/round_trips.py).
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from portway_geo.position import Position
from portway_proto.v1.discovery_pb2 import RoundTrip as ReportedRoundTrip

from portway_registry.placement.placed_nodes import PlacedNode
from portway_registry.placement.round_trips import Address, Learned, RoundTrip, RoundTrips, possible, prefix_of

# Three are raced, and a client with bad luck gets through all that Locate named.
MOST_IN_A_REPORT: Final = 8
# A token counts once for a prefix, whatever its number of clients, so that more of its reports tell little. With this
# rate no token fills more than an eighth of what is kept before it is forgotten again.
REPORTS_PER_SECOND: Final = 0.1
REPORT_BURST: Final = 20.0
# A survey costs the registry as much as thirty Locates at 1,000 nodes, and people ask for it.
SURVEYS_PER_SECOND: Final = 0.2
SURVEY_BURST: Final = 10.0
# Tokens whose rate is remembered, some 200 bytes each.
_REMEMBERED: Final = 20_000

# What becomes of a reported round trip.
OUTCOMES: Final = ("believed", "impossible", "too_many", "too_often", "unknown_node")

Clock = Callable[[], float]


class TokenRate:
    """So many at once, so many a second after that, for each token."""

    def __init__(self, rate: float, burst: float, clock: Clock, remembered: int = _REMEMBERED) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._remembered = remembered
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # how many, and when that was so

    def __len__(self) -> int:
        return len(self._left)

    def take(self, token: str) -> bool:
        """Whether one more is within the limit; it is counted then."""
        now = self._clock()
        left, at = self._left.pop(token, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._rate)
        within = left >= 1
        self._left[token] = (left - within, now)
        if len(self._left) > self._remembered:
            self._left.popitem(last=False)
        return within


class Reports:
    """Everything that is learned from clients, at one replica."""

    def __init__(self, node: Callable[[str], PlacedNode | None], clock: Clock) -> None:
        """`node` finds a node by its name."""
        self._node = node
        self._clock = clock
        self._rate = TokenRate(REPORTS_PER_SECOND, REPORT_BURST, clock)
        self.round_trips = RoundTrips()
        self.outcomes: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))

    def report(
        self, address: Address, token: str, position: Position | None, reported: Sequence[ReportedRoundTrip]
    ) -> None:
        """Take in what a client at this address and position says."""
        if not self._rate.take(token):
            self.outcomes["too_often"] += len(reported)
            return
        self.outcomes["too_many"] += len(reported[MOST_IN_A_REPORT:])
        believed: dict[str, RoundTrip] = {}
        for one in reported[:MOST_IN_A_REPORT]:
            node = self._node(one.node)
            if node is None:
                self.outcomes["unknown_node"] += 1
                continue
            trip = RoundTrip(node, one.ms, one.at_least)
            if not possible(trip, position):
                self.outcomes["impossible"] += 1
                continue
            self.outcomes["believed"] += 1
            believed[node.name] = trip
        if believed:
            self.round_trips.report(prefix_of(address), token, believed.values(), self._clock())

    def learned(self, address: Address) -> Learned:
        """What clients with this address's prefix have measured."""
        return self.round_trips.learned(prefix_of(address), self._clock())
