"""Invitations: each lets one new node join, once, before it expires; shown once, stored as a hash.

Here: making, listing and revoking them, and which invitation a token is of. Not here: what joining does.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from portway_registry.access.credentials import BoundedLookups, Credential
from portway_registry.errors import InvalidRequest, InvitationOver, InvitationUnknown, NotFound
from portway_registry.names import check_node, check_region
from portway_registry.state import keys
from portway_registry.state.audit import Audit
from portway_registry.state.records import InvitationRecord, encode
from portway_registry.state.views import View
from portway_registry.store.contract import Entry, Store
from portway_registry.store.update import Decision, create, update

PREFIX: Final = "pwj_"
# Seconds: time to walk to another machine and paste it; a token that is lost is soon worth nothing.
_TTL: Final = 3_600
_LONGEST_TTL: Final = 30 * 24 * 3_600
# Expired ones are listed this long, so that an operator can still see which node joined with one; then deleted.
_KEPT_MS: Final = 30 * 24 * 3_600_000
# A node that lost the answer to its Join asks again at once, and its operator starts it again within minutes. Later,
# whoever copied the token and the node's key would get a certificate that nobody expects.
_REPEAT_MS: Final = 600_000


def why_over(record: InvitationRecord, now_ms: int) -> str:
    """Why no node can join with it any more, as "is revoked"; empty when one can."""
    if record.revoked_at_ms:
        return "is revoked"
    if record.used_at_ms:
        return f"was used by node {record.used_by}"
    return "has expired" if now_ms >= record.expires_at_ms else ""


def may_repeat(record: InvitationRecord, now_ms: int) -> bool:
    """Whether the node that used it may still ask for the answer again, as far as the time goes."""
    return bool(record.used_at_ms) and not record.revoked_at_ms and now_ms < record.used_at_ms + _REPEAT_MS


class Invitations:
    """The invitations of a cluster."""

    def __init__(self, store: Store, known: View[InvitationRecord], audit: Audit, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._known = known
        self._audit = audit
        self._now_ms = now_ms
        self._lookups = BoundedLookups(store, "invitations")

    async def create(self, *, region: str, node: str, ttl: int, by: str) -> tuple[InvitationRecord, str]:
        """A new invitation and its token, made by the token `by`; this replica knows it when this returns.

        node: the only name it is good for; "" lets the node choose. ttl: seconds until it expires; 0 for an hour.
        Raises InvalidRequest, StoreUnavailable.
        """
        try:
            check_region(region)
            if node:
                check_node(node)
        except ValueError as error:
            raise InvalidRequest(str(error)) from None
        if not 0 <= ttl <= _LONGEST_TTL:
            raise InvalidRequest(f"an invitation is valid for at most {_LONGEST_TTL // 86_400} days")
        await self._delete_old()
        now = self._now_ms()

        def make() -> tuple[str, bytes, tuple[InvitationRecord, str]]:
            credential = Credential.create()
            record = InvitationRecord(
                id=credential.id,
                region=region,
                node=node,
                secret_sha256=credential.sha256,
                created_by=by,
                created_at_ms=now,
                expires_at_ms=now + (ttl or _TTL) * 1000,
            )
            return keys.invitation(record.id), encode(record), (record, credential.text(PREFIX))

        made, token = await create(self._store, make, "no free invitation id was found")
        if await self._audit.add_done(by, "node.invite", made.id):
            await self._known.caught_up_if_possible(made.id)
        return made, token

    def find(self, *, over: bool) -> list[InvitationRecord]:
        """Those that a node can join with; with `over` all."""
        now = self._now_ms()
        return [one for one in self._known.values() if over or not why_over(one, now)]

    async def revoke(self, invitation_id: str, *, by: str) -> InvitationRecord:
        """From now on no node joins with it; one that has joined stays. Nothing changes when it is revoked already.

        Raises NotFound, InvalidRequest for one that was used, StoreUnavailable.
        """

        async def decide(entry: Entry | None) -> Decision[InvitationRecord]:
            record = None if entry is None else self._known.decode(entry)
            if record is None:
                raise NotFound(f"no invitation {invitation_id!r} is known: see `portway-admin invitation list --all`")
            if record.revoked_at_ms:
                return Decision(record)
            if record.used_at_ms:
                raise InvalidRequest(
                    f"node {record.used_by} has joined with it already: `portway-admin node remove {record.used_by}` "
                    "shuts that node out"
                )
            revoked = msgspec.structs.replace(record, revoked_at_ms=self._now_ms())
            return Decision(revoked, encode(revoked))

        record = await update(
            self._store, keys.invitation(invitation_id), decide, "the invitation changed at each try to revoke it"
        )
        if await self._audit.add_done(by, "invitation.revoke", record.id):
            await self._known.caught_up_if_possible(record.id)
        return record

    async def authenticate(self, text: str) -> InvitationRecord:
        """The invitation of a token, read from the store itself: another replica may have seen it used just now.

        Raises a NotAuthenticated; Busy and StoreUnavailable when it cannot be verified now.
        """
        shown = Credential.parse(text, PREFIX)
        entry = await self._lookups.get(keys.invitation(shown.id))
        record = None if entry is None else self._known.decode(entry)
        if record is None or not shown.matches(record.secret_sha256):
            raise InvitationUnknown
        now = self._now_ms()
        over = why_over(record, now)
        # A used one may be shown again by the node that used it, whose key is compared when it joins.
        if over and not may_repeat(record, now):
            raise InvitationOver(over)
        return record

    async def _delete_old(self) -> None:
        before = self._now_ms() - _KEPT_MS
        for item in list(self._known.items.values()):
            if item.value.expires_at_ms < before:
                await self._store.delete(keys.invitation(item.name), expected=item.modified)
