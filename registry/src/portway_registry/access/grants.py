"""Grants: signed permissions that clients show to nodes in place of their tokens, and the keys that sign them.

Here: signing, and when a key is made and deleted. Not here: verification, which nodes do offline; reading the grants
that nodes announce (state/grant_reader.py); how nodes learn the public keys. Replicas need not agree on which of them
rotates the keys: key ids count up, and one compare-and-swap lets one replica create the next.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable
from itertools import pairwise
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from portway_proto.v1.discovery_pb2 import Grant
from portway_proto.v1.mesh_pb2 import GrantKey

from portway_registry.errors import StoreUnavailable
from portway_registry.state import keys
from portway_registry.state.grant_reader import ALGORITHM, AUDIENCE, HONOURED_AFTER_END_MS, TYPE, base64url
from portway_registry.state.records import GrantKeyRecord, TokenRecord, encode
from portway_registry.state.tunnel_limits import TunnelLimits
from portway_registry.state.views import View
from portway_registry.store.contract import ABSENT, Store

logger = logging.getLogger(__name__)

_HOUR_MS: Final = 3_600_000
_LIFE_MS: Final = _HOUR_MS
RENEW_AFTER_MS: Final = _LIFE_MS // 2
# A token that was revoked longer ago than this has no grant left that any node honours.
HONOURED_MS: Final = _LIFE_MS + HONOURED_AFTER_END_MS

# How long a key signs.
_KEY_LIFE_MS: Final = 30 * 24 * _HOUR_MS
# A node that has been cut off from every registry for a day may not know a younger key yet.
_PUBLISHED_BEFORE_USE_MS: Final = 24 * _HOUR_MS
# As long as a grant of the key may be honoured, and an hour more for clocks that differ.
_NEEDED_AFTER_USE_MS: Final = HONOURED_MS + _HOUR_MS
_CHECK_EVERY: Final = 3_600.0  # seconds


def new_key(kid: str, *, active_from_ms: int) -> GrantKeyRecord:
    """A random Ed25519 key."""
    private = Ed25519PrivateKey.generate()
    return GrantKeyRecord(
        kid=kid,
        private_key=private.private_bytes_raw(),
        public_key=private.public_key().public_bytes_raw(),
        active_from_ms=active_from_ms,
    )


async def make_first_key(store: Store, *, now_ms: int) -> None:
    """Create the cluster's first key, unless there is one. Raises StoreUnavailable."""
    await store.put(keys.grant_key("1"), encode(new_key("1", active_from_ms=now_ms)), expected=ABSENT)


class Grants:
    """Signs grants with the youngest active key of the cluster."""

    def __init__(
        self,
        cluster_id: str,
        known: View[GrantKeyRecord],
        limits: TunnelLimits,
        now_ms: Callable[[], int],
    ) -> None:
        self._cluster_id = cluster_id
        self._limits = limits
        self._known = known
        self._now_ms = now_ms
        # By key id, each with its public key: the private key, and the header of its grants.
        self._signers: dict[str, tuple[bytes, Ed25519PrivateKey, str]] = {}

    def sign(self, token: TokenRecord, session_key: bytes) -> Grant:
        """A grant that lets the holder of `session_key` open tunnels of `token`, valid for an hour.

        Each `Locate` signs one, so its JWT is put together by hand, which takes a third less time than a library.
        Raises StoreUnavailable when no key is known yet.
        """
        now = self._now_ms()
        private, header = self._signer(self._signing_key(now))
        expires = now + _LIFE_MS
        claims = {
            "iss": self._cluster_id,
            "aud": AUDIENCE,
            "sub": token.tenant,
            "tid": token.id,
            "key": base64url(session_key),
            "max_tunnels": self._limits.of_token(token),
            "tenant_max_tunnels": self._limits.of_tenant(token.tenant),
            "iat": now // 1000,
            "exp": expires // 1000,
            "jti": secrets.token_hex(8),
        }
        content = f"{header}.{base64url(msgspec.json.encode(claims))}"
        text = f"{content}.{base64url(private.sign(content.encode()))}"
        return Grant(token=text, expires_at_ms=expires, renew_at_ms=now + RENEW_AFTER_MS)

    def public_keys(self) -> list[GrantKey]:
        """The public keys that nodes verify grants by, sorted by key id."""
        known = sorted(self._known.values(), key=lambda key: key.kid)
        return [GrantKey(kid=key.kid, public_key=key.public_key) for key in known]

    def _signer(self, key: GrantKeyRecord) -> tuple[Ed25519PrivateKey, str]:
        """The private key of this key, and the header of its grants; both made once."""
        public, private, header = self._signers.get(key.kid, (b"", None, ""))
        if private is None or public != key.public_key:
            private = Ed25519PrivateKey.from_private_bytes(key.private_key)
            header = base64url(msgspec.json.encode({"alg": ALGORITHM, "typ": TYPE, "kid": key.kid}))
            self._signers[key.kid] = key.public_key, private, header
        return private, header

    def _signing_key(self, now: int) -> GrantKeyRecord:
        """The youngest key in use. Raises StoreUnavailable when no key is known yet."""
        active = [key for key in self._known.values() if key.active_from_ms <= now]
        if not active:
            # This clock is behind the one that made the first key: that key is still the right one.
            active = sorted(self._known.values(), key=lambda key: key.active_from_ms)[:1]
        if not active:
            raise StoreUnavailable("no key to sign grants with is known")
        return max(active, key=lambda key: (key.active_from_ms, key.kid))


class KeyRotation:
    """Makes the next grant key in time, and deletes keys of which no grant is honoured any more, so that a key which
    was copied unnoticed becomes worthless."""

    def __init__(self, store: Store, known: View[GrantKeyRecord], now_ms: Callable[[], int]) -> None:
        self._store = store
        self._known = known
        self._now_ms = now_ms

    async def run(self) -> None:
        """Rotate once an hour, for ever; during an outage of the store the next hour does."""
        while True:
            try:
                await self.rotate()
            except StoreUnavailable as error:
                logger.warning("grant keys not rotated", extra={"reason": str(error)})
            await asyncio.sleep(_CHECK_EVERY)

    async def rotate(self) -> None:
        """Make and delete what is due now. Raises StoreUnavailable."""
        now = self._now_ms()
        known = sorted(self._known.items.values(), key=lambda item: item.value.active_from_ms)
        if not known:
            return
        if now >= known[-1].value.active_from_ms + _KEY_LIFE_MS - _PUBLISHED_BEFORE_USE_MS:
            await self._make(now + _PUBLISHED_BEFORE_USE_MS)
        for old, younger in pairwise(known):
            needed_until = younger.value.active_from_ms + _NEEDED_AFTER_USE_MS
            if now > needed_until and await self._store.delete(keys.grant_key(old.name), expected=old.modified):
                logger.info("grant key deleted", extra={"kid": old.name})

    async def _make(self, active_from_ms: int) -> None:
        kid = str(1 + max((int(name) for name in self._known.items if name.isdecimal()), default=0))
        key = new_key(kid, active_from_ms=active_from_ms)
        if await self._store.put(keys.grant_key(kid), encode(key), expected=ABSENT):
            logger.info("grant key made", extra={"kid": kid})
