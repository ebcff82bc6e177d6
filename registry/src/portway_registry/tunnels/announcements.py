"""Applying a node's announcements to the store, one batch at a time; applying a batch twice does no harm.

Here: in which order a batch is checked, read and written. Not here: which tunnels are admitted (admission.py), whose
sessions are good (sessions.py), and when a batch is tried again.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from portway_proto.records import InvalidRecord, session_record, tunnel_record
from portway_proto.v1.mesh_pb2 import (
    EVICTION_REASON_INVALID,
    EVICTION_REASON_QUOTA,
    EVICTION_REASON_SUPERSEDED,
    Announce,
    Eviction,
    EvictionReason,
    Withdrawal,
)
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.labels import is_label
from portway_proto.wire.statements import Claim, StatementInvalid, read_claim

from portway_registry.errors import InvalidRequest, StoreUnavailable
from portway_registry.state import keys
from portway_registry.state.views import Item, TunnelView
from portway_registry.store.contract import Delete, LeaseId, Put, Revision, Store, Write
from portway_registry.store.update import TRIES, revision_of
from portway_registry.tunnels.admission import MAX_TUNNELS, Verdict, decide, may_withdraw, objection
from portway_registry.tunnels.quota import Quota, Room
from portway_registry.tunnels.sessions import AnnouncedSessions, Session, SessionRules
from portway_registry.tunnels.statement_checks import NodeChecks

logger = logging.getLogger(__name__)

# Tunnels of a batch that are checked and written together. What the loop does with them takes some milliseconds, after
# which other tasks get their turn.
_PIECE: Final = 64
# Records copied before other tasks get their turn; each takes some 10 µs.
_RECORDS_PER_TURN: Final = 64

_Held = dict[str, Item[TunnelInfo] | None]


async def checked(batch: Announce) -> Announce:
    """A copy of a node's batch with known fields only. Raises InvalidRequest for a field without its form.

    Other tasks get their turn meanwhile; the batch may be a node's whole state.
    """
    copy = Announce(batch=batch.batch, full=batch.full)
    try:
        for number, tunnel in enumerate(batch.bound):
            if number % _RECORDS_PER_TURN == 0:
                await asyncio.sleep(0)
            copy.bound.append(tunnel_record(tunnel))
        for number, session in enumerate(batch.sessions):
            if number % _RECORDS_PER_TURN == 0:
                await asyncio.sleep(0)
            copy.sessions.append(session_record(session))
    except InvalidRecord as error:
        raise InvalidRequest(f"the announcement of a tunnel is refused: {error}") from None
    for withdrawal in batch.withdrawn:
        if not is_label(withdrawal.label):
            raise InvalidRequest("the withdrawal of a tunnel is refused: it does not name a label")
        copy.withdrawn.append(Withdrawal(label=withdrawal.label, epoch=withdrawal.epoch))
    return copy


@dataclass(slots=True)
class _Offer:
    """A tunnel as it is to be stored, its claim, and the session that it is of."""

    tunnel: TunnelInfo
    claim: Claim
    session: Session


class Announcements:
    """Writes the tunnels that one node holds to the store."""

    def __init__(
        self,
        store: Store,
        tunnels: TunnelView,
        quota: Quota,
        rules: SessionRules,
        checks: NodeChecks,
        now_ms: Callable[[], int],
        *,
        node: str,
        region: str,
    ) -> None:
        self._store = store
        self._tunnels = tunnels
        self._quota = quota
        self._rules = rules
        self._checks = checks
        self._now_ms = now_ms
        self._node = node
        self._region = region
        self._holds: set[str] = set()  # the labels that the node announced, and may have; at most MAX_TUNNELS
        # Deleted for this node, or about to be, while the view still shows it: by label the revision that is deleted.
        self._deleted: dict[str, Revision] = {}
        self._is_whole = False  # these are all: the node has announced all of them in one batch

    def is_stale(self, tunnel: Item[TunnelInfo]) -> bool:
        """Whether a tunnel of this node in the view is left over from an earlier session of the node, whose last writes
        may show after the full batch."""
        return self._is_whole and tunnel.name not in self._holds

    def is_missing(self, tunnel: Item[TunnelInfo]) -> bool:
        """Whether the store has lost a tunnel of this node that the node holds: another replica, which the node has
        left since, withdrew it late, and this one took it for known meanwhile."""
        return tunnel.name in self._holds and self._deleted.get(tunnel.name) != tunnel.modified

    async def apply(self, batch: Announce, lease: LeaseId) -> list[Eviction]:
        """Write and delete what `batch` announces and withdraws; returns the tunnels that the node must drop.

        Raises StoreUnavailable and LeaseLost; a part may have been done then: apply the batch again.
        """
        self._note(batch)
        self._forget_deleted()
        # Withdrawals first: a token whose quota is used up may close one tunnel and open another.
        withdrawn = list(batch.withdrawn)
        if batch.full:
            withdrawn += [
                Withdrawal(label=label, epoch=item.value.epoch)
                for label, item in self._tunnels.of_node(self._node).items()
                if self.is_stale(item)
            ]
        await self.withdraw(withdrawn)
        sessions = AnnouncedSessions(self._rules, self._checks, self._node, batch.sessions)
        evictions: list[Eviction] = []
        room = Room(self._quota)
        for start in range(0, len(batch.bound), _PIECE):
            evictions += await self._apply_piece(batch.bound[start : start + _PIECE], sessions, room, lease)
        await sessions.renew_the_others()
        self._holds.difference_update(eviction.label for eviction in evictions)
        return evictions

    async def withdraw(self, withdrawn: Iterable[Withdrawal]) -> None:
        """Delete each of these bindings that the store still has. Raises StoreUnavailable."""
        undone = {item.label: item.epoch for item in withdrawn}
        held = {label: self._in_view(label) for label in undone}
        # A binding that the view does not show may merely not have arrived there yet.
        held.update(await self._tunnels.read(label for label in undone if not self._mine(label, undone, held)))
        for _ in range(TRIES):
            going = [(label, held[label]) for label in undone if self._mine(label, undone, held)]
            writes = [Delete(keys.tunnel(label), item.modified) for label, item in going if item is not None]
            if not writes:
                return
            # Before the write: the view may show the deletion before the store has answered. What is not deleted after
            # all does no harm here: who takes it for absent is refused by the store, and reads it.
            self._deleted.update((label, item.modified) for label, item in going if item is not None)
            done = await self._store.write(writes)
            for (_, item), ok in zip(going, done, strict=True):
                if ok and item is not None:
                    self._quota.deleted(item)
            undone = {label: undone[label] for (label, _), ok in zip(going, done, strict=True) if not ok}
            held = await self._tunnels.read(undone)

    def _in_view(self, label: str) -> Item[TunnelInfo] | None:
        """The tunnel as the view shows it, unless it was deleted here since: one that is announced again with the same
        claim, after its client was away, is to be written again."""
        item = self._tunnels.items.get(label)
        return None if item is None or self._deleted.get(label) == item.modified else item

    def _forget_deleted(self) -> None:
        shown = self._tunnels.items
        kept = ((label, shown.get(label), deleted) for label, deleted in self._deleted.items())
        self._deleted = {label: deleted for label, item, deleted in kept if item and item.modified == deleted}

    def _note(self, batch: Announce) -> None:
        if batch.full:
            self._holds.clear()
            self._is_whole = True
        self._holds.difference_update(item.label for item in batch.withdrawn)
        for item in batch.bound:
            if len(self._holds) >= MAX_TUNNELS:
                return
            self._holds.add(item.label)

    async def _apply_piece(
        self, announced: Iterable[TunnelInfo], sessions: AnnouncedSessions, room: Room, lease: LeaseId
    ) -> list[Eviction]:
        await asyncio.sleep(0)
        evictions = _Evictions(self._node)
        held = {one.label: self._in_view(one.label) for one in announced}
        offers = [
            offer
            for one in announced
            if (offer := await self._offer(one, held[one.label], sessions, lease, evictions)) is not None
        ]
        genuine = await self._genuine(offers, held, sessions, evictions)
        await sessions.store([offer.session for offer in genuine])
        writing = [one for one in genuine if decide(one.tunnel, held[one.tunnel.label], lease) is not Verdict.KNOWN]
        await sessions.confirm(offer.session for offer in writing)
        offered: dict[str, TunnelInfo] = {}
        for offer in genuine:
            # A later presence may have come to the store meanwhile.
            if (problem := offer.session.objection(offer.claim)) is not None:
                evictions.invalid(offer.tunnel, problem)
            else:
                offered[offer.tunnel.label] = offer.tunnel
        await self._bind(offered, held, room, lease, evictions)
        evictions.log()
        return evictions.all

    async def _offer(
        self,
        announced: TunnelInfo,
        held: Item[TunnelInfo] | None,
        sessions: AnnouncedSessions,
        lease: LeaseId,
        evictions: "_Evictions",
    ) -> _Offer | None:
        """The tunnel to store, if nothing but signatures is open; else None, with an eviction."""
        if announced.label not in self._holds:
            evictions.add(announced, EVICTION_REASON_QUOTA, f"a node has at most {MAX_TUNNELS} tunnels")
            return None
        try:
            claim = read_claim(announced.claim)
        except StatementInvalid as error:
            evictions.invalid(announced, str(error))
            return None
        session = await sessions.of(claim.session_key)
        presence = None if session is None else session.presence
        problem = objection(announced, claim, presence, node=self._node, now_ms=self._now_ms())
        if held is not None and decide(announced, held, lease) is Verdict.SUPERSEDED:
            evictions.superseded(announced, held.value)
        elif problem is not None or session is None:
            evictions.invalid(announced, problem or "its session was not announced")
        else:
            tunnel = TunnelInfo()
            tunnel.CopyFrom(announced)
            # A node announces only its own tunnels, whatever it says, and whose they are is in the grant.
            tunnel.node, tunnel.region = self._node, self._region
            tunnel.tenant, tunnel.token_id = session.grant.tenant, session.grant.token_id
            return _Offer(tunnel, claim, session)
        return None

    async def _genuine(
        self, offers: list[_Offer], held: _Held, sessions: AnnouncedSessions, evictions: "_Evictions"
    ) -> list[_Offer]:
        """The offers that are signed by whom they should be. What the store has already is not checked again."""
        unknown = [offer for offer in offers if not _is_known(offer, held[offer.tunnel.label])]
        await sessions.check([offer.session for offer in offers], {offer.session.key for offer in unknown})
        open_ = [offer for offer in unknown if not offer.session.is_forged]
        answers = await self._checks.genuine([offer.claim.signed(self._rules.cluster) for offer in open_])
        forged = {id(offer) for offer, is_genuine in zip(open_, answers, strict=True) if not is_genuine}
        genuine: list[_Offer] = []
        for offer in offers:
            if not offer.session.is_forged and id(offer) not in forged:
                genuine.append(offer)
            else:
                evictions.invalid(offer.tunnel, "a signature is forged")
        return genuine

    async def _bind(
        self, offered: dict[str, TunnelInfo], held: _Held, room: Room, lease: LeaseId, evictions: "_Evictions"
    ) -> None:
        for _ in range(TRIES):
            writes: list[Write] = []
            writing: list[str] = []
            for label, tunnel in offered.items():
                current = held.get(label)
                verdict = decide(tunnel, current, lease)
                if verdict is Verdict.SUPERSEDED and current is not None:
                    evictions.superseded(tunnel, current.value)
                    continue
                if verdict is Verdict.KNOWN:
                    continue
                full = room.take(tunnel, None if current is None else current.value)
                if full is not None:
                    evictions.all.append(full.eviction(tunnel))
                    continue
                writes.append(Put(keys.tunnel(label), tunnel.SerializeToString(), revision_of(current), lease))
                writing.append(label)
            if not writes:
                return
            done = await self._store.write(writes)
            offered = {label: offered[label] for label, ok in zip(writing, done, strict=True) if not ok}
            held = await self._tunnels.read(offered)
        raise StoreUnavailable("labels changed each time they were to be written")

    def _mine(self, label: str, undone: dict[str, int], held: _Held) -> bool:
        return may_withdraw(self._node, undone[label], held.get(label))


def _is_known(offer: _Offer, held: Item[TunnelInfo] | None) -> bool:
    """Whether the store has this claim byte for byte, for the same tenant and token: it was checked before."""
    if held is None:
        return False
    stored = held.value
    return (stored.claim, stored.tenant, stored.token_id) == (
        offer.tunnel.claim,
        offer.tunnel.tenant,
        offer.tunnel.token_id,
    )


class _Evictions:
    """What the node is told to drop, and a line for the log, however many there are."""

    def __init__(self, node: str) -> None:
        self.all: list[Eviction] = []
        self._node = node
        self._problems: Counter[str] = Counter()

    def add(self, tunnel: TunnelInfo, reason: "EvictionReason.ValueType", problem: str = "") -> None:
        self.all.append(Eviction(label=tunnel.label, epoch=tunnel.epoch, reason=reason))
        if problem:
            self._problems[problem] += 1

    def invalid(self, tunnel: TunnelInfo, problem: str) -> None:
        self.add(tunnel, EVICTION_REASON_INVALID, problem)

    def superseded(self, tunnel: TunnelInfo, owner: TunnelInfo) -> None:
        self.add(tunnel, EVICTION_REASON_SUPERSEDED)
        self.all[-1].claim = owner.claim

    def log(self) -> None:
        for problem, number in self._problems.items():
            logger.warning(
                "announced tunnels refused", extra={"node": self._node, "tunnels": number, "reason": problem}
            )
