"""Invitations: each lets one new node join, once, within a time; shown once, kept as a hash.

Here: making, listing and revoking them, and telling whose token it is. Not here: what joining does (joining.py), tokens
of clients and admins (tokens.py).
"""

import hmac
import re
from collections.abc import Callable
from typing import Final

import msgspec

from portway_registry.access import tokens
from portway_registry.errors import (
    Busy,
    InvalidRequest,
    InvitationOver,
    InvitationUnknown,
    NotFound,
    StoreUnavailable,
    TokenMalformed,
)
from portway_registry.names import check_node, check_region
from portway_registry.state import keys
from portway_registry.state.records import InvitationRecord, encode
from portway_registry.state.views import View
from portway_registry.store.contract import Revision, Store

PREFIX: Final = "pwj_"
_FORM: Final = re.compile(r"pwj_([a-z0-9]{1,32})_([a-z2-7]{32})")
_ABSENT: Final = Revision(0)
# Time to walk to another machine and paste it; a token that is lost is soon worth nothing.
_TTL: Final = 3_600
_LONGEST_TTL: Final = 30 * 24 * 3_600
# Each is looked up in the store, at most so many at once: strangers with made-up tokens must not be able to load it.
_LOOKUPS: Final = 8
_TRIES: Final = 8
# What is over is kept for whoever wonders who joined with it, and then let go of.
_KEPT_MS: Final = 30 * 24 * 3_600_000


def why_over(record: InvitationRecord, now_ms: int) -> str:
    """Why it lets nobody in any more; empty when it does."""
    if record.revoked_at_ms:
        return "is revoked"
    if record.used_at_ms:
        return f"was used by node {record.used_by}"
    return "has expired" if now_ms >= record.expires_at_ms else ""


class Invitations:
    """The invitations of a cluster."""

    def __init__(self, store: Store, known: View[InvitationRecord], now_ms: Callable[[], int]) -> None:
        self._store = store
        self._known = known
        self._now_ms = now_ms
        self._lookups = 0

    async def make(self, *, region: str, node: str, ttl: int, by: str) -> tuple[InvitationRecord, str]:
        """A new one, and its token. Raises InvalidRequest, StoreUnavailable."""
        try:
            check_region(region)
            if node:
                check_node(node)
        except ValueError as error:
            raise InvalidRequest(str(error)) from None
        if not 0 <= ttl <= _LONGEST_TTL:
            raise InvalidRequest(f"an invitation can be used for {_LONGEST_TTL // 86_400} days at the most")
        await self._forget_old()
        now = self._now_ms()
        for _ in range(_TRIES):
            secret = tokens.new_secret()
            record = InvitationRecord(
                id=tokens.new_id(),
                region=region,
                node=node,
                secret_sha256=tokens.hash_of(secret),
                created_by=by,
                created_at_ms=now,
                expires_at_ms=now + (ttl or _TTL) * 1000,
            )
            if await self._store.put(keys.invitation(record.id), encode(record), expected=_ABSENT):
                return record, f"{PREFIX}{record.id}_{secret}"
        raise StoreUnavailable("no free invitation id was found")

    def listed(self, *, over: bool) -> list[InvitationRecord]:
        """The oldest first; with `over` also those that let nobody in any more."""
        now = self._now_ms()
        found = (one for one in self._known.values() if over or not why_over(one, now))
        return sorted(found, key=lambda one: (one.created_at_ms, one.id))

    async def revoke(self, invitation_id: str) -> InvitationRecord:
        """From now on nobody joins with it; who has joined stays. Raises NotFound, InvalidRequest, StoreUnavailable."""
        for _ in range(_TRIES):
            entry = await self._store.get(keys.invitation(invitation_id))
            record = None if entry is None else self._known.decode(entry)
            if entry is None or record is None:
                raise NotFound(f"no invitation {invitation_id!r} is known: see `portway-admin invitation list --all`")
            if record.revoked_at_ms:
                return record
            if record.used_at_ms:
                raise InvalidRequest(
                    f"node {record.used_by} has joined with it already: `portway-admin node remove {record.used_by}` "
                    "shuts that node out"
                )
            revoked = msgspec.structs.replace(record, revoked_at_ms=self._now_ms())
            if await self._store.put(entry.key, encode(revoked), expected=entry.modified):
                return revoked
        raise StoreUnavailable("the invitation changed each time it was to be revoked")

    async def authenticate(self, text: str) -> InvitationRecord:
        """The invitation of a token, read from the store itself: another replica may have seen it used just now.

        Raises a NotAuthenticated; Busy and StoreUnavailable when nothing can be said of it now.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise TokenMalformed
        if self._lookups >= _LOOKUPS:
            raise Busy("the registry is looking up too many invitations: try again in a second")
        self._lookups += 1
        try:
            entry = await self._store.get(keys.invitation(match[1]))
        finally:
            self._lookups -= 1
        record = None if entry is None else self._known.decode(entry)
        if record is None or not hmac.compare_digest(record.secret_sha256, tokens.hash_of(match[2])):
            raise InvitationUnknown
        over = why_over(record, self._now_ms())
        # One that was used may be shown again by the node that used it: joining.py looks at its key.
        if over and not (record.used_at_ms and not record.revoked_at_ms):
            raise InvitationOver(over)
        return record

    async def _forget_old(self) -> None:
        before = self._now_ms() - _KEPT_MS
        for item in list(self._known.items.values()):
            if item.value.expires_at_ms < before:
                await self._store.delete(keys.invitation(item.name), expected=item.modified)
