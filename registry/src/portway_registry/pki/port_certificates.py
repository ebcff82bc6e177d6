"""The certificates of the registry's two ports: checked at start, before anything listens, and kept up to date.

gRPC takes whatever it is given and then only fails each handshake; so what is wrong with a file is found here, and
said with the flag that named it. Here: reading, checking, reading again. Not here: making certificates (signing.py),
which CA the cluster has (authority.py).
"""

import datetime
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from portway_runtime.certificates import (
    NamedFile,
    check_validity,
    issued_by,
    load_certified_key,
    parse_certificates,
)
from portway_runtime.errors import CertificateError
from portway_runtime.file_stamps import stamps_of

from portway_registry.config import Config, flag
from portway_registry.errors import ConfigError, PkiError
from portway_registry.pki.cluster_authority import ClusterAuthority
from portway_registry.pki.signing import Signer, new_key, private_pem

logger = logging.getLogger(__name__)

Now = Callable[[], datetime.datetime]
# Whoever replaces certificates is given a few seconds' patience by every tool.
LOOK_EACH: Final = 3.0
# The mesh port's certificate that a registry makes for itself is kept nowhere, and made anew at half its life.
_OWN_LIFE: Final = datetime.timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate, with the intermediate ones behind it, and its key; both PEM."""

    certificate: bytes
    key: bytes


def read_authority(config: Config, now: datetime.datetime) -> ClusterAuthority | None:
    """The CA that an operator brought; None when the cluster has its own. Raises ConfigError."""
    if config.cluster_ca is None:
        if config.cluster_ca_key is not None:
            raise ConfigError(
                "--cluster-ca-key goes with --cluster-ca: give both, or neither for a CA of the cluster's"
            )
        return None
    file = _file(config, "cluster_ca")
    try:
        text = file.read()
        for one in parse_certificates(text, file):
            check_validity(one, file, now)
        if config.cluster_ca_key is None:
            return ClusterAuthority(text, None)
        key = _file(config, "cluster_ca_key")
        return ClusterAuthority(text, Signer.load(text, key.read(), names=(str(file), str(key))))
    except (CertificateError, PkiError) as error:
        raise ConfigError(str(error)) from error


class FilePair:
    """A pair of files, read again when they change. What cannot be used is logged, and the pair before stays."""

    def __init__(self, config: Config, certificate: str, key: str, now: Now) -> None:
        """The names are those of the settings. Raises ConfigError."""
        self._config = config
        self._names = certificate, key
        self._now = now
        self._paths = [path for path in (getattr(config, certificate), getattr(config, key)) if path is not None]
        self._seen = stamps_of(self._paths)
        self._pair = _pair(config, certificate, key, now())
        self._looked = time.monotonic()

    def current(self) -> Pair:
        """What is in the files; they are looked at when they have not been for a while."""
        if time.monotonic() >= self._looked + LOOK_EACH:
            self._looked = time.monotonic()
            self._read_if_changed()
        return self._pair

    def _read_if_changed(self) -> None:
        stamps = stamps_of(self._paths)
        if stamps == self._seen:
            return
        self._seen = stamps
        try:
            self._pair = _pair(self._config, *self._names, self._now())
        except ConfigError as error:
            logger.error("certificate not reloaded, the old one stays in use: %s", error)
        else:
            logger.info("certificate reloaded", extra={"file": str(self._paths[0])})

    def demand_from(self, authority: ClusterAuthority) -> None:
        """Whether nodes would take it for the registry's. Raises ConfigError."""
        chain = x509.load_pem_x509_certificates(self._pair.certificate)
        where = f"{flag(self._names[0])} {self._paths[0]}"
        if not _leads_to(chain, x509.load_pem_x509_certificates(authority.certificate)):
            raise ConfigError(
                f"{where} is not from --cluster-ca {self._config.cluster_ca}, which nodes trust: give the CA's key "
                "with --cluster-ca-key, or a certificate of the cluster's with --mesh-tls-cert and --mesh-tls-key "
                "(`portway-admin pki init` makes one)"
            )


class OwnPair:
    """The mesh port's certificate, made by a registry that holds the CA's key; kept in memory alone."""

    def __init__(self, signer: Signer, now: Now) -> None:
        self._signer = signer
        self._now = now
        self._pair = self._make()

    def current(self) -> Pair:
        """The last that was made, unless it has come to half its life."""
        if self._now() >= self._until - _OWN_LIFE / 2:
            self._pair = self._make()
        return self._pair

    def _make(self) -> Pair:
        key = new_key()
        certificate = self._signer.registry(key.public_key(), (), _OWN_LIFE)
        self._until = certificate.not_valid_after_utc
        return Pair(certificate.public_bytes(serialization.Encoding.PEM), private_pem(key))


def mesh_pair(config: Config, public: FilePair, authority: ClusterAuthority, now: Now) -> FilePair | OwnPair:
    """What nodes are shown: files that were named for it, else one made here, else the public pair.

    Raises ConfigError.
    """
    if (config.mesh_tls_cert is None) != (config.mesh_tls_key is None):
        raise ConfigError("--mesh-tls-cert and --mesh-tls-key go together: give both or neither")
    if config.mesh_tls_cert is None and authority.signer is not None:
        return OwnPair(authority.signer, now)
    pair = public if config.mesh_tls_cert is None else FilePair(config, "mesh_tls_cert", "mesh_tls_key", now)
    pair.demand_from(authority)
    return pair


def credentials(pair: FilePair | OwnPair, *, client_ca: bytes | None = None) -> grpc.ServerCredentials:
    """What a port shows to whoever connects from now on; with `client_ca` it demands certificates from there."""

    shown = pair.current()

    def configuration() -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(shown.key, shown.certificate)], client_ca)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        """For each handshake; None leaves what was shown last."""
        nonlocal shown
        before, shown = shown, pair.current()
        return None if shown is before else configuration()

    return grpc.dynamic_ssl_server_credentials(
        configuration(),
        fetch,  # type: ignore[arg-type]  # the stubs do not know that it may say None
        require_client_authentication=client_ca is not None,
    )


def _pair(config: Config, certificate_name: str, key_name: str, now: datetime.datetime) -> Pair:
    certificate, key = _file(config, certificate_name), _file(config, key_name)
    try:
        loaded = load_certified_key(certificate, key, now)
    except CertificateError as error:
        raise ConfigError(str(error)) from error
    return Pair(loaded.chain, loaded.key)


def _file(config: Config, name: str) -> NamedFile:
    path: Path | None = getattr(config, name)
    if path is None:
        raise ConfigError(f"{flag(name)} FILE is needed (`portway-admin pki init` makes the files)")
    return NamedFile(path, f"{flag(name)} {path}")


def _leads_to(chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate]) -> bool:
    """Whether a link of the chain was signed by one of the authorities."""
    return any(issued_by(link, authorities) for link in chain)
