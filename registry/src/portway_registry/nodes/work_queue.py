"""What a node's session has to do at the store, in the order in which it came.

Here: the order, and how much may wait. Not here: doing it (session.py).
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from portway_proto.v1.mesh_pb2 import Announce, Eviction
from portway_proto.v1.types_pb2 import TunnelInfo

from portway_registry.state.views import Item

# Batches that wait for the store, with the one that is being applied, and their bytes, unless there is only one. The
# next batch waits, and the node's stream is not read. In memory they take some four times that. The whole state of
# 10,000 tunnels has 3 MB with few sessions, and 18 MB with as many sessions and raw ports.
_MAX_BATCHES: Final = 64
_MAX_WAITING: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Removal:
    """A binding that the registry ends by itself. `eviction`: what the node is told, if it still holds it."""

    tunnel: Item[TunnelInfo]
    eviction: Eviction | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What a node announces. `size` is computed once: of 10,000 tunnels that takes 10 ms."""

    announce: Announce
    size: int


# A list: ids of tokens that the node names.
Work = Batch | Removal | list[str]


class WorkQueue:
    """The work of one session, which takes one piece at a time."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Work] = asyncio.Queue()
        self._is_working = False
        self._room = asyncio.Semaphore(_MAX_BATCHES)
        self._waiting = 0  # bytes of the batches that are not done
        self._batch_done = asyncio.Event()
        self._evicting: set[str] = set()  # labels of the tunnels over a quota that are not removed yet

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is being done."""
        return self._queue.empty() and not self._is_working

    async def add_batch(self, announce: Announce) -> None:
        """Add what a node announces, once there is room for it."""
        await self._room.acquire()
        size = announce.ByteSize()
        while self._waiting and self._waiting + size > _MAX_WAITING:
            self._batch_done.clear()
            await self._batch_done.wait()
        self._waiting += size
        self._queue.put_nowait(Batch(announce, size))

    def add_removal(self, tunnel: Item[TunnelInfo], eviction: Eviction | None = None) -> None:
        self._queue.put_nowait(Removal(tunnel, eviction))

    def add_removal_for_quota(self, tunnel: Item[TunnelInfo], eviction: Eviction) -> None:
        """Add a removal; nothing when the tunnel is being removed for a quota."""
        if tunnel.name not in self._evicting:
            self._evicting.add(tunnel.name)
            self.add_removal(tunnel, eviction)

    def add_tokens(self, token_ids: list[str]) -> None:
        self._queue.put_nowait(token_ids)

    async def take(self) -> Work:
        """The next piece, as soon as there is one; the one before is done by then."""
        self._is_working = False
        work = await self._queue.get()
        self._is_working = True
        return work

    def batch_done(self, batch: Batch) -> None:
        """Make room for further batches."""
        self._waiting -= batch.size
        self._batch_done.set()
        self._room.release()

    def removed(self, removal: Removal) -> None:
        """The tunnel is out of the store: from now on it may be found over a quota again."""
        self._evicting.discard(removal.tunnel.name)
