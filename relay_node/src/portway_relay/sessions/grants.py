"""Grants: JWTs that a registry signed, verified offline with the keys that it published.

Here: whether this node accepts a grant now, and what the grant permits. Not here: how keys and revocations arrive
(registry_link/).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from portway_proto.v1.lane_pb2 import FAILURE_CODE_GRANT, FAILURE_CODE_OVERLOADED, FAILURE_CODE_REVOKED
from portway_runtime.clocks import WallClock

from portway_relay.errors import GrantRefused, Refused

AUDIENCE: Final = "portway-node"
TYPE: Final = "portway-grant"
# Tolerance for the difference between a registry's clock and this node's, either way, in seconds.
LEEWAY: Final = 15 * 60
# While no registry can be reached, and so no client can renew its grant, grants are honoured for this many seconds
# after they expire. A session whose client shows no newer one ends then, whatever this node hears of its token.
OUTAGE_LEEWAY: Final = 24 * 3600

_ALGORITHM: Final = "EdDSA"
_CLAIMS: Final = ("iss", "aud", "sub", "tid", "iat", "exp")
# Times are checked here, against the injected clock.
_OPTIONS: Final[Any] = {"require": list(_CLAIMS), "verify_exp": False, "verify_iat": False, "verify_nbf": False}


@dataclass(frozen=True, slots=True)
class Grant:
    """What a verified grant says.

    max_tunnels, tenant_max_tunnels: how many tunnels the token may have open, and all tokens of its tenant together; 0
    means no limit. lasts: the seconds, from its verification on, for which a session may go on without a newer one.
    """

    tenant: str
    token_id: str
    max_tunnels: int
    tenant_max_tunnels: int
    lasts: float


class GrantVerifier:
    """Verifies grants with the cluster's keys, and rejects those of revoked tokens.

    `registry_away`: whether no registry can be reached, so that expired grants are honoured for longer.
    """

    def __init__(self, clock: WallClock) -> None:
        self._clock = clock
        self._cluster_id = ""
        self._keys: Mapping[str, Ed25519PublicKey] = {}
        self._revoked: set[str] = set()
        self.registry_away = True

    @property
    def ready(self) -> bool:
        """Whether any key is known."""
        return bool(self._keys)

    def learn_keys(self, cluster_id: str, public_keys: Mapping[str, bytes]) -> None:
        """Replace the keys (raw Ed25519, by `kid`). Raises ValueError for bytes that are not a key."""
        self._keys = {kid: Ed25519PublicKey.from_public_bytes(key) for kid, key in public_keys.items()}
        self._cluster_id = cluster_id

    def revoke(self, token_ids: Iterable[str]) -> None:
        """Reject grants of these tokens from now on."""
        self._revoked.update(token_ids)

    def verify(self, token: str) -> Grant:
        """What the grant permits. Raises GrantRefused, and Refused while no key is known."""
        if not self.ready:
            raise Refused(FAILURE_CODE_OVERLOADED, "this node has not reached its registry yet: try again in a moment")
        claims = self._claims(token)
        self._check_time(claims)
        tenant, token_id = claims["sub"], claims["tid"]
        limit, tenant_limit = claims.get("max_tunnels", 0), claims.get("tenant_max_tunnels", 0)
        are_limits = _is_limit(limit) and _is_limit(tenant_limit)
        if not isinstance(tenant, str) or not isinstance(token_id, str) or not are_limits:
            raise _refused("it has claims of the wrong type")
        if token_id in self._revoked:
            raise GrantRefused(FAILURE_CODE_REVOKED, "the API token was revoked: ask for a new one")
        lasts = max(0.0, claims["exp"] + OUTAGE_LEEWAY - self._clock())
        return Grant(tenant, token_id, limit, tenant_limit, lasts)

    def _claims(self, token: str) -> dict[str, Any]:
        """The claims of a grant whose signature, audience and issuer are right."""
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, RecursionError):  # RecursionError: a deeply nested header
            raise _refused("it is malformed") from None
        key = self._keys.get(str(header.get("kid")))
        if key is None or header.get("typ") != TYPE:
            raise _refused("it is not signed with a key of this cluster")
        try:
            claims: dict[str, Any] = jwt.decode(
                token, key, algorithms=[_ALGORITHM], audience=AUDIENCE, issuer=self._cluster_id, options=_OPTIONS
            )
        except jwt.InvalidIssuerError:
            raise _refused("it is for another cluster") from None
        except jwt.PyJWTError:
            raise _refused("its signature or its claims are invalid") from None
        return claims

    def _check_time(self, claims: Mapping[str, Any]) -> None:
        issued, expires = claims["iat"], claims["exp"]
        if not isinstance(issued, int | float) or not isinstance(expires, int | float):
            raise _refused("its times are not numbers")
        now = self._clock()
        if issued > now + LEEWAY:
            raise _refused("it was issued in the future, for the clocks of registry and node are far apart")
        if now > expires + (OUTAGE_LEEWAY if self.registry_away else LEEWAY):
            raise _refused("it has expired, or the clocks of registry and node are far apart")


def _is_limit(claim: object) -> bool:
    return isinstance(claim, int) and claim >= 0


def _refused(reason: str) -> GrantRefused:
    return GrantRefused(FAILURE_CODE_GRANT, f"the grant is not accepted: {reason}; get a fresh one from the registry")
