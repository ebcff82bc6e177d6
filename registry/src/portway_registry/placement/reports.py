"""Clients' reports of round trips: which are believed.

A report is never refused: what is not believed is ignored and counted. Here: how much a token may report, of which
nodes, and which round trips are plausible. Not here: what follows from those that are believed (round_trips.py).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from portway_geo.position import Position, distance_km, light_round_trip_ms
from portway_proto.v1.discovery_pb2 import RoundTrip
from portway_runtime.clocks import Monotonic
from portway_runtime.rates import KeyedRate

from portway_registry.placement.placed_nodes import PlacedNode
from portway_registry.placement.round_trips import Address, Learned, Measurement, RoundTrips, prefix_of

# A client races three nodes, and one with bad luck gets through all that Locate named.
MAX_IN_A_REPORT: Final = 8
# A token counts once for a prefix, however many clients it has, so more of its reports tell little. At this rate no
# token fills more than an eighth of the samples that are kept before they are too old.
REPORTS_PER_SECOND: Final = 0.1
REPORT_BURST: Final = 20.0
# Tokens whose rate is remembered, some 200 bytes each.
RATED_TOKENS: Final = 20_000
# A client gives up dialling after 3 s, which is two round trips.
LONGEST_MS: Final = 1_500.0
# A client's position is the middle of a field of one degree: this is the distance to its corner.
POSITION_ERROR_KM: Final = 80.0

# What becomes of a reported round trip.
OUTCOMES: Final = ("believed", "impossible", "too_many", "too_often", "unknown_node")


class Reports:
    """What one replica learns from clients. `outcomes` counts reported round trips by what became of them."""

    def __init__(self, node: Callable[[str], PlacedNode | None], clock: Monotonic) -> None:
        """`node` finds a node by its name."""
        self._node = node
        self._clock = clock
        self._rate: KeyedRate[str] = KeyedRate(REPORTS_PER_SECOND, REPORT_BURST, clock, RATED_TOKENS)
        self.round_trips = RoundTrips()
        self.outcomes: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))

    def report(self, address: Address, token: str, position: Position | None, reported: Sequence[RoundTrip]) -> None:
        """Take in the report of a client with this address, token and, if it is known, position."""
        if not self._rate.take(token):
            self.outcomes["too_often"] += len(reported)
            return
        self.outcomes["too_many"] += len(reported[MAX_IN_A_REPORT:])
        believed: dict[str, Measurement] = {}
        for one in reported[:MAX_IN_A_REPORT]:
            node = self._node(one.node)
            if node is None:
                self.outcomes["unknown_node"] += 1
                continue
            measurement = Measurement(node, one.ms, one.at_least)
            if not is_plausible(measurement, position):
                self.outcomes["impossible"] += 1
                continue
            self.outcomes["believed"] += 1
            believed[node.name] = measurement
        if believed:
            self.round_trips.report(prefix_of(address), token, believed.values(), self._clock())

    def learned(self, address: Address) -> Learned:
        """What clients of this address's prefix have measured."""
        return self.round_trips.learned(prefix_of(address), self._clock())


def is_plausible(measurement: Measurement, client: Position | None) -> bool:
    """Whether a round trip is at most LONGEST_MS, and not faster than light in fibre from the client's position."""
    if not 0 < measurement.ms <= LONGEST_MS:  # False for not-a-number, too
        return False
    if measurement.at_least or client is None or measurement.node.position is None:
        return True
    km = distance_km(client, measurement.node.position) - POSITION_ERROR_KM
    return measurement.ms >= light_round_trip_ms(max(0.0, km))
