"""Whether the PROXY header in front of a connection that a node has passed on is believed.

It is when it is proved by the key of that node, for this replica, at about this time, and for the first time. Here:
that decision, and the numbers that were used. Not here: waiting for headers (front.py), which keys a node has.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from portway_runtime.endpoints import Endpoint
from portway_runtime.node_headers import is_proved, read_proof
from portway_runtime.proxy_protocol import ProxyHeader

# Milliseconds that the time in a header may differ from this clock. A node tells the time of the registry that it is
# registered with, so it is the replicas' clocks that differ.
FRESH_MS: Final = 60_000
# Headers of one node that are remembered: as many as a port has handshakes (400 per second) while one is fresh. A node
# that writes more is not believed until the first of them are stale.
REMEMBERED: Final = 48_000


class Refusal(Enum):
    """Why a header is not believed."""

    UNPROVED = "without proof"  # a load balancer's, or one of no node
    FORGED = "forged"  # by no key that the node has, or for another replica
    STALE = "stale"
    REPLAYED = "replayed"
    SURPLUS = "too many"  # of one node


@dataclass(frozen=True, slots=True)
class PassedOn:
    """A connection that `node` has passed on, and where it came to the node from."""

    node: str
    source: Endpoint


class NodeHeaders:
    """The headers of nodes at one port of a replica."""

    def __init__(
        self,
        replica: str,
        keys_of: Callable[[str], Sequence[bytes]],
        now_ms: Callable[[], int],
        *,
        most: int = REMEMBERED,
    ) -> None:
        """keys_of: the keys of a node by its name; none for a name that no node has. most: headers of one node that are
        remembered."""
        self._replica = replica
        self._keys_of = keys_of
        self._now_ms = now_ms
        self._most = most
        # By node: the numbers that were used, and until when they are remembered, the oldest first.
        self._used: dict[str, dict[bytes, int]] = {}

    def judge(self, header: ProxyHeader) -> PassedOn | Refusal:
        """Whose connection this header is in front of. One that is believed is not believed again."""
        proof = read_proof(header)
        if proof is None or header.source is None:
            return Refusal.UNPROVED
        if not any(is_proved(proof, key, self._replica, header) for key in self._keys_of(proof.node)):
            return Refusal.FORGED
        now = self._now_ms()
        if abs(now - proof.time_ms) > FRESH_MS:
            return Refusal.STALE
        used = self._used.setdefault(proof.node, {})
        _forget(used, now)
        if proof.nonce in used:
            return Refusal.REPLAYED
        if len(used) >= self._most:
            return Refusal.SURPLUS
        used[proof.nonce] = now + 2 * FRESH_MS
        return PassedOn(proof.node, header.source)


def _forget(used: dict[bytes, int], now: int) -> None:
    """Drop those whose headers are stale by now. They were used in this order."""
    while used:
        oldest = next(iter(used))
        if used[oldest] >= now:
            return
        del used[oldest]
