"""What API tokens and invitations are made of: a public id, a secret, and the text `<prefix><id>_<secret>` of both.

Here: making, reading and comparing them, and a bound on look-ups of unknown ids. Not here: what a credential is for.

A secret is 160 random bits, so one SHA-256 is the right hash: it cannot be guessed, which is what a slow hash protects
against, and a slow one would be paid on each call.
"""

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Final, NewType

from portway_registry.errors import Busy, TokenMalformed
from portway_registry.store.contract import Entry, Store

TokenId = NewType("TokenId", str)

_ID_BYTES: Final = 5
_SECRET_BYTES: Final = 20
_FORM: Final = re.compile(r"([a-z0-9]{1,32})_([a-z2-7]{32})")
# Look-ups of unknown ids in the store at once: strangers with made-up tokens must not be able to load it.
_LOOKUPS: Final = 8


@dataclass(frozen=True, slots=True)
class Credential:
    """An id and its secret."""

    id: TokenId
    secret: str = field(repr=False)

    @classmethod
    def create(cls, token_id: TokenId | None = None) -> "Credential":
        """A random secret, and a random id unless one is given."""
        return cls(
            token_id or TokenId(_base32(secrets.token_bytes(_ID_BYTES))), _base32(secrets.token_bytes(_SECRET_BYTES))
        )

    @classmethod
    def parse(cls, text: str, prefix: str) -> "Credential":
        """Read the text of a credential. Raises TokenMalformed."""
        match = _FORM.fullmatch(text.removeprefix(prefix)) if text.startswith(prefix) else None
        if match is None:
            raise TokenMalformed
        return cls(TokenId(match[1]), match[2])

    def text(self, prefix: str) -> str:
        """As it is shown to its holder, once."""
        return f"{prefix}{self.id}_{self.secret}"

    @property
    def sha256(self) -> bytes:
        """The hash of the secret, which is all that is stored of it."""
        return hashlib.sha256(self.secret.encode("ascii")).digest()

    def matches(self, secret_sha256: bytes) -> bool:
        """Whether the stored hash is this secret's, in constant time."""
        return hmac.compare_digest(secret_sha256, self.sha256)


class BoundedLookups:
    """Reads of the store for credentials that this replica has not heard of, a few at a time."""

    def __init__(self, store: Store, kind: str) -> None:
        """`kind` is the plural of what is looked up, for the error."""
        self._store = store
        self._kind = kind
        self._running = 0

    async def get(self, key: str) -> Entry | None:
        """The entry, or None. Raises StoreUnavailable, and Busy while too many look-ups are running."""
        if self._running >= _LOOKUPS:
            # Not "unknown", which would make a good client give up.
            raise Busy(f"the registry is looking up too many {self._kind}: try again in a second")
        self._running += 1
        try:
            return await self._store.get(key)
        finally:
            self._running -= 1


def _base32(value: bytes) -> str:
    return base64.b32encode(value).decode("ascii").lower()
