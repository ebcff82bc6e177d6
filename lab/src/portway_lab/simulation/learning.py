"""What a registry learns from clients' races: the client's rule of what to report, the registry's memory of them.

Here: when the measurements of a race reach which replica. Not here: what the registry does with them
(portway_registry.placement).
"""

import ipaddress
import random
from collections import deque
from collections.abc import Sequence
from typing import Final

from portway.engine.directory import Expected, Grant, Located, RoundTrip
from portway.engine.reporter import REPORT_AFTER, REPORT_WITHIN, is_news
from portway_proto.v1.discovery_pb2 import RoundTrip as ReportedRoundTrip
from portway_registry.placement.reports import Reports
from portway_registry.placement.round_trips import NOTHING, Learned
from portway_registry.placement.shortlist import Candidate

from portway_lab.simulation.assumptions import TOKENS_PER_PREFIX
from portway_lab.simulation.clients import Prefix
from portway_lab.simulation.fleet import Fleet

# Each prefix is a /24.
_HOST_BITS: Final = 8
_NO_GRANT: Final = Grant("", 0.0)


class Learning:
    """The memories of the registry's replicas, each with the reports that it received. `reports` counts them all."""

    def __init__(self, fleet: Fleet, replicas: int, rng: random.Random) -> None:
        self._fleet = fleet
        self._rng = rng
        self._replicas = [Reports(fleet.places.node, lambda: fleet.now) for _ in range(replicas)]
        self._in_flight: deque[tuple[float, int, Prefix, list[RoundTrip]]] = deque()
        self.reports = 0

    def replica(self) -> int:
        """The replica that a client asks and reports to."""
        return self._rng.randrange(len(self._replicas))

    def learned(self, replica: int, prefix: Prefix) -> Learned:
        """What a replica knows for a Locate from this prefix."""
        return self._replicas[replica].learned(_address(prefix))

    def raced(self, replica: int, prefix: Prefix, ranked: Sequence[Candidate], measured: list[RoundTrip]) -> None:
        """A client has raced candidates; it reports the round trips some seconds later if they are news by its rule."""
        names = {one.node for one in measured}
        expected = {
            name: Expected(one.expected_rtt_ms, one.learned) for one in ranked if (name := one.node.name) in names
        }
        located = Located((), b"", _NO_GRANT, expected)
        if any(is_news(one, located) for one in measured):
            due = self._fleet.now + (REPORT_AFTER + REPORT_WITHIN) / 2
            self._in_flight.append((due, replica, prefix, measured))

    def deliver(self) -> None:
        """Deliver the reports that are due to their replicas."""
        while self._in_flight and self._in_flight[0][0] <= self._fleet.now:
            _, replica, prefix, measured = self._in_flight.popleft()
            self.reports += 1
            token = f"{prefix.number}-{self._rng.randrange(TOKENS_PER_PREFIX)}"
            reported = [ReportedRoundTrip(node=one.node, ms=one.ms, at_least=one.at_least) for one in measured]
            self._replicas[replica].report(_address(prefix), token, prefix.guess, reported)


class NoLearning(Learning):
    """With `strategy="geoip"`, nothing is learned."""

    def learned(self, replica: int, prefix: Prefix) -> Learned:
        return NOTHING

    def raced(self, replica: int, prefix: Prefix, ranked: Sequence[Candidate], measured: list[RoundTrip]) -> None:
        pass


def _address(prefix: Prefix) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(prefix.number + 1 << _HOST_BITS)
