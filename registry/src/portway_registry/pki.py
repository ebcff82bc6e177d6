"""The cluster's own certificate authority, kept as files in one folder.

Here: making the CA and the certificates that it signs, and writing them once. Not here: the commands
(admin/pki.py), nor who trusts what (docs/architecture.md).
"""

import datetime
import ipaddress
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from portway_registry.errors import PkiError
from portway_registry.names import check_domain, check_host, check_node, check_region, server_name

_CA_LIFE: Final = datetime.timedelta(days=3650)
# The longest that Apple's platforms accept from a CA the user installed.
_LEAF_LIFE: Final = datetime.timedelta(days=825)
# A machine whose clock is behind must not find a new certificate "not yet valid".
_BACKDATE: Final = datetime.timedelta(hours=1)

_SERVER: Final = (ExtendedKeyUsageOID.SERVER_AUTH,)
_SERVER_AND_CLIENT: Final = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


class Authority:
    """A CA in a folder: `ca.crt`, `ca.key`, and beside them what it signed. Nothing is ever overwritten."""

    def __init__(self, folder: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.folder = folder
        self.certificate = certificate
        self._key = key

    @classmethod
    def create(cls, folder: Path) -> "Authority":
        """Make a CA in `folder`, which is made too. Raises PkiError when one is there already."""
        existing = [path.name for path in (folder / "ca.crt", folder / "ca.key") if path.exists()]
        if existing:
            raise PkiError(
                f"{folder} already has {' and '.join(existing)}, which is never overwritten: add to it with "
                "`portway-admin pki node` and `pki region`, or name another folder"
            )
        key = ec.generate_private_key(ec.SECP256R1())
        # Two CAs with one name would be confused by whatever keeps certificates by their subject.
        name = _name(f"Portway CA {secrets.token_hex(4)}")
        now = _now()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATE)
            .not_valid_after(now + _CA_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PkiError(f"cannot make the folder {folder}: {error.strerror}") from error
        _write(folder, "ca", certificate, key)
        return cls(folder, certificate, key)

    @classmethod
    def open(cls, folder: Path) -> "Authority":
        """The CA that `create` left in `folder`. Raises PkiError when it cannot be read or used."""
        try:
            certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
            key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
        except FileNotFoundError as error:
            raise PkiError(f"{error.filename} is not there: make a CA with `portway-admin pki init`") from error
        except OSError as error:
            raise PkiError(f"cannot read {error.filename}: {error.strerror}") from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise PkiError(f"the CA in {folder} cannot be read: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise PkiError(f"{folder / 'ca.key'} is not the key of {folder / 'ca.crt'}")
        return cls(folder, certificate, key)

    def add_registry(self, hosts: Sequence[str]) -> list[Path]:
        """The certificate of both registry ports, valid for `hosts` (names and IP addresses)."""
        return self._issue("registry", "Portway registry", _checked(check_host, hosts), _SERVER)

    def add_node(self, name: str) -> list[Path]:
        """The cluster certificate of a node, which shows it to clients, to other nodes and to the registry."""
        node = _checked(check_node, [name])[0]
        return self._issue(f"node-{node}", f"Portway node {node}"[:64], [server_name(node)], _SERVER_AND_CLIENT)

    def add_region(self, region: str, domain: str) -> list[Path]:
        """The certificate that visitors of a region's tunnels see."""
        name = _checked(check_region, [region])[0]
        base = f"{name}.{_checked(check_domain, [domain])[0]}"
        return self._issue(f"region-{name}", f"Portway region {name}"[:64], [f"*.{base}", base], _SERVER)

    def _issue(
        self, stem: str, subject: str, names: Sequence[str], usages: Sequence[x509.ObjectIdentifier]
    ) -> list[Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        now = _now()
        authority_id = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
            self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        )
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATE)
            .not_valid_after(min(now + _LEAF_LIFE, self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(authority_id, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return _write(self.folder, stem, certificate, key)


def check_names(domain: str, regions: Sequence[str], nodes: Sequence[str], hosts: Sequence[str]) -> None:
    """Raise PkiError for a name that no certificate can be made for, before anything is written."""
    _checked(check_domain, [domain])
    _checked(check_region, regions)
    _checked(check_node, nodes)
    _checked(check_host, hosts)
    for what, names in (("region", regions), ("node", nodes)):
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise PkiError(f"{what} {', '.join(sorted(twice))} is named twice: name each once")


def _checked(check: Callable[[str], str], values: Sequence[str]) -> list[str]:
    try:
        return [check(value) for value in values]
    except ValueError as error:
        raise PkiError(str(error)) from error


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write(folder: Path, stem: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> list[Path]:
    """Write `stem`.key (0600), then `stem`.crt; neither may be there."""
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    files = [(folder / f"{stem}.crt", 0o644, public), (folder / f"{stem}.key", 0o600, private)]
    for path, _, _ in files:
        if path.exists():
            raise PkiError(f"{path} is there already and is never overwritten: move it away first")
    for path, mode, content in reversed(files):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with open(descriptor, "wb") as file:
                file.write(content)
        except OSError as error:
            raise PkiError(f"cannot write {path}: {error.strerror}") from error
    return [path for path, _, _ in files]
