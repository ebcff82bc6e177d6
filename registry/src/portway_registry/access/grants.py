"""Grants: what a client shows to a node in place of its token (DESIGN §11).

Here: signing them, and the keys that nodes verify them by. Not here: verifying, which nodes do, without asking; when
a key is replaced (rotation.py).
"""

import secrets
from collections.abc import Callable
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from portway_proto.v1.discovery_pb2 import Grant
from portway_proto.v1.mesh_pb2 import GrantKey

from portway_registry.errors import StoreUnavailable
from portway_registry.state import keys
from portway_registry.state.records import GrantKeyRecord, TokenRecord, encode
from portway_registry.state.views import View
from portway_registry.store.contract import Revision, Store

AUDIENCE: Final = "portway-node"
TYPE: Final = "portway-grant"

_ABSENT: Final = Revision(0)
_LIFE_MS: Final = 3_600_000
RENEW_AFTER_MS: Final = _LIFE_MS // 2
# Many processes that start together with one token share a grant: signing costs more than the rest of an answer.
_SHARED_FOR_MS: Final = 30_000
# Tenants with fresh grants that are remembered; beyond it the oldest is signed again when asked for.
_REMEMBERED: Final = 10_000


def new_key(kid: str, *, active_from_ms: int) -> GrantKeyRecord:
    private = Ed25519PrivateKey.generate()
    return GrantKeyRecord(
        kid=kid,
        private_key=private.private_bytes_raw(),
        public_key=private.public_key().public_bytes_raw(),
        active_from_ms=active_from_ms,
    )


async def make_first_key(store: Store, *, now_ms: int) -> None:
    """The cluster's first key, unless there is one. Raises StoreUnavailable."""
    await store.put(keys.grant_key("1"), encode(new_key("1", active_from_ms=now_ms)), expected=_ABSENT)


class Grants:
    """Signs grants with the youngest active key of the cluster."""

    def __init__(
        self,
        cluster_id: str,
        known: View[GrantKeyRecord],
        now_ms: Callable[[], int],
        *,
        default_max_tunnels: int,
    ) -> None:
        self._cluster_id = cluster_id
        self._default_max_tunnels = default_max_tunnels
        self._known = known
        self._now_ms = now_ms
        self._private: dict[str, Ed25519PrivateKey] = {}
        self._shared: dict[str, tuple[int, TokenRecord, Grant]] = {}

    def sign(self, token: TokenRecord) -> Grant:
        """A grant for the holder of `token`, good for an hour."""
        now = self._now_ms()
        shared = self._shared.get(token.id)
        if shared is not None and shared[1] == token and now - shared[0] < _SHARED_FOR_MS:
            return shared[2]
        grant = self._sign(token, now)
        self._shared.pop(token.id, None)
        self._shared[token.id] = (now, token, grant)
        if len(self._shared) > _REMEMBERED:
            del self._shared[next(iter(self._shared))]
        return grant

    def public_keys(self) -> list[GrantKey]:
        """Every key that nodes shall verify by, in the order of their kids."""
        known = sorted(self._known.values(), key=lambda key: key.kid)
        return [GrantKey(kid=key.kid, public_key=key.public_key) for key in known]

    def _sign(self, token: TokenRecord, now: int) -> Grant:
        key = self._signing_key(now)
        private = self._private.get(key.kid)
        if private is None or private.public_key().public_bytes_raw() != key.public_key:
            private = Ed25519PrivateKey.from_private_bytes(key.private_key)
            self._private[key.kid] = private
        expires = now + _LIFE_MS
        claims = {
            "iss": self._cluster_id,
            "aud": AUDIENCE,
            "sub": token.tenant,
            "tid": token.id,
            "max_tunnels": token.max_tunnels or self._default_max_tunnels,
            "iat": now // 1000,
            "exp": expires // 1000,
            "jti": secrets.token_hex(8),
        }
        text = jwt.encode(claims, private, algorithm="EdDSA", headers={"typ": TYPE, "kid": key.kid})
        return Grant(token=text, expires_at_ms=expires, renew_at_ms=now + RENEW_AFTER_MS)

    def _signing_key(self, now: int) -> GrantKeyRecord:
        """The youngest key in use. Raises StoreUnavailable when none is known (yet)."""
        active = [key for key in self._known.values() if key.active_from_ms <= now]
        if not active:
            # The clock is behind the one that made the first key: that key is still the right one.
            active = sorted(self._known.values(), key=lambda key: key.active_from_ms)[:1]
        if not active:
            raise StoreUnavailable("no key to sign grants with is known")
        return max(active, key=lambda key: (key.active_from_ms, key.kid))
