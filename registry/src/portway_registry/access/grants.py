"""Grants: signed permissions that clients show to nodes in place of their tokens.

Here: signing, and which key signs. Not here: when a key is made and deleted (grant_keys.py); verification, which nodes
do offline; reading the grants that nodes announce (state/grant_reader.py); how nodes learn the public keys.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from portway_proto.v1.discovery_pb2 import Grant
from portway_proto.v1.mesh_pb2 import GrantKey

from portway_registry.errors import NoGrantKey
from portway_registry.state.grant_reader import ALGORITHM, AUDIENCE, HONOURED_AFTER_END_MS, TYPE, base64url
from portway_registry.state.records import GrantKeyRecord, TokenRecord
from portway_registry.state.tunnel_limits import TunnelLimits
from portway_registry.state.views import View

_HOUR_MS: Final = 3_600_000
_LIFE_MS: Final = _HOUR_MS
RENEW_AFTER_MS: Final = _LIFE_MS // 2
# A token that was revoked longer ago than this has no grant left that any node honours.
HONOURED_MS: Final = _LIFE_MS + HONOURED_AFTER_END_MS


def signing_key(known: Iterable[GrantKeyRecord], now_ms: int) -> GrantKeyRecord | None:
    """The youngest key in use; None without any."""
    found = list(known)
    active = [key for key in found if key.active_from_ms <= now_ms]
    if not active:
        # This clock is behind the one that made the first key: that key is still the right one.
        active = sorted(found, key=lambda key: key.active_from_ms)[:1]
    return max(active, key=lambda key: (key.active_from_ms, key.kid), default=None)


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

    def sign(self, token: TokenRecord, session_key: bytes, told: Sequence[str] = ()) -> Grant:
        """A grant that lets the holder of `session_key` open tunnels of `token`, valid for an hour. `told`: the ids of
        the CAs that its client is told of with it.

        Each `Locate` signs one, so its JWT is put together by hand, which takes a third less time than a library.
        Raises NoGrantKey.
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
            "cas": told,
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
        """The youngest key in use. Raises NoGrantKey."""
        key = signing_key(self._known.values(), now)
        if key is None:
            raise NoGrantKey
        return key
