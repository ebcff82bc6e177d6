"""Labels that were released a moment ago: by this node, or by another one that held them.

Here: how long a client is waited for, and which labels were closed for good. A node is believed about itself only, and
pushes out only what it said itself. Not here: routes.
"""

from dataclasses import dataclass
from typing import Final

from portway_proto.wire.statements import Claim
from portway_runtime.clocks import Monotonic

from portway_relay.routing.senders import NODE, TOKEN, BySender, Sender

# Seconds that a released label's client is waited for. One that lost its node has its tunnels elsewhere within seconds,
# and sessions are kept for this long. Later visitors get the answer for an unknown name.
_RETURN_TIME: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Release:
    epoch: int
    closed: bool  # its client has closed the tunnel: it is not bound again soon
    until: float


class Releases:
    """What was released, by whom: another node (its name), or a token of this node's clients."""

    def __init__(self, clock: Monotonic) -> None:
        self._clock = clock
        self._releases: BySender[str, _Release] = BySender()

    def note(self, sender: Sender, label: str, epoch: int, *, closed: bool) -> None:
        """The sender does not hold the label any more, nor with a lower epoch."""
        before = self._releases.get(sender, label)
        if before is None or before.epoch < epoch or (before.epoch == epoch and not before.closed):
            self._releases.put(sender, label, _Release(epoch, closed, self._clock() + _RETURN_TIME))

    def bound(self, sender: Sender, label: str, epoch: int) -> None:
        """The sender itself has the label, again or still."""
        before = self._releases.get(sender, label)
        if before is not None and before.epoch <= epoch:
            self._releases.discard(sender, label)

    def covers(self, claim: Claim) -> bool:
        """Whether the node that the claim names has said that it does not hold it; it may say otherwise later."""
        release = self._releases.get(Sender(NODE, claim.node), claim.label)
        return release is not None and claim.epoch <= release.epoch

    def awaited(self, label: str, node: str | None) -> bool:
        """Whether its last holder has released it a moment ago and its client has not closed it. `node` is the holder;
        None for this node. What others say of it does not count."""
        release = self._own(label) if node is None else self._releases.get(Sender(NODE, node), label)
        return release is not None and not release.closed and self._clock() < release.until

    def closed_epoch(self, label: str) -> int:
        """The epoch with which this node held it last, when its client has closed it; else 0."""
        release = self._own(label)
        return release.epoch if release is not None and release.closed else 0

    def _own(self, label: str) -> _Release | None:
        own = self._releases.of_kind(TOKEN, label)
        return max(own, key=lambda release: (release.epoch, release.closed), default=None)
