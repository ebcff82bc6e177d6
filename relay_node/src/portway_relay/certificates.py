"""The node's certificates: read from files, checked, and read again when the files change.

Here: that a certificate fits its key, its time and its names, each fault with the name of the file. Not here: TLS
itself, which is the carrier's; it gets PEM.
"""

import datetime
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from portway_carrier.values import ServerTls
from portway_proto.wire.limits import LINK_ALPN, MESH_ALPN
from portway_runtime.file_stamps import stamps_of

from portway_relay.config import NodeConfig
from portway_relay.errors import CertificateError

logger = logging.getLogger(__name__)

Now = Callable[[], datetime.datetime]
# What visitors can be told; the carrier keeps one TLS context for each.
_VISITOR_ALPN: Final = (None, "http/1.1", "h2")
# Whoever replaces certificates is given a few seconds' patience by every tool.
POLL_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate chain with its key, PEM, found to fit together."""

    chain: bytes
    key: bytes = field(repr=False)
    certificate: x509.Certificate


@dataclass(frozen=True, slots=True)
class LoadedCertificates:
    """Everything that the files held at one time."""

    ca: bytes
    authorities: tuple[x509.Certificate, ...]
    node: Identity
    zones: Mapping[str, Identity]  # by `<region>.<domain>`, this node's own among them
    link_tls: ServerTls
    mesh_tls: ServerTls
    _visitor_tls: Mapping[tuple[str, str | None], ServerTls]

    def visitor_tls(self, zone: str, alpn: str | None) -> ServerTls:
        """What a visitor of a name in `zone`, one of `zones`, is shown; `alpn` is the protocol chosen, if any."""
        return self._visitor_tls[zone, alpn]


def utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Certificates:
    """What the node shows to whom. `loaded` is always one whole, checked set."""

    def __init__(self, config: NodeConfig, now: Now = utc_now) -> None:
        """Read the files. Raises CertificateError."""
        self._config = config
        self._now = now
        self._paths = (config.cluster_ca, config.cert, config.key, *config.tls_cert, *config.tls_key)
        self._seen = stamps_of(self._paths)
        self.loaded = self._load()

    def reload(self) -> bool:
        """Read the files again. A set that cannot be used is logged, and the one before stays."""
        self._seen = stamps_of(self._paths)
        try:
            self.loaded = self._load()
        except CertificateError as error:
            logger.error("certificates not reloaded, the old ones stay in use: %s", error)
            return False
        logger.info(
            "certificates reloaded",
            extra={
                zone: f"until {identity.certificate.not_valid_after_utc:%Y-%m-%d}"
                for zone, identity in self.loaded.zones.items()
            },
        )
        return True

    def reload_if_changed(self) -> bool:
        """Reload when a file is not the one that was read last."""
        return stamps_of(self._paths) != self._seen and self.reload()

    def _load(self) -> LoadedCertificates:
        config = self._config
        ca = _read(config.cluster_ca)
        authorities = _parse_certificates(config.cluster_ca, ca)
        node = _load_identity(config.cert, config.key, self._now())
        _demand_name(config.cert, node.certificate, config.server_name)
        if not issued_by(node.certificate, authorities):
            raise CertificateError(
                f"{config.cert} was not issued by the CA in {config.cluster_ca}: "
                "make both with the same `portway-admin pki` folder"
            )
        zones = self._load_zones()
        return LoadedCertificates(
            ca,
            authorities,
            node,
            zones,
            ServerTls(node.chain, node.key, alpn=LINK_ALPN),
            ServerTls(node.chain, node.key, alpn=MESH_ALPN, client_ca=ca),
            {
                (zone, alpn): ServerTls(identity.chain, identity.key, alpn=alpn)
                for zone, identity in zones.items()
                for alpn in _VISITOR_ALPN
            },
        )

    def _load_zones(self) -> dict[str, Identity]:
        """The first certificate for a zone counts; each must be for one of the cluster's at least."""
        config = self._config
        zones: dict[str, Identity] = {}
        for cert_path, key_path in zip(config.tls_cert, config.tls_key, strict=True):
            identity = _load_identity(cert_path, key_path, self._now())
            names = [name.removeprefix("*.") for name in dns_names(identity.certificate) if name.startswith("*.")]
            ours = [name for name in names if name.endswith(f".{config.domain}")]
            if not ours:
                raise CertificateError(
                    f"{cert_path} is valid for {', '.join(dns_names(identity.certificate)) or 'no DNS name'}, "
                    f"and must be for *.REGION.{config.domain}"
                )
            zones = dict.fromkeys(ours, identity) | zones
        if config.zone not in zones:
            raise CertificateError(
                f"{', '.join(map(str, config.tls_cert))}: for {', '.join(f'*.{zone}' for zone in zones)}, and one must "
                f"be for *.{config.zone}, this node's own region"
            )
        return zones


def issued_by(certificate: x509.Certificate, authorities: tuple[x509.Certificate, ...]) -> bool:
    """Whether one of these CAs signed it."""
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            continue
        return True
    return False


def dns_names(certificate: x509.Certificate) -> list[str]:
    """The DNS names it is valid for, in lower case."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [name.lower() for name in names.get_values_for_type(x509.DNSName)]


def _load_identity(cert_path: Path, key_path: Path, now: datetime.datetime) -> Identity:
    chain, key_pem = _read(cert_path), _read(key_path)
    certificate = _parse_certificates(cert_path, chain)[0]
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{key_path} holds no private key that can be used (PEM, no passphrase)") from error
    try:
        certified = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{cert_path} is for a key of a kind that cannot be used: {error}") from error
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != certified.public_bytes(*form):
        raise CertificateError(f"{key_path} is not the key of {cert_path}: the two files are from different pairs")
    if certificate.not_valid_after_utc <= now:
        raise CertificateError(f"{cert_path} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: renew it")
    if certificate.not_valid_before_utc > now:
        raise CertificateError(
            f"{cert_path} is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC only: "
            "look at this machine's clock"
        )
    return Identity(chain, key_pem, certificate)


def _demand_name(path: Path, certificate: x509.Certificate, name: str) -> None:
    names = dns_names(certificate)
    if name not in names:
        raise CertificateError(f"{path} is valid for {', '.join(names) or 'no DNS name'}, and must be for {name}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"cannot read {path}: {error.strerror}") from error


def _parse_certificates(path: Path, pem: bytes) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except ValueError as error:
        raise CertificateError(f"{path} holds no certificate that can be read (PEM)") from error
