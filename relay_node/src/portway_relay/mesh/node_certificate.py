"""What the cluster certificate of a node says: its name, its region, when it was issued."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from cryptography import x509

from portway_relay.certificates import dns_names
from portway_relay.config import REGION_SUFFIX, SERVER_NAME_SUFFIX

# The registry dates certificates back by so much, for clocks that differ.
BACKDATE: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Certified:
    """Without a region (a certificate that an operator made) the node may be of any."""

    node: str
    region: str
    issued_ms: int


def read_certified(der: bytes | None) -> Certified | None:
    """None for a certificate that is not one node's; the handshake has verified who signed it."""
    if der is None:
        return None
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = dns_names(certificate)
    except ValueError:
        return None
    nodes = {name.removesuffix(SERVER_NAME_SUFFIX) for name in names if name.endswith(SERVER_NAME_SUFFIX)}
    regions = {name.removesuffix(REGION_SUFFIX) for name in names if name.endswith(REGION_SUFFIX)}
    if len(nodes) != 1 or len(regions) > 1:
        return None
    issued = certificate.not_valid_before_utc + BACKDATE
    return Certified(nodes.pop(), "".join(regions), int(issued.timestamp()) * 1000)
