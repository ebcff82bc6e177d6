"""Replacing the cluster's CA: the next one is trusted by everybody before it issues, and the one before is trusted
until nobody has a certificate of it.

Here: the stages and what each waits for. Not here: what the CAs are used for (pki/, certificates.py), how nodes and
clients learn of them (hub.py, services/discovery.py). The stages are one record in the store, so that each change is a
compare-and-swap, and whoever is interrupted may begin again.

A CA that is announced issues once every node, replica and client trusts it. A node that is away with a valid
certificate is waited for, too: it could not verify a registry any more when it comes back. A CA that was replaced is
retired by operators, when no certificate of it is left.
"""

import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding
from portway_proto.v1.types_pb2 import NodeInfo

from portway_registry.access.grants import HONOURED_MS
from portway_registry.errors import InvalidRequest, NotFound, NotYet
from portway_registry.nodes.authority_status import AuthorityState, AuthorityStatus
from portway_registry.pki.cluster_authority import ClusterAuthority, id_of, new_stored
from portway_registry.state import keys
from portway_registry.state.audit import Audit
from portway_registry.state.lookout import Lookout
from portway_registry.state.records import (
    AuthorityRecord,
    IdentityRecord,
    NotedCertificate,
    Order,
    StoredAuthority,
    decode_authority,
    encode,
)
from portway_registry.state.views import View, Views
from portway_registry.store.contract import Entry, Store
from portway_registry.store.update import Decision, update

logger = logging.getLogger(__name__)

# Seconds. A change of nodes, replicas or CAs is looked at when it comes; this is for the time of day.
_CHECK_EVERY: Final = 60.0
# Seconds in which nodes and replicas that answer have said that they trust a CA.
ANSWERED_WITHIN: Final = 2.0
_MOST_NAMED: Final = 100
_CONTENDED: Final = "the cluster's CA changed at each try to write it"


class AuthorityRotation:
    """The CAs of a cluster, and their replacement by operators."""

    def __init__(
        self,
        store: Store,
        views: Views,
        authority: ClusterAuthority,
        audit: Audit,
        now_ms: Callable[[], int],
        *,
        certificate_life_ms: int,
        patience: float = ANSWERED_WITHIN,
    ) -> None:
        """certificate_life_ms: of nodes' certificates. patience: seconds for which `rotate` waits for the new CA to
        issue."""
        self._store = store
        self._views = views
        self._authority = authority
        self._audit = audit
        self._now_ms = now_ms
        self._life_ms = certificate_life_ms
        self._patience = patience
        self._lookout = Lookout(self.look, every=_CHECK_EVERY, trouble="the cluster's CA is not replaced yet")

    def all(self) -> dict[str, AuthorityStatus]:
        """Every CA by a sort key, the one that issues first."""
        return {f"{number:03d}": self._status(one) for number, one in enumerate(self._authority.ids)}

    async def rotate(self, *, force: bool, by: str) -> AuthorityStatus:
        """Make the next CA, or go on with the one that is announced; returns when it issues, and at the latest when
        those that answer have answered. With `force` it issues now. May be called again. `by` is the operator's token.

        Raises InvalidRequest for a CA from files, NotYet while the CA before is not retired, StoreUnavailable.
        """
        self._demand_stored()

        async def decide(entry: Entry | None) -> Decision[tuple[str, bool]]:
            record = _found(entry)
            if record.next is not None:
                return Decision((id_of(record.next), False))
            if record.before is not None:
                raise NotYet(
                    f"CA {id_of(record.before)} is not retired yet (`portway-admin ca retire {id_of(record.before)}`): "
                    "one is replaced at a time"
                )
            made, now = new_stored(self._now_ms()), self._now_ms()
            changed = msgspec.structs.replace(record, next=made, changed_at_ms=now)
            return Decision((id_of(made), True), encode(changed))

        announced, fresh = await update(self._store, keys.AUTHORITY, decide, _CONTENDED)
        if fresh:
            logger.info("CA announced", extra={"id": announced, "by": by})
            await self._audit.add_done(by, "ca.rotate", announced)
        await self._views.authority.caught_up("")
        if force and await self._let_issue(announced):
            await self._audit.add_done(by, "ca.rotate-by-force", announced)
        await self._lookout.until(lambda: self._authority.issuer_id == announced, self._watched(), self._patience)
        return self._named(announced)

    async def retire(self, authority: str, *, force: bool, by: str) -> AuthorityStatus:
        """Take a CA away; returns what it was. With `force` although certificates of it may be in use.

        Raises InvalidRequest for a CA from files, NotFound, NotYet, StoreUnavailable.
        """
        self._demand_stored()
        await self._views.authority.caught_up("")

        async def decide(entry: Entry | None) -> Decision[AuthorityStatus]:
            record = _found(entry)
            status = self._named(authority)
            if id_of(record) == authority:
                raise NotYet(f"CA {authority} issues certificates: `portway-admin ca rotate` makes the next one")
            if record.before is not None and id_of(record.before) == authority:
                if not force:
                    self._demand_unused(status)
                return Decision(status, encode(self._without(record, before=True)))
            if record.next is not None and id_of(record.next) == authority:
                return Decision(status, encode(self._without(record, before=False)))
            raise NotFound(f"no CA {authority!r} is known: see `portway-admin ca list`")

        status = await update(self._store, keys.AUTHORITY, decide, _CONTENDED)
        logger.info("CA retired", extra={"id": authority, "by": by})
        await self._audit.add_done(by, "ca.retire-by-force" if force else "ca.retire", authority)
        await self._views.authority.caught_up_if_possible("")
        return status

    async def run(self) -> None:
        """Let an announced CA issue as soon as it may, for ever."""
        await self._lookout.run([view.subscribe(self._notice) for view in self._watched()])

    async def look(self) -> None:
        """Let an announced CA issue if everybody trusts it. Raises StoreUnavailable, and NotYet when the store has lost
        its record."""
        announced = self._announced()
        if announced and announced in self._authority.ids and not self._status(announced).waits_for:
            await self._let_issue(announced)

    def _demand_stored(self) -> None:
        if self._authority.from_files:
            raise InvalidRequest(
                "this cluster's CA is from --cluster-ca: put the next one's certificate behind it in that file, and "
                "look with `portway-admin ca list` (docs/rotation.md)"
            )

    def _demand_unused(self, status: AuthorityStatus) -> None:
        if status.used_by:
            raise NotYet(
                f"certificates of CA {status.id} are in use ({status.used_by}): nodes renew theirs within minutes, and "
                "`portway-admin node remove NAME` gives up one that does not come back. With --force those lose the "
                "cluster until they are invited anew"
            )

    def _without(self, record: AuthorityRecord, *, before: bool) -> AuthorityRecord:
        now = self._now_ms()
        if before:
            return msgspec.structs.replace(record, before=None, changed_at_ms=now)
        return msgspec.structs.replace(record, next=None, changed_at_ms=now)

    async def _let_issue(self, announced: str) -> bool:
        """Whether it was this call that did it."""

        async def decide(entry: Entry | None) -> Decision[bool]:
            record = _found(entry)
            if record.next is None or id_of(record.next) != announced:
                return Decision(False)
            new = record.next
            before = StoredAuthority(record.certificate, record.private_key, record.created_at_ms)
            changed = AuthorityRecord(
                new.certificate, new.private_key, new.created_at_ms, before=before, changed_at_ms=self._now_ms()
            )
            return Decision(True, encode(changed))

        done = await update(self._store, keys.AUTHORITY, decide, _CONTENDED)
        if done:
            logger.info("CA issues certificates from now on", extra={"id": announced})
        return done

    def _named(self, authority: str) -> AuthorityStatus:
        if authority not in self._authority.ids:
            raise NotFound(f"no CA {authority!r} is known: see `portway-admin ca list`")
        return self._status(authority)

    def _status(self, authority: str) -> AuthorityStatus:
        record = self._views.authority.get("")
        certificate = self._authority.trusted[authority]
        state = AuthorityState.RETIRING
        if authority == self._authority.issuer_id:
            state = AuthorityState.ISSUING
        elif self._authority.from_files or authority == self._announced():
            state = AuthorityState.ANNOUNCED
        live = [node for node in self._views.nodes.values() if not self._is_removed(node.name)]
        replicas = list(self._views.replicas.values())
        away = list(self._away(live))
        used_away = {
            one.node: certificate.until_ms
            for one in away
            for certificate in self._certificates(one)
            if (certificate.authority or self._oldest()) == authority
        }
        return AuthorityStatus(
            authority,
            state,
            _made_at(record, authority, certificate.not_valid_before_utc),
            int(certificate.not_valid_after_utc.timestamp() * 1000),
            certificate.public_bytes(Encoding.PEM),
            self._authority.from_files,
            _some(node.name for node in live if authority not in node.authorities),
            _some(one.id for one in replicas if authority not in one.authorities),
            _some(one.node for one in away if any(authority not in each.trusted for each in self._certificates(one))),
            _some(node.name for node in self._with_unaware(live, authority)),
            _some(node.name for node in live if self._certified_by(node) == authority),
            _some(one.id for one in replicas if one.certificate_authority == authority),
            _some(iter(used_away)),
            max(used_away.values(), default=0),
        )

    def _with_unaware(self, live: list[NodeInfo], authority: str) -> Iterator[NodeInfo]:
        """Nodes that trust it and have clients that do not. Such a client has had no grant since the CA was announced,
        or does not say what it was told: it is waited for as long as a grant of before may be honoured."""
        record = self._views.authority.get("")
        announced = record.next if record is not None and authority == self._announced() else None
        if announced is not None and self._now_ms() - announced.created_at_ms > HONOURED_MS:
            return
        yield from (node for node in live if authority in node.authorities and node.unaware_clients)

    def _away(self, live: list[NodeInfo]) -> Iterator[IdentityRecord]:
        """Nodes that joined, do not live, and may come back with their certificate."""
        here = {node.name for node in live}
        for one in self._views.identities.values():
            if one.node not in here and not self._is_removed(one.node) and self._certificates(one):
                yield one

    def _certificates(self, identity: IdentityRecord) -> list[NotedCertificate]:
        """The valid certificates of which the node has one: the answer with the last one may not have reached it."""
        until = identity.issued_until_ms
        if not until:  # issued by an earlier release: it had its whole life before it at most
            record = self._views.authority.get("")
            until = (record.changed_at_ms if record is not None else 0) + self._life_ms
        last = NotedCertificate(identity.authority, until, identity.trusted)
        return [one for one in (identity.former, last) if one is not None and one.until_ms > self._now_ms()]

    def _certified_by(self, node: NodeInfo) -> str:
        """A node of an earlier release does not say it: its certificate counts as one of the CA before."""
        return node.certificate_authority or self._oldest()

    def _oldest(self) -> str:
        record = self._views.authority.get("")
        return id_of(record.before) if record is not None and record.before is not None else self._authority.issuer_id

    def _announced(self) -> str:
        """The id of the CA that is announced; "" without one."""
        record = self._views.authority.get("")
        return id_of(record.next) if record is not None and record.next is not None else ""

    def _is_removed(self, node: str) -> bool:
        order = self._views.orders.get(node)
        return order is not None and order.order is Order.REMOVE

    def _watched(self) -> tuple[View[Any], ...]:
        views = self._views
        return views.authority, views.nodes, views.replicas, views.identities, views.orders

    def _notice(self, old: object, new: object) -> None:
        """Nodes and replicas matter while a CA is announced."""
        if self._announced():
            self._lookout.notice()


def _found(entry: Entry | None) -> AuthorityRecord:
    if entry is None:
        raise NotYet("the cluster's CA is gone from the store: put back a copy of its record first")
    try:
        return decode_authority(entry.value)
    except ValueError as error:
        raise NotYet(
            f"the cluster's CA in the store is damaged, put back a copy of its record first: {error}"
        ) from error


def _made_at(record: AuthorityRecord | None, authority: str, valid_from: datetime) -> int:
    for one in () if record is None else (record, record.next, record.before):
        if one is not None and id_of(one) == authority and one.created_at_ms:
            return one.created_at_ms
    return int(valid_from.timestamp() * 1000)


def _some(names: Iterator[str]) -> tuple[str, ...]:
    return tuple(sorted(names)[:_MOST_NAMED])
