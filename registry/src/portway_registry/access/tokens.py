"""API tokens of clients and admins: created, shown once, stored as a hash, revoked.

Here: their rules, and which token a call carries. Not here: which role may call which method.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from portway_registry.access.credentials import BoundedLookups, Credential, TokenId
from portway_registry.errors import InvalidRequest, NotFound, TokenMalformed, TokenMissing, TokenRevoked, TokenUnknown
from portway_registry.names import check_tenant
from portway_registry.state import keys
from portway_registry.state.audit import Audit
from portway_registry.state.records import Role, TokenRecord, encode
from portway_registry.state.views import View
from portway_registry.store.contract import Entry, Store
from portway_registry.store.update import Decision, create, update

logger = logging.getLogger(__name__)

PREFIX: Final = "pw_"
# The token of the first start has a fixed id: one compare-and-swap decides which replica makes it.
FIRST_ADMIN: Final = TokenId("admin")

_SCHEME: Final = "bearer "
_LONGEST_DESCRIPTION: Final = 200
# A quota above what a hundred nodes can hold would be none.
MOST_TUNNELS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token as it is shown, once, and the record that is stored."""

    text: str = field(repr=False)
    record: TokenRecord


def new_token(
    *,
    tenant: str,
    role: Role,
    now_ms: int,
    token_id: TokenId | None = None,
    description: str = "",
    max_tunnels: int = 0,
) -> NewToken:
    """A token with a random secret. `max_tunnels` 0 means that its tenant's limit is the only one."""
    credential = Credential.create(token_id)
    record = TokenRecord(
        id=credential.id,
        tenant=tenant,
        role=role,
        secret_sha256=credential.sha256,
        description=description,
        max_tunnels=max_tunnels,
        created_at_ms=now_ms,
    )
    return NewToken(credential.text(PREFIX), record)


def parse_token(text: str) -> Credential:
    """Read a token. Raises TokenMalformed."""
    return Credential.parse(text, PREFIX)


def bearer_text(authorization: str | None) -> str:
    """The token's or invitation's text in an `authorization` header. Raises TokenMissing, TokenMalformed."""
    if not authorization:
        raise TokenMissing
    if not authorization[: len(_SCHEME)].lower() == _SCHEME:
        raise TokenMalformed
    return authorization[len(_SCHEME) :].strip()


class Tokens:
    """The API tokens of a cluster."""

    def __init__(self, store: Store, known: View[TokenRecord], audit: Audit, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._known = known
        self._audit = audit
        self._now_ms = now_ms
        self._unknown = BoundedLookups(store, "tokens that it does not know")

    async def create(self, *, tenant: str, role: Role, description: str, max_tunnels: int, by: str) -> NewToken:
        """A new token, made by the token `by`; this replica knows it when this returns, unless the store went away.

        Raises InvalidRequest, StoreUnavailable.
        """
        try:
            check_tenant(tenant)
        except ValueError as error:
            raise InvalidRequest(str(error)) from None
        if len(description) > _LONGEST_DESCRIPTION:
            raise InvalidRequest(f"a description has at most {_LONGEST_DESCRIPTION} characters")
        if max_tunnels > MOST_TUNNELS:
            raise InvalidRequest(f"max_tunnels is at most {MOST_TUNNELS}, or 0 for the tenant's alone")

        def make() -> tuple[str, bytes, NewToken]:
            made = new_token(
                tenant=tenant, role=role, now_ms=self._now_ms(), description=description, max_tunnels=max_tunnels
            )
            return keys.token(made.record.id), encode(made.record), made

        made = await create(self._store, make, "no free token id was found")
        if await self._audit.add_done(by, "token.create", made.record.id):
            await self._known.caught_up_if_possible(made.record.id)
        return made

    def find(self, *, tenant: str, revoked: bool) -> list[TokenRecord]:
        """The tokens of a tenant ("" for every tenant); with `revoked` the revoked ones too."""
        return [
            token
            for token in self._known.values()
            if tenant in ("", token.tenant) and (revoked or not token.revoked_at_ms)
        ]

    async def revoke(self, token_id: str, *, by: str) -> TokenRecord:
        """Revoke a token, by the token `by`; nothing changes when it is revoked already.

        Raises NotFound, InvalidRequest for the last admin token, StoreUnavailable.
        """

        async def decide(entry: Entry | None) -> Decision[tuple[TokenRecord, bool]]:
            record = None if entry is None else self._known.decode(entry)
            if record is None:
                raise NotFound(f"no token {token_id!r} is known: see `portway-admin token list`")
            if record.revoked_at_ms:
                return Decision((record, False))
            await self._require_other_admin(record)
            revoked = msgspec.structs.replace(record, revoked_at_ms=self._now_ms())
            return Decision((revoked, True), encode(revoked))

        record, changed = await update(
            self._store, keys.token(token_id), decide, "the token changed at each try to revoke it"
        )
        if changed:
            logger.info("token revoked", extra={"token": record.id, "tenant": record.tenant})
            if await self._audit.add_done(by, "token.revoke", record.id):
                await self._known.caught_up_if_possible(record.id)
        return record

    async def authenticate(self, authorization: str | None) -> TokenRecord:
        """The record of the token in an `authorization` header.

        Raises a NotAuthenticated; Busy and StoreUnavailable when it cannot be verified now.
        """
        shown = parse_token(bearer_text(authorization))
        record = self._known.get(shown.id) or await self._look_up(shown.id)
        if record is None or not shown.matches(record.secret_sha256):
            raise TokenUnknown
        if record.revoked_at_ms:
            raise TokenRevoked
        return record

    async def _look_up(self, token_id: TokenId) -> TokenRecord | None:
        """A token made at another replica a moment ago."""
        entry = await self._unknown.get(keys.token(token_id))
        return None if entry is None else self._known.decode(entry)

    async def _require_other_admin(self, record: TokenRecord) -> None:
        """Raises InvalidRequest for the last admin token: without one the cluster could not be administered. The store
        is asked, since another replica may have revoked another one just now."""
        if record.role is not Role.ADMIN:
            return
        others = [
            token.id
            for token in self._known.values()
            if token.role is Role.ADMIN and not token.revoked_at_ms and token.id != record.id
        ]
        stored = await self._known.read(others)
        if not any(item is not None and not item.value.revoked_at_ms for item in stored.values()):
            raise InvalidRequest(
                "this is the last admin token: make another (`portway-admin token create --role admin`), then revoke "
                "this one with it"
            )
