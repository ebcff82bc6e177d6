"""API tokens: made once, shown once, kept as a hash.

Here: making one, reading one, telling whose it is. Not here: what a role may call (services/roles.py), where tokens
are kept (views.py), how one is revoked (services/admin.py).

The secret is 160 random bits, so one SHA-256 is the right hash: nothing can be guessed that a slow hash would
protect, and a slow one would be paid on each call.
"""

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Final, NewType

import msgspec

from portway_registry.errors import Busy, TokenMalformed, TokenMissing, TokenRevoked, TokenUnknown
from portway_registry.state import keys
from portway_registry.state.records import Role, TokenRecord
from portway_registry.state.views import View
from portway_registry.store.contract import Store

TokenId = NewType("TokenId", str)

# The token of the first start has a fixed id: one compare-and-swap decides which replica makes it.
FIRST_ADMIN: Final = TokenId("admin")

_FORM: Final = re.compile(r"pw_([a-z0-9]{1,32})_([a-z2-7]{32})")
_SCHEME: Final = "bearer "
_SECRET_BYTES: Final = 20
_ID_BYTES: Final = 5

# A token that this replica has not heard of yet is looked up in the store, at most so many at once: strangers
# with made-up tokens must not be able to load it.
_LOOKUPS: Final = 8


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token as it is shown, once, and what is kept of it."""

    text: str
    record: TokenRecord


def new_id() -> TokenId:
    return TokenId(_base32(secrets.token_bytes(_ID_BYTES)))


def new_secret() -> str:
    return _base32(secrets.token_bytes(_SECRET_BYTES))


def hash_of(secret: str) -> bytes:
    """All that is kept of a secret."""
    return hashlib.sha256(secret.encode("ascii")).digest()


def make(
    *,
    tenant: str,
    role: Role,
    now_ms: int,
    token_id: TokenId | None = None,
    description: str = "",
    max_tunnels: int = 0,
) -> NewToken:
    """A token with a fresh secret."""
    secret = new_secret()
    identity = token_id or new_id()
    record = TokenRecord(
        id=identity,
        tenant=tenant,
        role=role,
        secret_sha256=hash_of(secret),
        description=description,
        max_tunnels=max_tunnels,
        created_at_ms=now_ms,
    )
    return NewToken(f"pw_{identity}_{secret}", record)


def parse(text: str) -> tuple[TokenId, str]:
    """The id and the secret. Raises TokenMalformed."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise TokenMalformed
    return TokenId(match[1]), match[2]


def with_secret(record: TokenRecord, secret: str) -> TokenRecord:
    """The same token with another secret."""
    return msgspec.structs.replace(record, secret_sha256=hash_of(secret))


def fits(record: TokenRecord, secret: str) -> bool:
    """Whether this is the token's secret; takes as long whatever it is."""
    return hmac.compare_digest(record.secret_sha256, hash_of(secret))


def shown(authorization: str | None) -> str:
    """The token in an `authorization` header. Raises TokenMissing, TokenMalformed."""
    if not authorization:
        raise TokenMissing
    if not authorization[: len(_SCHEME)].lower() == _SCHEME:
        raise TokenMalformed
    return authorization[len(_SCHEME) :].strip()


class TokenCheck:
    """Tells whose token a call carries."""

    def __init__(self, store: Store, tokens: View[TokenRecord]) -> None:
        self._store = store
        self._tokens = tokens
        self._lookups = 0

    async def authenticate(self, authorization: str | None) -> TokenRecord:
        """The record of the token in an `authorization` header.

        Raises a NotAuthenticated; Busy and StoreUnavailable when nothing can be said of the token now.
        """
        token_id, secret = parse(shown(authorization))
        record = self._tokens.get(token_id) or await self._look_up(token_id)
        if record is None or not fits(record, secret):
            raise TokenUnknown
        if record.revoked_at_ms:
            raise TokenRevoked
        return record

    async def _look_up(self, token_id: TokenId) -> TokenRecord | None:
        """A token made at another replica a moment ago."""
        if self._lookups >= _LOOKUPS:
            # Not "unknown", which would make a good client give up.
            raise Busy("the registry is looking up too many tokens that it does not know: try again in a second")
        self._lookups += 1
        try:
            entry = await self._store.get(keys.token(token_id))
        finally:
            self._lookups -= 1
        return None if entry is None else self._tokens.decode(entry)


def _base32(value: bytes) -> str:
    return base64.b32encode(value).decode("ascii").lower()
