"""The registry's certificates, read at start and checked before anything listens.

gRPC takes whatever it is given and then only fails each handshake; so what is wrong with a file is found here, and
said with the flag that named it. Here: reading and checking. Not here: making certificates (pki.py), credentials
(server.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from portway_registry.config import Config, flag
from portway_registry.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate, with the intermediate ones behind it, and its key; both PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Certificates:
    """`public` is shown to clients and operators, `mesh` to nodes; `cluster_ca` is what nodes must be from."""

    public: Pair
    mesh: Pair
    cluster_ca: bytes


def read_certificates(config: Config, now: datetime) -> Certificates:
    """All that the two ports need, good at `now`. Raises ConfigError."""
    authority = _read(config.cluster_ca, "cluster_ca")
    authorities = _certificates(authority, config.cluster_ca, "cluster_ca")
    for one in authorities:
        _check_time(one, now, config.cluster_ca, "cluster_ca")
    public = _pair(config, "tls_cert", "tls_key", now)
    if (config.mesh_tls_cert is None) != (config.mesh_tls_key is None):
        raise ConfigError("--mesh-tls-cert and --mesh-tls-key go together: give both or neither")
    name = "tls_cert" if config.mesh_tls_cert is None else "mesh_tls_cert"
    mesh = public if config.mesh_tls_cert is None else _pair(config, "mesh_tls_cert", "mesh_tls_key", now)
    if not _leads_to(x509.load_pem_x509_certificates(mesh.certificate), authorities):
        raise ConfigError(
            f"{flag(name)} {getattr(config, name)} is not from --cluster-ca {config.cluster_ca}, which nodes trust: "
            "give nodes a certificate of the cluster's with --mesh-tls-cert and --mesh-tls-key "
            "(`portway-admin pki init` makes one)"
        )
    return Certificates(public, mesh, authority)


def _pair(config: Config, certificate_name: str, key_name: str, now: datetime) -> Pair:
    path, key_path = getattr(config, certificate_name), getattr(config, key_name)
    certificate, key = _read(path, certificate_name), _read(key_path, key_name)
    leaf = _certificates(certificate, path, certificate_name)[0]
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{flag(key_name)} {key_path} holds no unencrypted private key (PEM): {error}") from error
    if private.public_key() != leaf.public_key():
        raise ConfigError(f"{flag(key_name)} {key_path} is not the key of {flag(certificate_name)} {path}")
    _check_time(leaf, now, path, certificate_name)
    return Pair(certificate, key)


def _certificates(text: bytes, path: Path | None, name: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(text)
    except ValueError as error:
        raise ConfigError(f"{flag(name)} {path} holds no certificate (PEM): {error}") from error


def _check_time(certificate: x509.Certificate, now: datetime, path: Path | None, name: str) -> None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        raise ConfigError(f"{flag(name)} {path} has expired on {end:%Y-%m-%d %H:%M} UTC: put a new one in its place")
    if now < start:
        raise ConfigError(
            f"{flag(name)} {path} is valid from {start:%Y-%m-%d %H:%M} UTC on, and here it is {now:%Y-%m-%d %H:%M}: "
            "set this machine's clock, or wait"
        )


def _leads_to(chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate]) -> bool:
    """Whether a link of the chain was signed by one of the authorities."""
    return any(_signed_by(link, authority) for link in chain for authority in authorities)


def _signed_by(link: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        link.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _read(path: Path | None, name: str) -> bytes:
    if path is None:
        raise ConfigError(f"{flag(name)} FILE is needed (`portway-admin pki init` makes the files)")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {flag(name)} {path}: {error.strerror}") from error
