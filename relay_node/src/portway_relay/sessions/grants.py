"""Grants: JWTs that a registry signed for one session key, verified offline with the keys that it published.

Here: whether this node accepts a grant now, and what the grant permits. Not here: how keys and revocations arrive
(registry_link/).
"""

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_GRANT,
    FAILURE_CODE_OVERLOADED,
    FAILURE_CODE_REVOKED,
    FAILURE_CODE_TIME,
)
from portway_proto.wire.limits import KEY_SIZE
from portway_proto.wire.statements import Signed
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
# Seconds since the Unix epoch that a float holds exactly; times in a grant are the sender's choice until its signature
# is checked.
_LAST_TIME: Final = 2**53
_CLAIMS: Final = ("iss", "aud", "sub", "tid", "key", "iat", "exp")
# The signature is checked off the event loop, times against the injected clock, the rest below.
_OPTIONS: Final[Any] = {"verify_signature": False}


@dataclass(frozen=True, slots=True)
class Grant:
    """What a grant says.

    max_tunnels, tenant_max_tunnels: how many tunnels the token may have open, and all tokens of its tenant together; 0
    means no limit. lasts: the seconds, from its reading on, for which a session may go on without a newer one.
    session_key: the public key that it is for: HELLO and presences are signed with it.
    told: the ids of the CAs that its client was told of with it; empty from registries of an earlier release.
    encoded, signed: the grant as it was sent, and its signature, which is still to be checked.
    """

    tenant: str
    token_id: str
    max_tunnels: int
    tenant_max_tunnels: int
    lasts: float
    session_key: bytes = field(repr=False)
    told: frozenset[str]
    encoded: str = field(repr=False)
    signed: Signed = field(repr=False)


class GrantVerifier:
    """Verifies grants with the cluster's keys, and rejects those of revoked tokens.

    `registry_away`: whether no registry can be reached, so that expired grants are honoured for longer.
    """

    def __init__(self, clock: WallClock, registry_clock: WallClock | None = None) -> None:
        """registry_clock: the registry's time in seconds, by which a wrong clock of this node is told from a grant that
        is over; None where it is not known."""
        self._clock = clock
        self._registry_clock = registry_clock or clock
        self._cluster_id = ""
        self._keys: Mapping[str, bytes] = {}
        self._revoked: set[str] = set()
        self.registry_away = True

    @property
    def ready(self) -> bool:
        """Whether any key is known."""
        return bool(self._keys)

    @property
    def key_ids(self) -> list[str]:
        """The ids of the keys that are known, sorted."""
        return sorted(self._keys)

    def learn_keys(self, cluster_id: str, public_keys: Mapping[str, bytes]) -> None:
        """Replace the keys (raw Ed25519, by `kid`). Raises ValueError for bytes that are not a key."""
        for key in public_keys.values():
            Ed25519PublicKey.from_public_bytes(key)
        self._keys = dict(public_keys)
        self._cluster_id = cluster_id

    def revoke(self, token_ids: Iterable[str]) -> None:
        """Reject grants of these tokens from now on."""
        self._revoked.update(token_ids)

    def read(self, encoded: str) -> Grant:
        """What the grant says, if this node accepts it now; its signature (`signed`) is for the caller to check.

        Raises GrantRefused, and Refused while no key is known.
        """
        if not self.ready:
            raise Refused(FAILURE_CODE_OVERLOADED, "this node has not reached its registry yet: try again in a moment")
        claims, signed = self._claims(encoded)
        self._check_time(claims)
        tenant, token_id = claims["sub"], claims["tid"]
        limit, tenant_limit = claims.get("max_tunnels", 0), claims.get("tenant_max_tunnels", 0)
        are_limits = _is_limit(limit) and _is_limit(tenant_limit)
        if not isinstance(tenant, str) or not isinstance(token_id, str) or not are_limits:
            raise refused("it has claims of the wrong type")
        if token_id in self._revoked:
            raise GrantRefused(FAILURE_CODE_REVOKED, "the API token was revoked: ask for a new one")
        lasts = max(0.0, claims["exp"] + OUTAGE_LEEWAY - self._clock())
        session_key = _session_key(claims["key"])
        return Grant(tenant, token_id, limit, tenant_limit, lasts, session_key, _told(claims), encoded, signed)

    def _claims(self, encoded: str) -> tuple[dict[str, Any], Signed]:
        """The claims of a grant whose audience and issuer are right, and its signature."""
        try:
            decoded = jwt.decode_complete(encoded, options=_OPTIONS)
        except (jwt.PyJWTError, RecursionError):  # RecursionError: deeply nested JSON
            raise refused("it is malformed") from None
        header, claims = decoded["header"], decoded["payload"]
        key = self._keys.get(str(header.get("kid")))
        if key is None or header.get("typ") != TYPE:
            raise refused("it is not signed with a key of this cluster")
        if header.get("alg") != _ALGORITHM or "crit" in header:
            raise refused("its signature is of another kind")
        missing = [name for name in _CLAIMS if name not in claims]
        if missing or claims["aud"] != AUDIENCE:
            raise refused("its claims are invalid")
        if claims["iss"] != self._cluster_id:
            raise refused("it is for another cluster")
        return claims, Signed(key, encoded.rpartition(".")[0].encode(), decoded["signature"])

    def _check_time(self, claims: Mapping[str, Any]) -> None:
        issued, expires = claims["iat"], claims["exp"]
        if not _is_time(issued) or not _is_time(expires):
            raise refused("its times are no times")
        now, registry_now = self._clock(), self._registry_clock()
        untimely = self._untimely(issued, expires, now)
        if untimely and abs(now - registry_now) > LEEWAY and not self._untimely(issued, expires, registry_now):
            way = "ahead of" if now > registry_now else "behind"
            raise GrantRefused(
                FAILURE_CODE_TIME,
                f"this node's clock is {abs(now - registry_now):.0f} s {way} the registry's: its operator has to set "
                "it right",
            )
        if untimely:
            raise refused(untimely)

    def _untimely(self, issued: float, expires: float, now: float) -> str:
        """Why a grant is not valid at `now`; empty when it is."""
        if issued > now + LEEWAY:
            return "it was issued in the future, for the clocks of registry and node are far apart"
        if now > expires + (OUTAGE_LEEWAY if self.registry_away else LEEWAY):
            return "it has expired, or the clocks of registry and node are far apart"
        return ""


def _told(claims: Mapping[str, Any]) -> frozenset[str]:
    told = claims.get("cas", ())
    return frozenset(one for one in told if isinstance(one, str)) if isinstance(told, list) else frozenset()


def _is_time(claim: object) -> bool:
    """NaN is none: it compares false with everything."""
    return isinstance(claim, int | float) and 0 <= claim <= _LAST_TIME


def _is_limit(claim: object) -> bool:
    return isinstance(claim, int) and claim >= 0


def _session_key(text: object) -> bytes:
    try:
        key = base64.urlsafe_b64decode(f"{text}=")
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_SIZE:
        raise refused("it names no session key: this client is older than the node; bring both to the same release")
    return key


def refused(reason: str) -> GrantRefused:
    """The refusal of a grant."""
    return GrantRefused(FAILURE_CODE_GRANT, f"the grant is not accepted: {reason}; get a fresh one from the registry")
