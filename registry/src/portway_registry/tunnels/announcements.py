"""Applying a node's announcements to the store, one batch at a time; applying a batch twice does no harm.

Here: what is read and written. Not here: which tunnels are admitted, and when a batch is tried again.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

from portway_proto.records import InvalidRecord, tunnel_record
from portway_proto.v1.mesh_pb2 import (
    EVICTION_REASON_SUPERSEDED,
    Announce,
    Eviction,
    Withdrawal,
)
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.labels import is_label

from portway_registry.errors import InvalidRequest, StoreUnavailable
from portway_registry.state import keys
from portway_registry.state.views import Item, TunnelView
from portway_registry.store.contract import Delete, LeaseId, Put, Store, Write
from portway_registry.store.update import TRIES, revision_of
from portway_registry.tunnels.admission import Verdict, decide, hash_cost, is_genuine, may_withdraw
from portway_registry.tunnels.quota import Quota, Room

logger = logging.getLogger(__name__)

# Proofs checked before other tasks get their turn on the loop; each takes up to 1 ms of hashing.
_PROOFS_PER_TURN: Final = 8
# Records copied before other tasks get their turn; each takes some 10 µs.
_RECORDS_PER_TURN: Final = 64
# Token bucket of hashes for one node's proofs: a twentieth of a core, and at once those of 10,000 tunnels that were
# bound a hundred times each. Beyond it the node's batches wait and its stream is not read, which delays only its own.
_HASH_RATE: Final = 200_000  # per second
_HASH_BURST: Final = 1_000_000
# Concurrent reads of keys that changed under a batch.
_READS: Final = 32


async def checked(batch: Announce) -> Announce:
    """A copy of a node's batch with known fields only. Raises InvalidRequest for a field without its form.

    Other tasks get their turn meanwhile; the batch may be a node's whole state.
    """
    copy = Announce(batch=batch.batch, full=batch.full)
    for number, tunnel in enumerate(batch.bound):
        if number % _RECORDS_PER_TURN == 0:
            await asyncio.sleep(0)
        try:
            copy.bound.append(tunnel_record(tunnel))
        except InvalidRecord as error:
            raise InvalidRequest(f"the announcement of a tunnel is refused: {error}") from None
    for withdrawal in batch.withdrawn:
        if not is_label(withdrawal.label):
            raise InvalidRequest("the withdrawal of a tunnel is refused: it does not name a label")
        copy.withdrawn.append(Withdrawal(label=withdrawal.label, epoch=withdrawal.epoch))
    return copy


class Announcements:
    """Writes the tunnels that one node holds to the store."""

    def __init__(self, store: Store, tunnels: TunnelView, quota: Quota, *, node: str, region: str) -> None:
        self._store = store
        self._tunnels = tunnels
        self._quota = quota
        self._node = node
        self._region = region
        # The labels that the node announced; None until it has announced all of them in one batch.
        self._holds: set[str] | None = None
        self._hashed_until = 0.0  # the loop's time at which the hashes so far would be done at _HASH_RATE

    def is_stale(self, tunnel: Item[TunnelInfo]) -> bool:
        """Whether a tunnel of this node in the view is left over from an earlier session of the node, whose last writes
        may show after the full batch."""
        return self._holds is not None and tunnel.name not in self._holds

    async def apply(self, batch: Announce, lease: LeaseId) -> list[Eviction]:
        """Write and delete what `batch` announces and withdraws; returns the tunnels that the node must drop.

        Raises StoreUnavailable and LeaseLost; a part may have been done then: apply the batch again.
        """
        self._note(batch)
        # Withdrawals first: a token whose quota is used up may close one tunnel and open another.
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
        """Delete each of these bindings that the store still has. Raises StoreUnavailable."""
        undone = {item.label: item.epoch for item in withdrawn}
        held = {label: self._tunnels.items.get(label) for label in undone}
        # A binding that the view does not show may merely not have arrived there yet.
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
        """The announcements whose proof fits, with this node as their holder; and evictions for the others."""
        offered: dict[str, TunnelInfo] = {}
        evictions: list[Eviction] = []
        for number, announced in enumerate(batch.bound):
            if number % _PROOFS_PER_TURN == 0:
                await asyncio.sleep(0)
            await self._pace(announced, held[announced.label])
            if not is_genuine(announced, held[announced.label]):
                logger.warning(
                    "announcement refused: its proof does not fit",
                    extra={"node": self._node, "label": f"{announced.label[:4]}…", "epoch": announced.epoch},
                )
                evictions.append(_superseded(announced))
                continue
            tunnel = TunnelInfo()
            tunnel.CopyFrom(announced)
            # A node announces only its own tunnels, whatever it claims.
            tunnel.node, tunnel.region = self._node, self._region
            offered[tunnel.label] = tunnel
        return offered, evictions

    async def _pace(self, announced: TunnelInfo, held: Item[TunnelInfo] | None) -> None:
        """Wait until the bucket of hashes allows this proof to be checked."""
        now = asyncio.get_running_loop().time()
        earliest = now - _HASH_BURST / _HASH_RATE
        self._hashed_until = max(self._hashed_until, earliest) + hash_cost(announced, held) / _HASH_RATE
        if self._hashed_until > now:
            await asyncio.sleep(self._hashed_until - now)

    async def _bind(
        self, offered: dict[str, TunnelInfo], held: dict[str, Item[TunnelInfo] | None], lease: LeaseId
    ) -> list[Eviction]:
        evictions: list[Eviction] = []
        room = Room(self._quota)
        for _ in range(TRIES):
            writes: list[Write] = []
            writing: list[str] = []
            for label, tunnel in offered.items():
                current = held.get(label)
                verdict = decide(tunnel, current, lease, self._tunnels.last_holder(label))
                if verdict is Verdict.SUPERSEDED:
                    evictions.append(_superseded(tunnel))
                    continue
                if verdict is Verdict.KNOWN:
                    continue
                full = room.take(tunnel, None if current is None else current.value)
                if full is not None:
                    evictions.append(full.eviction(tunnel))
                    continue
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
        """Read these tunnels from the store, a few at a time."""
        found: dict[str, Item[TunnelInfo] | None] = {}
        wanted = list(labels)
        for start in range(0, len(wanted), _READS):
            chunk = wanted[start : start + _READS]
            entries = await asyncio.gather(*(self._store.get(keys.tunnel(label)) for label in chunk))
            for label, entry in zip(chunk, entries, strict=True):
                found[label] = None if entry is None else self._tunnels.item(entry)
        return found


def _superseded(tunnel: TunnelInfo) -> Eviction:
    return Eviction(label=tunnel.label, epoch=tunnel.epoch, reason=EVICTION_REASON_SUPERSEDED)
