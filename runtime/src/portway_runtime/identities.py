"""Identities in cluster certificates: DNS names that identify a node, a region or a registry, and the time of issue.

Registries write these names and nodes read them; their form is known only here.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

NODE_SUFFIX: Final = ".node.portway.internal"
REGION_SUFFIX: Final = ".region.portway.internal"
# The name by which nodes verify a registry's mesh port, whatever address they dial.
REGISTRY_NAME: Final = "registry.portway.internal"
# A certificate is valid from this long before its issue, for machines whose clock is behind.
BACKDATE: Final = timedelta(hours=1)
DNS_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
# Every exception that reading a certificate or a certificate request of a peer's can raise. Not all of them are a
# ValueError: a version that does not exist, an extension that is there twice and a kind of name that is not supported
# have exceptions of their own, and a date near the year 9999 overflows when time is added to it.
UNREADABLE: Final = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """A node's identity, as its cluster certificate has it.

    region: "" if the certificate names none; the node may then be of any region.
    issued_ms: time of issue, in milliseconds since the Unix epoch.
    """

    node: str
    region: str
    issued_ms: int


def node_name(node: str) -> str:
    """The DNS name in a node's certificate, and the SNI of lanes to it."""
    return node + NODE_SUFFIX


def region_name(region: str) -> str:
    """The DNS name in a node's certificate that names its region."""
    return region + REGION_SUFFIX


def dns_names(certificate: x509.Certificate) -> list[str]:
    """The DNS names a certificate is valid for, in lower case; none if they cannot be read."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, *UNREADABLE):
        return []
    return [name.lower() for name in names.get_values_for_type(x509.DNSName)]


def read_identity(certificate: x509.Certificate) -> NodeIdentity | None:
    """The identity in a certificate; None unless it names exactly one node and at most one region.

    The signature is not verified here; the TLS handshake has done that.
    """
    names = dns_names(certificate)
    nodes, regions = _parts(names, NODE_SUFFIX), _parts(names, REGION_SUFFIX)
    if len(nodes) != 1 or len(regions) > 1:
        return None
    issued = certificate.not_valid_before_utc + BACKDATE
    return NodeIdentity(nodes.pop(), "".join(regions), int(issued.timestamp()) * 1000)


def read_identity_der(der: bytes | None) -> NodeIdentity | None:
    """As read_identity, for a certificate in DER. None also for None and for one that cannot be read."""
    if der is None:
        return None
    try:
        return read_identity(x509.load_der_x509_certificate(der))
    except UNREADABLE:
        return None


def read_identity_pem(pem: bytes) -> NodeIdentity | None:
    """As read_identity, for a certificate in PEM. None also for one that cannot be read."""
    try:
        return read_identity(x509.load_pem_x509_certificate(pem))
    except UNREADABLE:
        return None


def _parts(names: list[str], suffix: str) -> set[str]:
    parts = {name.removesuffix(suffix) for name in names if name.endswith(suffix)}
    return {part for part in parts if DNS_LABEL.fullmatch(part)}
