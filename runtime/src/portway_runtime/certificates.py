"""Certificate files: read, checked, and read again when they change.

Here: the checks that a certificate matches its key and is valid now. Errors name the file by its path or by the name
that the caller gives it, such as a flag with its path. Not here: which names a certificate must have, which is each
program's own rule; TLS itself.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Generic, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization

from portway_runtime.descriptors import EXHAUSTED
from portway_runtime.errors import CertificateError
from portway_runtime.file_stamps import Stamps, stamps_of
from portway_runtime.identities import UNREADABLE
from portway_runtime.pem_files import read_pem

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file, and its name in error messages, which is its path by default."""

    path: Path
    name: str = ""

    def __str__(self) -> str:
        return self.name or str(self.path)

    def read(self) -> bytes:
        """The content. Raises CertificateError when it cannot be read."""
        try:
            return read_pem(self.path)
        except OSError as error:
            exhausted = error.errno in EXHAUSTED
            raise CertificateError(f"cannot read {self}: {error.strerror}", exhausted=exhausted) from error


@dataclass(frozen=True, slots=True)
class CertifiedKey:
    """A certificate chain, leaf first, and the leaf's private key, both in PEM and checked to match."""

    chain: bytes
    key: bytes = field(repr=False)
    certificate: x509.Certificate


def load_certified_key(certificate: NamedFile, key: NamedFile, now: datetime) -> CertifiedKey:
    """Read a certificate file and its key file. Raises CertificateError unless they match and are valid at `now`."""
    return check_certified_key(certificate.read(), key.read(), certificate, key, now)


def check_certified_key(
    chain: bytes, key_pem: bytes, certificate: NamedFile, key: NamedFile, now: datetime
) -> CertifiedKey:
    """A certificate chain and its key, PEM, as they were read or received; errors call them `certificate` and `key`.
    Raises CertificateError unless they match and are valid at `now`."""
    leaf = parse_certificates(chain, certificate)[0]
    try:
        private = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{key} holds no private key that can be used (PEM, no passphrase)") from error
    try:
        certified = leaf.public_key()
    except UNREADABLE as error:
        raise CertificateError(f"{certificate} is for a key of a kind that cannot be used: {error}") from error
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != certified.public_bytes(*form):
        raise CertificateError(f"{key} is not the key of {certificate}: the two files are from different pairs")
    check_validity(leaf, certificate, now)
    return CertifiedKey(chain, key_pem, leaf)


def parse_certificates(pem: bytes, file: NamedFile) -> tuple[x509.Certificate, ...]:
    """The certificates in `pem`, at least one. Raises CertificateError, which names `file`."""
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except UNREADABLE as error:
        raise CertificateError(f"{file} holds no certificate that can be read (PEM)") from error


def check_validity(certificate: x509.Certificate, file: NamedFile, now: datetime) -> None:
    """Raise CertificateError unless the certificate is valid at `now`."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if end <= now:
        raise CertificateError(f"{file} expired on {end:%Y-%m-%d %H:%M} UTC: put a new one in its place")
    if start > now:
        raise CertificateError(
            f"{file} is valid from {start:%Y-%m-%d %H:%M} UTC on, and here it is {now:%Y-%m-%d %H:%M}: "
            "check this machine's clock"
        )


def authority_id(authority: x509.Certificate) -> str:
    """The id of a CA: the first 16 hexadecimal digits of its certificate's SHA-256."""
    return authority.fingerprint(hashes.SHA256()).hex()[:16]


def issuer_id(certificate: x509.Certificate, authorities: Iterable[x509.Certificate]) -> str:
    """The id of the CA that signed the certificate; "" when it is none of these."""
    return next((authority_id(one) for one in authorities if issued_by(certificate, (one,))), "")


def issued_by(certificate: x509.Certificate, authorities: Sequence[x509.Certificate]) -> bool:
    """Whether one of these CAs signed the certificate."""
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
        except (InvalidSignature, *UNREADABLE):
            continue
        return True
    return False


class LoadedFiles(Generic[T]):
    """A value that is loaded from files and can be loaded again when they change.

    `value` is the result of the last load that succeeded.
    """

    def __init__(self, paths: Iterable[Path], load: Callable[[], T]) -> None:
        """Load for the first time. `load` raises CertificateError for files that cannot be used, and so does this."""
        self._paths = tuple(paths)
        self._load = load
        self._seen: Stamps | None = stamps_of(self._paths)
        self.value = load()

    @property
    def changed(self) -> bool:
        """Whether a file has changed since the last load, successful or not; or that load failed because the process
        was exhausted."""
        return stamps_of(self._paths) != self._seen

    def reload(self) -> None:
        """Load again. Raises CertificateError and keeps `value` if the files cannot be used."""
        self._seen = stamps_of(self._paths)
        try:
            self.value = self._load()
        except CertificateError as error:
            if error.exhausted:
                self._seen = None
            raise
