"""The checking of clients' signatures: off the event loop, and within a budget for each sender.

A signature takes 60 to 160 µs to check and costs its sender nothing to make up. Not here: what is signed
(portway_proto.wire.statements), which statements matter (verification.py, sessions/).
"""

import asyncio
from collections import Counter
from typing import Final

from portway_proto.wire.statements import cluster_tag
from portway_runtime.clocks import Monotonic
from portway_runtime.rates import KeyedRate
from portway_runtime.signature_checks import Checkable, SignatureChecks

from portway_relay.routing.senders import Sender

# Nodes and tokens with a bucket of their own; one that is forgotten begins with a full bucket again.
_MAX_SENDERS: Final = 10_000


class StatementChecks:
    """Checks signatures; `cluster` is the tag of the cluster that they must be for. Needs a running loop."""

    def __init__(self, rate: float, burst: float, clock: Monotonic) -> None:
        """`burst` signatures at once, then `rate` per second, for each sender."""
        self._burst = burst
        self._budgets: KeyedRate[Sender] = KeyedRate(rate, burst, clock, _MAX_SENDERS)
        self._checks = SignatureChecks()
        self.cluster = b""
        self.unchecked: Counter[str] = Counter()  # signatures above the budget, by kind of sender

    def learn_cluster(self, cluster_id: str) -> None:
        """A registry has said which cluster this is."""
        self.cluster = cluster_tag(cluster_id)

    def wait(self, sender: Sender, signatures: int) -> float:
        """Seconds until so many signatures may be checked for this sender; 0 means now, and takes them."""
        wait = self._budgets.take_or_wait(sender, min(signatures, self._burst))
        if wait:
            self.unchecked[sender.kind] += signatures
        return wait

    def check(self, signed: Checkable, sender: Sender | None = None) -> "asyncio.Future[bool]":
        """A future of whether it is genuine; nobody is charged. Senders take turns, and those that are not known yet
        share those of one."""
        return self._checks.check(signed, sender)

    def close(self) -> None:
        """Stop; checks that have not begun are cancelled."""
        self._checks.close()
