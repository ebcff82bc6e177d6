"""The public ports of the registry's replicas, as this node knows them: where they are, how far, which to try first.

Here: that knowledge, and the order. Not here: measuring (measuring.py), connections that are passed on (passages.py).
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from portway_proto.v1.mesh_pb2 import RegistryFronts
from portway_runtime.clocks import Monotonic
from portway_runtime.endpoints import Endpoint, parse_endpoint
from portway_runtime.node_headers import KEY_SIZE, MAX_NAME

logger = logging.getLogger(__name__)

# A registry names fewer.
_MOST: Final = 64
# Seconds for which one that did not answer is tried after all others.
_AWAY: Final = 30.0
# Seconds. Round trips that differ by less are equal: of such replicas the one that answered last comes first.
_EQUAL: Final = 0.002


@dataclass(slots=True, eq=False)
class Front:
    """A replica's public port. round_trip: in seconds; None before it was reached. away_until: by the node's clock."""

    replica: str
    address: Endpoint
    round_trip: float | None = None
    away_until: float = 0.0


_NOWHERE: Final[Mapping[Front, float]] = MappingProxyType({})


class Fronts:
    """The replicas that a registry has named last."""

    def __init__(self, clock: Monotonic) -> None:
        self._clock = clock
        self._fronts: list[Front] = []
        self._last: Front | None = None  # the one that answered last
        self._subscribers: list[Callable[[], None]] = []
        self.name = ""  # of the registry, as the server name of a connection for it; "": none is passed on
        self.key = b""

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed()` after each list that is taken."""
        self._subscribers.append(changed)

    def learn(self, message: RegistryFronts) -> None:
        """Take the list of a registry in place of the one before. What is known of a replica is kept."""
        known = {(front.replica, front.address): front for front in self._fronts}
        fronts = []
        for one in message.fronts[:_MOST]:
            try:
                address = parse_endpoint(one.address)
            except ValueError as error:
                logger.warning("a registry's public port is passed over", extra={"reason": str(error)})
                continue
            if 0 < len(one.replica) <= MAX_NAME:
                fronts.append(known.get((one.replica, address)) or Front(one.replica, address))
        usable = len(message.key) == KEY_SIZE
        self.name = message.name.lower() if usable else ""
        self.key = message.key if usable else b""
        self._fronts = fronts
        for changed in self._subscribers:
            changed()

    def in_order(self, silent_at: Mapping[Front, float] = _NOWHERE) -> list[Front]:
        """All of them, the first to be tried first: those that answer, the nearest first. silent_at: when some of them
        have not answered the caller; they come after the others, the latest at the end."""
        now = self._clock()

        def rank(front: Front) -> tuple[bool, float, float, bool]:
            far = float("inf") if front.round_trip is None else front.round_trip // _EQUAL
            return front.away_until > now, silent_at.get(front, float("-inf")), far, front is not self._last

        return sorted(self._fronts, key=rank)

    def answered(self, front: Front) -> None:
        """It has answered a connection that was passed on."""
        front.away_until = 0.0
        self._last = front

    def failed(self, front: Front) -> None:
        """It was not reached, or has not answered."""
        if front.away_until <= self._clock():
            about = {"replica": front.replica, "address": str(front.address)}
            logger.warning("a registry does not answer: connections for it go to others", extra=about)
        front.away_until = self._clock() + _AWAY
