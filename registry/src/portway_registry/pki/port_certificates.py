"""The certificates of the registry's two ports: checked at start, before anything listens, and kept up to date.

gRPC accepts any files and then merely fails every handshake, so a file that cannot be used is found here and named with
its flag. Here: reading, checking, reloading. Not here: issuing certificates, which CA the cluster has.
"""

import datetime
import logging
import time
from typing import Final, Protocol

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from portway_runtime.certificates import CertifiedKey, LoadedFiles, issued_by, load_certified_key
from portway_runtime.clocks import UtcNow
from portway_runtime.errors import CertificateError

from portway_registry.config import Config
from portway_registry.errors import ConfigError
from portway_registry.pki.cluster_authority import ClusterAuthority
from portway_registry.pki.signing import Signer, new_key, private_pem

logger = logging.getLogger(__name__)

# Seconds between looks at the files. Tools that replace certificates expect a server to need a few.
CHECK_EVERY: Final = 3.0
# A certificate that the registry issues to itself is kept in memory only, and replaced at half its life.
_SELF_ISSUED_LIFE: Final = datetime.timedelta(days=7)


class PortCertificate(Protocol):
    """The certificate and key that a port uses now."""

    def current(self) -> CertifiedKey:
        """The same object until it is replaced by another."""
        ...

    def reload(self) -> None:
        """Read the files that it is from, changed or not."""
        ...


class CertificateFiles:
    """A certificate and its key in two files, reloaded when they change. Files that cannot be used are logged, and the
    certificate in use stays."""

    def __init__(self, config: Config, certificate: str, key: str, now: UtcNow) -> None:
        """`certificate` and `key` are the settings' names. Raises ConfigError."""
        self._certificate = config.required_file(certificate)
        key_file = config.required_file(key)
        try:
            self._files = LoadedFiles(
                (self._certificate.path, key_file.path), lambda: load_certified_key(self._certificate, key_file, now())
            )
        except CertificateError as error:
            raise ConfigError(str(error)) from error
        self._checked = time.monotonic()

    def current(self) -> CertifiedKey:
        """The certificate; the files are looked at when CHECK_EVERY seconds have passed since the last time."""
        if time.monotonic() >= self._checked + CHECK_EVERY:
            self._checked = time.monotonic()
            if self._files.changed:
                self.reload()
        return self._files.value

    @property
    def named(self) -> str:
        """The certificate's file, with its flag."""
        return str(self._certificate)

    def require_issued_by(self, authority: ClusterAuthority, name: str) -> None:
        """Raises ConfigError unless nodes would trust the certificate: one in its chain is issued by the cluster's CA,
        which errors call `name`."""
        trusted = x509.load_pem_x509_certificates(authority.certificate)
        chain = x509.load_pem_x509_certificates(self._files.value.chain)
        if not any(issued_by(certificate, trusted) for certificate in chain):
            raise ConfigError(
                f"{self._certificate} is not issued by {name}, which nodes trust: give the CA's key with "
                "--cluster-ca-key, or a certificate of the cluster's with --mesh-tls-cert and --mesh-tls-key "
                "(`portway-admin pki init` makes one)"
            )

    def reload(self) -> None:
        """As PortCertificate.reload. Files that cannot be used are logged."""
        try:
            self._files.reload()
        except CertificateError as error:
            logger.error("certificate not reloaded, the old one stays in use: %s", error)
        else:
            until = f"{self._files.value.certificate.not_valid_after_utc:%Y-%m-%d}"
            logger.info("certificate reloaded", extra={"file": str(self._certificate.path), "until": until})


class SelfIssued:
    """The mesh port's certificate, issued by a registry that holds the CA's key; kept in memory only."""

    def __init__(self, authority: ClusterAuthority, now: UtcNow) -> None:
        """`authority` has a signer."""
        self._authority = authority
        self._now = now
        self._signer = self._signing()
        self._issued = self._issue()

    def current(self) -> CertifiedKey:
        """The latest that was issued; another is issued once it has passed half its life, or another CA issues."""
        due = self._now() >= self._issued.certificate.not_valid_after_utc - _SELF_ISSUED_LIFE / 2
        signer = self._signing()
        if due or signer.certificate != self._signer.certificate:
            self._signer = signer
            self._issued = self._issue()
        return self._issued

    def _signing(self) -> Signer:
        """The CA that issues; the one before when its key was taken away."""
        return self._authority.signer or self._signer

    def reload(self) -> None:
        """It is from no file."""

    def _issue(self) -> CertifiedKey:
        key = new_key()
        certificate = self._signer.registry(key.public_key(), (), _SELF_ISSUED_LIFE)
        return CertifiedKey(certificate.public_bytes(serialization.Encoding.PEM), private_pem(key), certificate)


def node_port_certificate(
    config: Config, public: CertificateFiles | None, authority: ClusterAuthority, now: UtcNow
) -> PortCertificate:
    """What nodes are shown: the files set for it, else one issued by the registry, else the public port's, if that is
    from files.

    Raises ConfigError.
    """
    if (config.mesh_tls_cert is None) != (config.mesh_tls_key is None):
        raise ConfigError("--mesh-tls-cert and --mesh-tls-key go together: give both or neither")
    if config.mesh_tls_cert is None and authority.signer is not None:
        return SelfIssued(authority, now)
    files = public if config.mesh_tls_cert is None else CertificateFiles(config, "mesh_tls_cert", "mesh_tls_key", now)
    if files is None:
        raise ConfigError(
            "--cluster-ca is given without its key, and --tls-cert is not: give the CA's key with --cluster-ca-key, or "
            "a certificate of the cluster's with --mesh-tls-cert and --mesh-tls-key (`portway-admin pki init` makes "
            "one)"
        )
    name = "the cluster's own CA" if config.cluster_ca is None else f"--cluster-ca {config.cluster_ca}"
    files.require_issued_by(authority, name)
    return files


def server_credentials(
    certificate: PortCertificate, *, authority: ClusterAuthority | None = None
) -> grpc.ServerCredentials:
    """Credentials whose certificate is looked up for each handshake; with `authority` clients must show one that a CA
    of it issued, whichever those are then."""

    def now() -> tuple[CertifiedKey, bytes | None]:
        return certificate.current(), None if authority is None else authority.certificate

    shown = now()

    def configuration() -> grpc.ServerCertificateConfiguration:
        own, trusted = shown
        return grpc.ssl_server_certificate_configuration([(own.key, own.chain)], trusted)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        """None means: as before."""
        nonlocal shown
        before, shown = shown, now()
        return None if shown[0] is before[0] and shown[1] == before[1] else configuration()

    return grpc.dynamic_ssl_server_credentials(
        configuration(),
        fetch,  # type: ignore[arg-type]  # the stubs do not know that it may return None
        require_client_authentication=authority is not None,
    )
