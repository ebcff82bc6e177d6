"""The limit of a node's memory: which visits are cut when those of one token, or all, hold too much of it.

Visits whose peers do not read hold up to a MiB each; everything else that a node holds is bounded by numbers. Nothing
is counted while bytes move: once a second this looks at the process, and, when at least half of the limit is used, at
what each visit holds. Here: that look, and the choice. Not here: what a visit holds (the carrier), what else is refused
while memory is scarce (ingress/, sessions/, visits.py).
"""

import asyncio
import heapq
import logging
from collections.abc import Callable, Iterable
from typing import Final

from portway_carrier.contract import Visit

from portway_relay import process_memory
from portway_relay.routing.lookup import Destination
from portway_relay.routing.tunnel import Tunnel

logger = logging.getLogger(__name__)

MIB: Final = 1024 * 1024
# Seconds between two looks. 300 visits whose visitors do not read took 25 MiB in one.
_INTERVAL: Final = 1.0
# A visit that holds less is never cut: its peer reads, or has just paused.
_WORTH_CUTTING: Final = 64 * 1024
_DEFAULT_SHARE: Final = 2  # of the memory there is
# Of the limit. With what TLS keeps for such visits and their lanes a process has 2.5 times the bytes that wait.
_TOKENS_SHARE: Final = 8

Owner = str
Held = tuple[Owner, int, Visit]  # whom the visit counts for, and the bytes that it holds


class MemoryLimit:
    """The limit of one node. `scarce` while it is exceeded: nothing new is taken then."""

    def __init__(
        self,
        limit: int,
        token_limit: int,
        visits: Callable[[], Iterable[tuple[Visit, Destination]]],
        drop_closing: Callable[[], None],
        *,
        resident: Callable[[], int] = process_memory.resident,
        return_freed: Callable[[], None] = process_memory.return_freed,
    ) -> None:
        """
        limit: resident bytes of the process; 0: half of those there are.
        token_limit: bytes that the visits of one token may hold; 0: an eighth of the limit.
        visits: all visits in progress.
        drop_closing: drops connections that are over and wait for their peers to read the last bytes.
        """
        self._limit = limit or process_memory.available() // _DEFAULT_SHARE
        self._token_limit = token_limit or self._limit // _TOKENS_SHARE
        self._visits = visits
        self._drop_closing = drop_closing
        self._resident = resident
        self._return_freed = return_freed
        self._freed = False  # since the last look
        self.scarce = False

    async def watch(self) -> None:
        """Look once a second, without end."""
        while True:
            await asyncio.sleep(_INTERVAL)
            self.look()

    def look(self) -> None:
        """Cut the visits that have to make room now."""
        if self._freed:
            self._return_freed()
            self._freed = False
        used = self._resident()
        self.scarce = used > self._limit
        if used <= self._limit // 2:
            return
        if self.scarce:
            self._drop_closing()
            self._freed = True
        held = [(_owner(destination), visit.buffered, visit) for visit, destination in self._visits()]
        chosen = choose(held, self._token_limit, used - self._limit)
        for visit in chosen:
            visit.cut()
        if chosen:
            self._freed = True
            logger.warning(
                "visits were cut to free memory",
                extra={"visits": len(chosen), "resident_mib": used // MIB, "limit_mib": self._limit // MIB},
            )


def choose(held: Iterable[Held], owner_limit: int, excess: int) -> list[Visit]:
    """The visits to cut so that no owner's hold more than `owner_limit`, and `excess` bytes less are held in all.

    Whoever holds most lets go first, and of its visits the one that holds most.
    """
    by_owner: dict[Owner, list[tuple[int, Visit]]] = {}
    for owner, size, visit in held:
        if size >= _WORTH_CUTTING:
            by_owner.setdefault(owner, []).append((size, visit))
    sums = []
    for owner, visits in by_owner.items():
        visits.sort(key=lambda one: one[0])
        sums.append((-sum(size for size, _ in visits), owner))
    heapq.heapify(sums)
    chosen: list[Visit] = []
    while sums and (-sums[0][0] > owner_limit or excess > 0):
        most, owner = heapq.heappop(sums)
        size, visit = by_owner[owner].pop()
        chosen.append(visit)
        excess -= size
        if by_owner[owner]:
            heapq.heappush(sums, (most + size, owner))
    return chosen


def _owner(destination: Destination) -> Owner:
    """The token, or the label where another node holds the tunnel: nodes are not told whose it is."""
    return f"token {destination.holder.token_id}" if isinstance(destination, Tunnel) else destination.label
