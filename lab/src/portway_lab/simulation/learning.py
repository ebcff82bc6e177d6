"""What clients' races teach a registry: the client's rule of what is news, the registry's own memory of round trips.

Here: what one race has measured, and to which replica it goes when. Not here: what a registry makes of it
(portway_registry: reports, placement/round_trips).
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

# A prefix is a /24 of its own.
_HOST_BITS: Final = 8
_NO_GRANT: Final = Grant("", 0.0)


class Learning:
    """The memories of the registry's replicas, each of what it was told alone. `reports`: how many there were."""

    def __init__(self, fleet: Fleet, replicas: int, rng: random.Random) -> None:
        self._fleet = fleet
        self._rng = rng
        self._replicas = [Reports(fleet.places.node, lambda: fleet.now) for _ in range(replicas)]
        self._on_their_way: deque[tuple[float, int, Prefix, list[RoundTrip]]] = deque()
        self.reports = 0

    def replica(self) -> int:
        """Whom a client asks, and tells."""
        return self._rng.randrange(len(self._replicas))

    def learned(self, replica: int, prefix: Prefix) -> Learned:
        """What a Locate of this prefix goes by."""
        return self._replicas[replica].learned(_address(prefix))

    def raced(self, replica: int, prefix: Prefix, told: Sequence[Candidate], measured: list[RoundTrip]) -> None:
        """A client has raced nodes that it was told of; it reports some seconds later, if that is news."""
        names = {one.node for one in measured}
        expected = {
            name: Expected(one.expected_rtt_ms, one.learned) for one in told if (name := one.node.name) in names
        }
        located = Located((), b"", _NO_GRANT, expected)
        if any(is_news(one, located) for one in measured):
            due = self._fleet.now + (REPORT_AFTER + REPORT_WITHIN) / 2
            self._on_their_way.append((due, replica, prefix, measured))

    def deliver(self) -> None:
        """What is due reaches its replica."""
        while self._on_their_way and self._on_their_way[0][0] <= self._fleet.now:
            _, replica, prefix, measured = self._on_their_way.popleft()
            self.reports += 1
            token = f"{prefix.number}-{self._rng.randrange(TOKENS_PER_PREFIX)}"
            told = [ReportedRoundTrip(node=one.node, ms=one.ms, at_least=one.at_least) for one in measured]
            self._replicas[replica].report(_address(prefix), token, prefix.guess, told)


class Untaught(Learning):
    """`strategy="geoip"`: nothing is learned."""

    def learned(self, replica: int, prefix: Prefix) -> Learned:
        return NOTHING

    def raced(self, replica: int, prefix: Prefix, told: Sequence[Candidate], measured: list[RoundTrip]) -> None:
        pass


def _address(prefix: Prefix) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(prefix.number + 1 << _HOST_BITS)
