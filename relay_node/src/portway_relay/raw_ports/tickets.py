"""Tickets, by which a label keeps its raw port when its client comes to another node of the region.

A ticket is a compact JWS (ES256) of label, region and port, signed with a node's cluster key. It carries the node's
certificate (x5c), which is verified against the cluster's CA. It asks for a port and gives no right to it: a port that
is taken stays taken.
"""

import base64
import datetime
from collections.abc import Callable
from typing import Final

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from portway_runtime.certificates import issued_by
from portway_runtime.clocks import WallClock
from portway_runtime.identities import NODE_SUFFIX, UNREADABLE, dns_names

from portway_relay.certificates import LoadedCertificates
from portway_relay.errors import TicketInvalid

TYPE: Final = "portway-ticket"
_ALGORITHM: Final = "ES256"
# A P-256 certificate and three short claims come to 1 KiB.
_MAX_SIZE: Final = 4 * 1024
# Every exception that a ticket's content can cause when it is read. Deep nesting is a RecursionError in older releases
# of PyJWT.
_UNREADABLE: Final = (jwt.PyJWTError, KeyError, IndexError, RecursionError, *UNREADABLE)


class Tickets:
    """Signs and verifies tickets of one region, with the certificates loaded at the time of the call."""

    def __init__(self, loaded: Callable[[], LoadedCertificates], region: str, clock: WallClock) -> None:
        self._loaded = loaded
        self._region = region
        self._clock = clock

    def sign(self, label: str, port: int) -> bytes:
        """A ticket; empty unless the node's key is a P-256 key."""
        node = self._loaded().node
        key = load_pem_private_key(node.key, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            return b""
        certificate = base64.b64encode(node.certificate.public_bytes(Encoding.DER)).decode("ascii")
        claims = {"label": label, "region": self._region, "port": port}
        return jwt.encode(claims, key, algorithm=_ALGORITHM, headers={"typ": TYPE, "x5c": [certificate]}).encode()

    def verify(self, ticket: bytes, label: str) -> int:
        """The port that the ticket names for this label. Raises TicketInvalid."""
        if len(ticket) > _MAX_SIZE:
            raise TicketInvalid(f"longer than {_MAX_SIZE} bytes")
        try:
            header = jwt.get_unverified_header(ticket)
            certificate = x509.load_der_x509_certificate(base64.b64decode(header["x5c"][0], validate=True))
            key = self._trusted_key(certificate)
            claims = jwt.decode(ticket, key, algorithms=[_ALGORITHM], options={"verify_aud": False})
        except _UNREADABLE as error:
            raise TicketInvalid(f"not a ticket: {error}") from None
        if header.get("typ") != TYPE or claims.get("label") != label or claims.get("region") != self._region:
            raise TicketInvalid("not a ticket for this label and region")
        port = claims.get("port")
        if not isinstance(port, int) or not 1 <= port <= 65_535:
            raise TicketInvalid("without a port")
        return port

    def _trusted_key(self, certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
        now = datetime.datetime.fromtimestamp(self._clock(), datetime.UTC)
        if not issued_by(certificate, self._loaded().authorities):
            raise TicketInvalid("not signed by this cluster's CA")
        if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
            raise TicketInvalid("signed with a certificate that has expired")
        if not any(name.endswith(NODE_SUFFIX) for name in dns_names(certificate)):
            raise TicketInvalid("not signed by a node")
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise TicketInvalid("signed with a key of the wrong kind")
        return key
