"""Checking the signatures of what nodes announce, off the loop and at a bounded pace.

Here: the pace of each node and of all together, whose turn it is, what was checked a moment ago. Not here: what must be
signed by whom (admission.py).

A registry's cores are for its callers: a million tunnels that are announced anew, after a store was lost, take minutes,
in which calls are answered as fast as always, and visits are led by nodes without a registry.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Final

from portway_proto.wire.statements import Signed
from portway_runtime.bounded import BoundedMap
from portway_runtime.clocks import Monotonic, monotonic
from portway_runtime.rates import TokenBucket
from portway_runtime.signature_checks import SignatureChecks

# Signatures of one node: at once those of 1,000 tunnels with a session each (claim, presence, grant), then a fifth of a
# core.
_NODE_BURST: Final = 3_000
_NODE_RATE: Final = 2_000  # per second
# After each turn of the checks there are none for twice as long as it took: those of all nodes together take a third of
# a core, and less where other work keeps the cores busy.
_PAUSE: Final = 2.0
# Signatures of one turn: some 3 ms. Nodes take turns, so that a small batch waits for one turn of each busy node.
TURN: Final = 32
# Signatures of one node that are remembered as genuine, 4 MB: the grants of its sessions, which are announced again
# with each renewed presence, and a batch that is applied again after the store was away.
_REMEMBERED: Final = 20_000
_DIGEST_SIZE: Final = 16


class StatementChecks:
    """The checks of one replica. Needs a running loop."""

    def __init__(self, clock: Monotonic = monotonic) -> None:
        self._checks = SignatureChecks()
        self._clock = clock
        self._turn = asyncio.Lock()
        self._next_turn = 0.0

    def of_node(self) -> "NodeChecks":
        """The checks of what one node announces, with a pace and a memory of its own."""
        return NodeChecks(self, self._clock)

    async def take_turn(self, signed: Sequence[Signed]) -> list[bool]:
        """Whether each is genuine; at most TURN at once. Those who wait are served in the order in which they came."""
        async with self._turn:
            await asyncio.sleep(max(0.0, self._next_turn - self._clock()))
            began = self._clock()
            answers = await asyncio.gather(*map(self._checks.check, signed))
            ended = self._clock()
            self._next_turn = ended + _PAUSE * (ended - began)
            return answers

    def close(self) -> None:
        """Stop; checks that have not begun are cancelled."""
        self._checks.close()


class NodeChecks:
    """The checks of what one node announces."""

    def __init__(self, all_checks: StatementChecks, clock: Monotonic) -> None:
        self._all_checks = all_checks
        self._pace = TokenBucket(_NODE_RATE, _NODE_BURST, clock)
        self._genuine: BoundedMap[bytes, None] = BoundedMap(_REMEMBERED)

    async def genuine(self, signed: Sequence[Signed]) -> list[bool]:
        """Whether each is genuine. Waits until the node's pace and that of all nodes allow it; may be cancelled."""
        digests = [_digest(one) for one in signed]
        unknown = [number for number, digest in enumerate(digests) if digest not in self._genuine]
        results = [True] * len(signed)
        for start in range(0, len(unknown), TURN):
            turn = unknown[start : start + TURN]
            await asyncio.sleep(self._pace.charge(len(turn)))
            answers = await self._all_checks.take_turn([signed[number] for number in turn])
            for number, is_genuine in zip(turn, answers, strict=True):
                results[number] = is_genuine
                if is_genuine:
                    self._genuine[digests[number]] = None
        return results


def _digest(signed: Signed) -> bytes:
    parts = (signed.public_key, signed.signature, signed.message)  # the first two have fixed lengths when it is genuine
    return hashlib.sha256(b"".join(parts)).digest()[:_DIGEST_SIZE]
