"""A certificate authority in memory, and the certificates it issues.

Here: making a CA and the certificates of registries, nodes and regions, each with the names that verifiers look for.
Not here: where a CA is kept, and who may have a certificate.
"""

import datetime
import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from portway_runtime.identities import BACKDATE, REGISTRY_NAME, UNREADABLE, node_name, region_name

from portway_registry.errors import PkiError

_CA_LIFE: Final = datetime.timedelta(days=3650)
# The longest that Apple's platforms accept from a CA the user installed.
LEAF_LIFE: Final = datetime.timedelta(days=825)
_LEAST_RSA_BITS: Final = 2048

_SERVER: Final = (ExtendedKeyUsageOID.SERVER_AUTH,)
_SERVER_AND_CLIENT: Final = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey
SigningKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Signer:
    """A CA that can sign."""

    certificate: x509.Certificate
    key: SigningKey

    @classmethod
    def create(cls) -> "Signer":
        """A new CA with a random key, valid for ten years."""
        key = new_key()
        # Software that finds certificates by their subject would confuse two CAs of one name.
        name = _name(f"Portway CA {secrets.token_hex(4)}")
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(now + _CA_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def load(cls, certificate: bytes, key: bytes, *, names: tuple[str, str]) -> "Signer":
        """Read a CA from PEM; `names` are the names of certificate and key in errors. Raises PkiError."""
        try:
            authority = x509.load_pem_x509_certificate(certificate)
            private = serialization.load_pem_private_key(key, password=None)
        except UNREADABLE as error:
            raise PkiError(
                f"the CA of {names[0]} and {names[1]} cannot be read (PEM, no passphrase): {error}"
            ) from error
        if not isinstance(private, SigningKey) or private.public_key() != authority.public_key():
            raise PkiError(f"{names[1]} is not the key of {names[0]}")
        return cls(authority, private)

    @property
    def pem(self) -> bytes:
        """The CA's certificate, PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def registry(self, key: PublicKey, hosts: Sequence[str], life: datetime.timedelta = LEAF_LIFE) -> x509.Certificate:
        """A registry's certificate: the mesh port is verified by REGISTRY_NAME, the public one by `hosts`."""
        return self._issue(key, "Portway registry", [*hosts, REGISTRY_NAME], _SERVER, life)

    def node(
        self,
        key: PublicKey,
        name: str,
        region: str,
        life: datetime.timedelta = LEAF_LIFE,
        *,
        issued: datetime.datetime | None = None,
    ) -> x509.Certificate:
        """A node's certificate, shown to clients, other nodes and registries; `region` "" lets it be of any region."""
        names = [node_name(name), *([region_name(region)] if region else [])]
        return self._issue(key, f"Portway node {name}", names, _SERVER_AND_CLIENT, life, issued)

    def region(self, key: PublicKey, region: str, domain: str) -> x509.Certificate:
        """The certificate that visitors of a region's tunnels see, for the region's domain and every label in it."""
        base = f"{region}.{domain}"
        return self._issue(key, f"Portway region {region}", [f"*.{base}", base], _SERVER, LEAF_LIFE)

    def _issue(
        self,
        key: PublicKey,
        subject: str,
        names: Sequence[str],
        usages: Sequence[x509.ObjectIdentifier],
        life: datetime.timedelta,
        issued: datetime.datetime | None = None,
    ) -> x509.Certificate:
        now = issued or datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(subject[:64]))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(min(now + life, self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(self._authority_id(), critical=False)
        )
        return builder.sign(self.key, None if isinstance(self.key, ed25519.Ed25519PrivateKey) else hashes.SHA256())

    def _authority_id(self) -> x509.AuthorityKeyIdentifier:
        try:
            own = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        except x509.ExtensionNotFound:
            return x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def new_key() -> ec.EllipticCurvePrivateKey:
    """A random P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def private_pem(key: SigningKey) -> bytes:
    """The private key as PEM (PKCS #8, without a passphrase)."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def requested_key(csr: bytes) -> PublicKey:
    """The public key in a PKCS #10 request (DER), whose signature shows that the sender holds the private key.

    Names in the request are ignored. Raises PkiError.
    """
    try:
        request = x509.load_der_x509_csr(csr)
        sound = request.is_signature_valid
        key = request.public_key()
    except (InvalidSignature, *UNREADABLE) as error:
        raise PkiError("this is not a certificate request: send PKCS #10 in DER") from error
    if not sound:
        raise PkiError("the certificate request is not signed by the key that is in it")
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _LEAST_RSA_BITS:
        raise PkiError(f"an RSA key needs at least {_LEAST_RSA_BITS} bits: use P-256")
    if not isinstance(key, PublicKey):
        raise PkiError("certificates are made for P-256, Ed25519 and RSA keys")
    return key


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
