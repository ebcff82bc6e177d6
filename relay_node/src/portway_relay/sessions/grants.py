"""Grants, verified without asking anyone (DESIGN §11): a JWT that a registry signed, with a key that it published.

Here: whether a grant is good at this node now, and what it lets its bearer do. Not here: where keys and revocations
come from (registry_link/).
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
# Clocks of a registry and of a node may differ by so much, in seconds, either way.
LEEWAY: Final = 15 * 60
# With no registry to renew it a grant is honoured for so long after its end.
OUTAGE_LEEWAY: Final = 24 * 3600

_ALGORITHM: Final = "EdDSA"
_CLAIMS: Final = ("iss", "aud", "sub", "tid", "iat", "exp")
# Time is checked here, against the injected clock.
_OPTIONS: Final[Any] = {"require": list(_CLAIMS), "verify_exp": False, "verify_iat": False, "verify_nbf": False}


@dataclass(frozen=True, slots=True)
class Grant:
    """What the bearer may do: `max_tunnels` at once, 0 for no limit."""

    tenant: str
    token_id: str
    max_tunnels: int


class GrantCheck:
    """Knows the cluster's keys and its revoked tokens, as far as a registry has told."""

    def __init__(self, clock: WallClock) -> None:
        self._clock = clock
        self._cluster_id = ""
        self._keys: Mapping[str, Ed25519PublicKey] = {}
        self._revoked: set[str] = set()
        self.registry_away = True

    @property
    def ready(self) -> bool:
        """Whether any grant can be verified."""
        return bool(self._keys)

    def learn_keys(self, cluster_id: str, public_keys: Mapping[str, bytes]) -> None:
        """From now on these, by kid, verify grants of this cluster. Raises ValueError for one that is no key."""
        self._keys = {kid: Ed25519PublicKey.from_public_bytes(key) for kid, key in public_keys.items()}
        self._cluster_id = cluster_id

    def revoke(self, token_ids: Iterable[str]) -> None:
        """Grants of these tokens are worth nothing any more."""
        self._revoked.update(token_ids)

    def verify(self, token: str) -> Grant:
        """What the grant allows. Raises GrantRefused, and Refused while no key is known."""
        if not self.ready:
            raise Refused(FAILURE_CODE_OVERLOADED, "this node has not reached its registry yet: try again in a moment")
        claims = self._claims(token)
        self._check_time(claims)
        tenant, token_id, most = claims["sub"], claims["tid"], claims.get("max_tunnels", 0)
        if not isinstance(tenant, str) or not isinstance(token_id, str) or not isinstance(most, int) or most < 0:
            raise _refused("it has claims of the wrong kind")
        if token_id in self._revoked:
            raise GrantRefused(FAILURE_CODE_REVOKED, "the API token was revoked: ask for a new one")
        return Grant(tenant, token_id, most)

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, RecursionError):  # the latter for a header that is nested deeply
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
            raise _refused("its signature or its claims do not hold") from None
        return claims

    def _check_time(self, claims: Mapping[str, Any]) -> None:
        issued, expires = claims["iat"], claims["exp"]
        if not isinstance(issued, int | float) or not isinstance(expires, int | float):
            raise _refused("its times are none")
        now = self._clock()
        if issued > now + LEEWAY:
            raise _refused("it was issued in the future, for the clocks of registry and node are far apart")
        if now > expires + (OUTAGE_LEEWAY if self.registry_away else LEEWAY):
            raise _refused("it has expired, or the clocks of registry and node are far apart")


def _refused(why: str) -> GrantRefused:
    return GrantRefused(FAILURE_CODE_GRANT, f"the grant is not accepted: {why}; get a fresh one from the registry")
