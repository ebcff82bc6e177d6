"""The state folder of a node that joined: its key and its certificates, readable by their owner only.

    <state folder>/<invitation>/node.key, node.crt, ca.crt     one folder for each invitation that was used
    <state folder>/<invitation>/registries                     where registries are (registry_link/registries.py)
    <state folder>/<invitation>/registry-said                  what registries said last (kept_messages.py)
    <state folder>/current -> <invitation>                     the one in use
    <state folder>/zones/                                      certificates from registries (received_zones.py)

Here: files, each written as a whole or not at all. Not here: where certificates come from (joining.py, renewal.py). The
key is written before its invitation is used, so that a node that lost the answer can ask again with the same key.
"""

import shutil
import stat
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from portway_proto.v1.types_pb2 import NodeCertificate
from portway_runtime.identities import UNREADABLE
from portway_runtime.secret_files import replace_file

from portway_relay.config import ZONES
from portway_relay.errors import JoinError

CURRENT: Final = "current"
KEY: Final = "node.key"
CERTIFICATE: Final = "node.crt"
CA: Final = "ca.crt"


class StateFolder:
    """The state folder at `path`. It is made when the first key is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._current = path / CURRENT

    @property
    def invitation(self) -> str | None:
        """The id of the invitation that the certificate in use came from; None without one. Raises JoinError."""
        try:
            return self._current.readlink().name
        except FileNotFoundError:
            return None
        except OSError as error:
            raise JoinError(f"cannot read {self._current}: {error.strerror}") from error

    def certificate(self) -> x509.Certificate:
        """The certificate in use. Raises JoinError."""
        path = self._current / CERTIFICATE
        try:
            return x509.load_pem_x509_certificate(path.read_bytes())
        except OSError as error:
            raise JoinError(f"cannot read {path}: {error.strerror}") from error
        except UNREADABLE as error:
            raise JoinError(f"{path} is not a certificate: move {self.path} away and invite the node anew") from error

    def joining_request(self, invitation: str, node: str) -> bytes:
        """A certificate request (PKCS #10, DER) for the key of an invitation, made now unless there is one. Raises
        JoinError."""
        folder = self.path / invitation
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not (folder / KEY).exists():
                replace_file(folder / KEY, _pem(ec.generate_private_key(ec.SECP256R1())))
        except OSError as error:
            raise _cannot_write(folder, error) from error
        return _request(folder / KEY, node)

    def renewal_request(self, node: str) -> bytes:
        """A certificate request (PKCS #10, DER) for the key in use. Raises JoinError."""
        return _request(self._current / KEY, node)

    def store_joined(self, invitation: str, certificate: NodeCertificate) -> None:
        """Store the certificate of an invitation, use it from now on, and delete what other invitations brought. Raises
        JoinError; what was in use is in use still then."""
        folder = self.path / invitation
        try:
            _write_certificate(folder, certificate)
            link = self.path / f".{CURRENT}"
            link.unlink(missing_ok=True)
            link.symlink_to(invitation)
            link.replace(self._current)
        except OSError as error:
            raise _cannot_write(folder, error) from error
        for other in self.path.iterdir():
            if other.is_dir() and not other.is_symlink() and other != folder and other.name != ZONES:
                shutil.rmtree(other, ignore_errors=True)

    def authorities(self) -> bytes:
        """The CAs in use, PEM. Raises JoinError."""
        path = self._current / CA
        try:
            return path.read_bytes()
        except OSError as error:
            raise JoinError(f"cannot read {path}: {error.strerror}") from error

    def store_authorities(self, cluster_ca: bytes) -> None:
        """Replace the CAs in use. Raises JoinError."""
        try:
            replace_file(self._current / CA, cluster_ca)
        except OSError as error:
            raise _cannot_write(self._current, error) from error

    def store_renewed(self, certificate: NodeCertificate) -> None:
        """Replace the certificate in use by one for the same key. Raises JoinError."""
        try:
            _write_certificate(self._current, certificate)
        except OSError as error:
            raise _cannot_write(self._current, error) from error


def _write_certificate(folder: Path, certificate: NodeCertificate) -> None:
    replace_file(folder / CA, certificate.cluster_ca)
    replace_file(folder / CERTIFICATE, certificate.certificate)


def _cannot_write(folder: Path, error: OSError) -> JoinError:
    return JoinError(f"cannot write to {folder}: {error.strerror}; name a folder of the node's own with --state-dir")


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _request(key_path: Path, node: str) -> bytes:
    try:
        pem, mode = key_path.read_bytes(), stat.S_IMODE(key_path.stat().st_mode)
        key = serialization.load_pem_private_key(pem, password=None)
    except OSError as error:
        raise JoinError(f"cannot read {key_path}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise JoinError(f"{key_path} holds no private key: delete it and invite the node anew") from error
    if mode & 0o077:
        raise JoinError(f"{key_path} can be read by others (mode {mode:o}): invite the node anew, or `chmod 600` it")
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise JoinError(f"{key_path} holds a key that this node did not make: delete it and invite the node anew")
    # A request must have a subject; registries decide the names in the certificate themselves.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node[:64])])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)
