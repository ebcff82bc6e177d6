"""From a node's batches to the store.

Here: applying one batch, so that applying it twice does no harm. Not here: the rules (ownership.py, quota.py), nor
when a batch is tried again (session.py).
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from portway_proto.v1.mesh_pb2 import (
    EVICTION_REASON_QUOTA,
    EVICTION_REASON_SUPERSEDED,
    Announce,
    Eviction,
    EvictionReason,
    Withdrawal,
)
from portway_proto.v1.types_pb2 import TunnelInfo

from portway_registry.errors import StoreUnavailable
from portway_registry.state import keys
from portway_registry.state.views import Item, TunnelView
from portway_registry.store.contract import Delete, LeaseId, Put, Store, Write
from portway_registry.store.update import TRIES, revision_of
from portway_registry.tunnels.admission import Quota, Verdict, decide, hash_cost, is_genuine, may_withdraw

logger = logging.getLogger(__name__)

# A proof takes up to 1 ms of hashing: other nodes get their turn in between.
_PROOFS_A_TURN: Final = 8
# What the proofs of one node may cost: a twentieth of a core, and at once 10,000 tunnels, each bound a hundred times.
# Beyond that its batches wait, and its stream is not read: it is its own news that come later.
_HASHES_A_SECOND: Final = 200_000
_HASHES_AT_ONCE: Final = 1_000_000
# Reads of keys that changed under a batch, at once.
_READS: Final = 32


class Announcements:
    """Writes what one node holds to the store."""

    def __init__(self, store: Store, tunnels: TunnelView, quota: Quota, *, node: str, region: str) -> None:
        self._store = store
        self._tunnels = tunnels
        self._quota = quota
        self._node = node
        self._region = region
        # The labels that the node has said it holds; None until it has said so in full.
        self._holds: set[str] | None = None
        self._hashed_until = 0.0  # when what was hashed would have been, at the pace that it may be

    def is_stale(self, tunnel: Item[TunnelInfo]) -> bool:
        """Whether this is left over from an earlier session of the node.

        Asked of what the view shows of the node's: an earlier session's last writes may show after the full batch.
        """
        return self._holds is not None and tunnel.name not in self._holds

    async def apply(self, batch: Announce, lease: LeaseId) -> list[Eviction]:
        """Bring the store to what `batch` says; what the node may not hold is returned.

        Raises StoreUnavailable and LeaseLost, and may then have done a part: apply it again.
        """
        self._note(batch)
        # First what is given back: a token with its quota used up may close one tunnel and open another.
        withdrawn = list(batch.withdrawn)
        if batch.full:
            withdrawn += [
                Withdrawal(label=label, epoch=item.value.epoch)
                for label, item in self._tunnels.of_node(self._node).items()
                if self.is_stale(item)
            ]
        await self.withdraw(withdrawn)
        held = {item.label: self._tunnels.items.get(item.label) for item in batch.bound}
        offered, evictions = await self._genuine(batch, held)
        return evictions + await self._bind(offered, held, lease)

    async def withdraw(self, withdrawn: Iterable[Withdrawal]) -> None:
        """Remove each binding that stands exactly so. Raises StoreUnavailable."""
        undone = {item.label: item.epoch for item in withdrawn}
        held = {label: self._tunnels.items.get(label) for label in undone}
        # What the view does not show as told may only not have arrived there yet.
        held.update(await self._read(label for label in undone if not self._mine(label, undone, held)))
        for _ in range(TRIES):
            going = [(label, held[label]) for label in undone if self._mine(label, undone, held)]
            writes = [Delete(keys.tunnel(label), item.modified) for label, item in going if item is not None]
            if not writes:
                return
            done = await self._store.write(writes)
            for (_, item), ok in zip(going, done, strict=True):
                if ok and item is not None:
                    self._quota.deleted(item)
            undone = {label: undone[label] for (label, _), ok in zip(going, done, strict=True) if not ok}
            held = await self._read(undone)

    def _note(self, batch: Announce) -> None:
        if batch.full:
            self._holds = set()
        if self._holds is not None:
            self._holds.difference_update(item.label for item in batch.withdrawn)
            self._holds.update(item.label for item in batch.bound)

    async def _genuine(
        self, batch: Announce, held: dict[str, Item[TunnelInfo] | None]
    ) -> tuple[dict[str, TunnelInfo], list[Eviction]]:
        """The announcements whose proof fits, as this node's own; the others are to be dropped by it."""
        offered: dict[str, TunnelInfo] = {}
        evictions: list[Eviction] = []
        for number, announced in enumerate(batch.bound):
            if number % _PROOFS_A_TURN == 0:
                await asyncio.sleep(0)
            await self._pace(announced, held[announced.label])
            if not is_genuine(announced, held[announced.label]):
                logger.warning(
                    "announcement refused: its proof does not fit",
                    extra={"node": self._node, "label": f"{announced.label[:4]}…", "epoch": announced.epoch},
                )
                evictions.append(_eviction(announced, EVICTION_REASON_SUPERSEDED))
                continue
            tunnel = TunnelInfo()
            tunnel.CopyFrom(announced)
            # A node speaks for itself only.
            tunnel.node, tunnel.region = self._node, self._region
            offered[tunnel.label] = tunnel
        return offered, evictions

    async def _pace(self, announced: TunnelInfo, held: Item[TunnelInfo] | None) -> None:
        """Wait until this proof may be checked."""
        now = asyncio.get_running_loop().time()
        earliest = now - _HASHES_AT_ONCE / _HASHES_A_SECOND
        self._hashed_until = max(self._hashed_until, earliest) + hash_cost(announced, held) / _HASHES_A_SECOND
        if self._hashed_until > now:
            await asyncio.sleep(self._hashed_until - now)

    async def _bind(
        self, offered: dict[str, TunnelInfo], held: dict[str, Item[TunnelInfo] | None], lease: LeaseId
    ) -> list[Eviction]:
        evictions: list[Eviction] = []
        free: dict[str, int] = {}
        taken: defaultdict[str, set[str]] = defaultdict(set)
        for _ in range(TRIES):
            writes: list[Write] = []
            writing: list[str] = []
            for label, tunnel in offered.items():
                current = held.get(label)
                verdict = decide(tunnel, current, lease, self._tunnels.last_holder(label))
                if verdict is Verdict.SUPERSEDED:
                    evictions.append(_eviction(tunnel, EVICTION_REASON_SUPERSEDED))
                    continue
                if verdict is Verdict.KNOWN:
                    continue
                token = tunnel.token_id
                if current is None or current.value.token_id != token:
                    room = free.setdefault(token, self._quota.free(token))
                    if label not in taken[token] and len(taken[token]) >= room:
                        evictions.append(_eviction(tunnel, EVICTION_REASON_QUOTA))
                        continue
                    taken[token].add(label)
                writes.append(Put(keys.tunnel(label), tunnel.SerializeToString(), revision_of(current), lease))
                writing.append(label)
            if not writes:
                return evictions
            done = await self._store.write(writes)
            offered = {label: offered[label] for label, ok in zip(writing, done, strict=True) if not ok}
            held = await self._read(offered)
        raise StoreUnavailable("labels changed each time they were to be written")

    def _mine(self, label: str, undone: dict[str, int], held: dict[str, Item[TunnelInfo] | None]) -> bool:
        return may_withdraw(self._node, undone[label], held.get(label))

    async def _read(self, labels: Iterable[str]) -> dict[str, Item[TunnelInfo] | None]:
        """These tunnels as the store has them now."""
        found: dict[str, Item[TunnelInfo] | None] = {}
        wanted = list(labels)
        for start in range(0, len(wanted), _READS):
            chunk = wanted[start : start + _READS]
            entries = await asyncio.gather(*(self._store.get(keys.tunnel(label)) for label in chunk))
            for label, entry in zip(chunk, entries, strict=True):
                found[label] = None if entry is None else self._tunnels.item(entry)
        return found


def _eviction(tunnel: TunnelInfo, reason: "EvictionReason.ValueType") -> Eviction:
    return Eviction(label=tunnel.label, epoch=tunnel.epoch, reason=reason)
