"""What a node that joined keeps: its key and its certificates, in a folder that nobody else can read.

    <state folder>/<invitation>/node.key, node.crt, ca.crt     one folder for each invitation that was used
    <state folder>/current -> <invitation>                     the one that counts

Here: files, each written whole or not at all. Not here: where certificates come from (joining.py, renewal.py). A key is
there before its invitation is used, so that a node which lost the answer can ask again with the same one.
"""

import os
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

from portway_relay.errors import JoinError

CURRENT: Final = "current"
KEY: Final = "node.key"
CERTIFICATE: Final = "node.crt"
CA: Final = "ca.crt"


class StateFolder:
    """The state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._current = folder / CURRENT

    @property
    def invitation(self) -> str | None:
        """Which invitation its certificate goes back to; None without one."""
        try:
            return self._current.readlink().name
        except FileNotFoundError:
            return None
        except OSError as error:
            raise JoinError(f"cannot read {self._current}: {error.strerror}") from error

    def certificate(self) -> x509.Certificate:
        """The one that counts now. Raises JoinError."""
        path = self._current / CERTIFICATE
        try:
            return x509.load_pem_x509_certificate(path.read_bytes())
        except OSError as error:
            raise JoinError(f"cannot read {path}: {error.strerror}") from error
        except ValueError as error:
            raise JoinError(f"{path} is no certificate: move {self.folder} away and invite the node anew") from error

    def new_request(self, invitation: str, node: str) -> bytes:
        """A certificate request (PKCS #10, DER) for an invitation that is about to be used. Raises JoinError."""
        folder = self.folder / invitation
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not (folder / KEY).exists():
                _write(folder / KEY, _pem(ec.generate_private_key(ec.SECP256R1())))
        except OSError as error:
            raise _cannot_write(folder, error) from error
        return _request(folder / KEY, node)

    def request(self, node: str) -> bytes:
        """One for the certificate after the one that counts now, with the same key. Raises JoinError."""
        return _request(self._current / KEY, node)

    def joined(self, invitation: str, certificate: NodeCertificate) -> None:
        """What counts from now on; what an earlier invitation brought is deleted. Raises JoinError."""
        folder = self.folder / invitation
        try:
            _write(folder / CA, certificate.cluster_ca)
            _write(folder / CERTIFICATE, certificate.certificate)
            link = self.folder / f".{CURRENT}"
            link.unlink(missing_ok=True)
            link.symlink_to(invitation)
            link.replace(self._current)
        except OSError as error:
            raise _cannot_write(folder, error) from error
        for other in self.folder.iterdir():
            if other.is_dir() and not other.is_symlink() and other != folder:
                shutil.rmtree(other, ignore_errors=True)

    def renewed(self, certificate: NodeCertificate) -> None:
        """The next certificate of the same key. Raises JoinError."""
        try:
            _write(self._current / CA, certificate.cluster_ca)
            _write(self._current / CERTIFICATE, certificate.certificate)
        except OSError as error:
            raise _cannot_write(self._current, error) from error


def _cannot_write(folder: Path, error: OSError) -> JoinError:
    return JoinError(f"cannot write to {folder}: {error.strerror}; name a folder of the node's own with --state-dir")


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, for its owner's eyes."""
    draft = path.with_name(f".{path.name}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _request(path: Path, node: str) -> bytes:
    try:
        pem, mode = path.read_bytes(), stat.S_IMODE(path.stat().st_mode)
        key = serialization.load_pem_private_key(pem, password=None)
    except OSError as error:
        raise JoinError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise JoinError(f"{path} holds no private key: delete it and invite the node anew") from error
    if mode & 0o077:
        raise JoinError(f"{path} can be read by others (mode {mode:o}): invite the node anew, or `chmod 600` it")
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise JoinError(f"{path} holds a key that this node did not make: delete it and invite the node anew")
    # Names are the registry's business; a request needs one.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node[:64])])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)
