"""How many raw ports rest on behalf of each token: one token must not make all ports of a node rest.

Not here: which ports rest and until when they are free (account.py).
"""

from typing import Final

from portway_proto.v1.lane_pb2 import FAILURE_CODE_OVERLOADED
from portway_runtime.clocks import Monotonic

from portway_relay.errors import Refused

_TOO_MANY: Final = (
    "raw TCP ports of this token that were closed a moment ago are still kept from others: close fewer tunnels, or try "
    "again in"
)


class TokenRests:
    """The labels of each token whose raw port rests on this node."""

    def __init__(self, most: int, rest: float, clock: Monotonic) -> None:
        """
        most: ports of one token that may rest; of a token with a larger quota of tunnels as many as its quota, so that
        a program with all of them can be started again.
        rest: seconds that a port rests.
        """
        self._most = most
        self._rest = rest
        self._clock = clock
        # When each label's port has rested, the first one first; the token with the latest release last.
        self._until: dict[str, dict[str, float]] = {}

    def demand_room(self, token_id: str, max_tunnels: int, label: str) -> None:
        """Raise Refused when no further port may be given to this token. A label whose own port rests gets it back,
        and a token without a quota (0) could hold all ports anyway."""
        until = self._until.get(token_id, {})
        now = self._clock()
        while until and next(iter(until.values())) <= now:
            del until[next(iter(until))]
        if max_tunnels and label not in until and len(until) >= max(self._most, max_tunnels):
            wait = next(iter(until.values())) - now
            raise Refused(FAILURE_CODE_OVERLOADED, f"{len(until)} {_TOO_MANY} {wait:.0f} s", retry_after=wait)

    def given(self, token_id: str, label: str) -> None:
        """The label has a port, maybe the one that rested for it."""
        self._until.get(token_id, {}).pop(label, None)

    def released(self, token_id: str, label: str) -> None:
        """The label's port rests from now on."""
        now = self._clock()
        until = self._until.pop(token_id, {})
        until.pop(label, None)
        until[label] = now + self._rest
        self._until[token_id] = until
        while self._ended(next(iter(self._until)), now):
            del self._until[next(iter(self._until))]

    def _ended(self, token_id: str, now: float) -> bool:
        until = self._until[token_id]
        return not until or next(reversed(until.values())) <= now
