"""Tickets, by which a label keeps its raw port when its client comes to another node of the region.

A ticket is a compact JWS (ES256) of label, region, port and the time, signed with a node's cluster key. It carries the
node's certificate (x5c), which is verified against the cluster's CA. Here: signing, and what a signature shows. Not
here: whose block a port is of, and which ticket for a port is the newest (owners.py).
"""

import base64
import datetime
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from portway_proto.records import MAX_TICKET
from portway_runtime.certificates import issued_by
from portway_runtime.clocks import RegistryClock, WallClock
from portway_runtime.identities import UNREADABLE, read_identity

from portway_relay.certificates import LoadedCertificates
from portway_relay.errors import TicketInvalid

TYPE: Final = "portway-ticket"
_ALGORITHM: Final = "ES256"
# A ticket has a time, and no end; claims that it does not have are not looked at.
_OPTIONS: Final[Any] = {f"verify_{claim}": False for claim in ("aud", "iat", "exp", "nbf", "iss", "sub", "jti")}
# Every exception that a ticket's content can cause when it is read. Deep nesting is a RecursionError in older releases
# of PyJWT.
_UNREADABLE: Final = (jwt.PyJWTError, KeyError, IndexError, RecursionError, *UNREADABLE)


@dataclass(frozen=True, slots=True)
class Ticket:
    """The word of `node`, whose signature was checked, that a port is a label's from `time_ms` on."""

    label: str = field(repr=False)
    port: int
    time_ms: int
    node: str
    encoded: bytes = field(repr=False)


class UncheckedTicket:
    """A ticket whose signature is checked off the event loop; `ticket` is set when it is genuine."""

    def __init__(self, encoded: bytes, region: str, loaded: LoadedCertificates, now: float) -> None:
        self._encoded = encoded
        self._region = region
        self._loaded = loaded
        self._now = now
        self.ticket: Ticket | None = None
        self.failure = ""

    def is_genuine(self) -> bool:
        """Whether a node of this cluster has signed it for this region; takes about 0.5 ms."""
        try:
            self.ticket = self._read()
        except TicketInvalid as error:
            self.failure = str(error)
        return self.ticket is not None

    def _read(self) -> Ticket:
        if len(self._encoded) > MAX_TICKET:
            raise TicketInvalid(f"longer than {MAX_TICKET} bytes")
        try:
            header = jwt.get_unverified_header(self._encoded)
            certificate = x509.load_der_x509_certificate(base64.b64decode(header["x5c"][0], validate=True))
            node, key = self._signer(certificate)
            claims = jwt.decode(self._encoded, key, algorithms=[_ALGORITHM], options=_OPTIONS)
        except _UNREADABLE as error:
            raise TicketInvalid(f"not a ticket: {error}") from None
        if header.get("typ") != TYPE or claims.get("region") != self._region:
            raise TicketInvalid("not a ticket for this region")
        label, port, time_ms = claims.get("label"), claims.get("port"), claims.get("iat")
        if not isinstance(port, int) or not 1 <= port <= 65_535:
            raise TicketInvalid("without a port")
        if not isinstance(label, str) or not isinstance(time_ms, int):
            raise TicketInvalid("without a label or a time")
        return Ticket(label, port, time_ms, node, self._encoded)

    def _signer(self, certificate: x509.Certificate) -> tuple[str, ec.EllipticCurvePublicKey]:
        now = datetime.datetime.fromtimestamp(self._now, datetime.UTC)
        if not issued_by(certificate, self._loaded.authorities):
            raise TicketInvalid("not signed by this cluster's CA")
        if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
            raise TicketInvalid("signed with a certificate that has expired")
        identity = read_identity(certificate)
        if identity is None:
            raise TicketInvalid("not signed by a node")
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise TicketInvalid("signed with a key of the wrong kind")
        return identity.node, key


class Tickets:
    """Tickets of one region, with the certificates loaded at the time of the call."""

    def __init__(
        self,
        node: str,
        region: str,
        loaded: Callable[[], LoadedCertificates],
        wall_clock: WallClock,
        registry_clock: RegistryClock,
    ) -> None:
        """`node` is this one, which signs. A ticket's time is the registry's, certificates end by this machine's."""
        self._node = node
        self._region = region
        self._loaded = loaded
        self._wall_clock = wall_clock
        self._registry_clock = registry_clock
        self._last_ms = 0

    def sign(self, label: str, port: int) -> Ticket:
        """A ticket with a later time than each before; it has no bytes unless the node's key is a P-256 key."""
        time_ms = self._last_ms = max(self._last_ms + 1, self._registry_clock.now_ms())
        node = self._loaded().node
        key = load_pem_private_key(node.key, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            return Ticket(label, port, time_ms, self._node, b"")
        certificate = base64.b64encode(node.certificate.public_bytes(Encoding.DER)).decode("ascii")
        claims = {"label": label, "region": self._region, "port": port, "iat": time_ms}
        encoded = jwt.encode(claims, key, algorithm=_ALGORITHM, headers={"typ": TYPE, "x5c": [certificate]}).encode()
        return Ticket(label, port, time_ms, self._node, encoded)

    def unchecked(self, encoded: bytes) -> UncheckedTicket:
        """A ticket that somebody has shown."""
        return UncheckedTicket(encoded, self._region, self._loaded(), self._wall_clock())
