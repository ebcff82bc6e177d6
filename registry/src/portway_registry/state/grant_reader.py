"""Grants as text: their form, and reading those that nodes announce.

Here: what a grant says and what its signature is checked against. Not here: signing (access/grants.py), checking the
signature, whether its token is still good.

The text is read by hand and not with a library for tokens, so that the signature can be checked off the event loop,
together with those of statements.
"""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
from portway_proto.wire.limits import CLOCK_LEEWAY, KEY_SIZE
from portway_proto.wire.statements import Signed

from portway_registry.state.records import GrantKeyRecord
from portway_registry.state.views import View

ALGORITHM: Final = "EdDSA"
AUDIENCE: Final = "portway-node"
TYPE: Final = "portway-grant"

# While no registry can be reached, nodes honour a grant this many milliseconds after its end.
HONOURED_AFTER_END_MS: Final = 24 * 3_600_000
_LEEWAY_MS: Final = CLOCK_LEEWAY * 1000


class GrantRefused(ValueError):
    """A text that is no grant of this cluster, or one that is too old."""


class _Header(msgspec.Struct, frozen=True):
    """The header of the JWT."""

    alg: str
    typ: str
    kid: str


class _Payload(msgspec.Struct, frozen=True):
    """What is read of the claims of the JWT (WIRE.md, section 10); times in seconds, the session key in base64url."""

    iss: str
    aud: str
    sub: str
    tid: str
    key: str
    iat: int
    exp: int


@dataclass(frozen=True, slots=True)
class ReadGrant:
    """What a grant says, whose signature may not have been checked."""

    tenant: str
    token_id: str
    session_key: bytes
    signed: Signed


class GrantReader:
    """Reads grants of one cluster."""

    def __init__(self, cluster_id: str, known: View[GrantKeyRecord], now_ms: Callable[[], int]) -> None:
        self._cluster_id = cluster_id
        self._known = known
        self._now_ms = now_ms

    def read(self, text: str) -> ReadGrant:
        """What the grant says. Raises GrantRefused, also for one that ended more than 24 hours and the leeway of clocks
        ago: that long its client could hold tunnels without any registry."""
        try:
            content, _, signature = text.rpartition(".")
            first, _, second = content.partition(".")
            header = _decode_header(_decoded(first))
            says = _decode_payload(_decoded(second))
            session_key = _decoded(says.key)
            signed = Signed(self._key(header), content.encode("ascii"), _decoded(signature))
        except ValueError as error:  # msgspec's, base64's and Unicode's errors are ValueErrors
            raise GrantRefused(str(error)) from None
        if (says.iss, says.aud) != (self._cluster_id, AUDIENCE):
            raise GrantRefused("it is for another cluster")
        if len(session_key) != KEY_SIZE:
            raise GrantRefused("it names no session key")
        now = self._now_ms()
        if says.iat * 1000 > now + _LEEWAY_MS:
            raise GrantRefused("it was issued in the future")
        if now > says.exp * 1000 + HONOURED_AFTER_END_MS + _LEEWAY_MS:
            raise GrantRefused("it ended more than a day ago")
        return ReadGrant(says.sub, says.tid, session_key, signed)

    def _key(self, header: _Header) -> bytes:
        known = self._known.get(header.kid)
        if known is None or (header.alg, header.typ) != (ALGORITHM, TYPE):
            raise GrantRefused("it is not signed with a key of this cluster")
        return known.public_key


_decode_header: Final = msgspec.json.Decoder(_Header).decode
_decode_payload: Final = msgspec.json.Decoder(_Payload).decode


def base64url(value: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode("ascii")


def _decoded(text: str) -> bytes:
    """The bytes of base64url without padding. Raises ValueError."""
    try:
        return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise GrantRefused("it is malformed") from None
