"""The CAs that the system trusts, for connections to which nobody names one.

gRPC brings a list of its own, in which a company's CA is not; curl, browsers and `ssl` use the system's. Its place is
that of OpenSSL: the file that SSL_CERT_FILE names, otherwise the system's bundle, and the folders of SSL_CERT_DIR.
"""

import os
from collections.abc import Iterable
from typing import Final

from portway_runtime.errors import CertificateError
from portway_runtime.pem_files import read_pem

_FILE: Final = "SSL_CERT_FILE"
_FOLDERS: Final = "SSL_CERT_DIR"
# gRPC's own variable for the same, which it reads when it is given no CA.
_OF_GRPC: Final = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"
# Of Debian and Alpine, Fedora, openSUSE, and what macOS and BSDs have.
_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_PEM: Final = b"-----BEGIN CERTIFICATE-----"


def system_roots(bundles: Iterable[str] = _BUNDLES) -> bytes | None:
    """The CAs in PEM. None where no list is found, or the environment names one to gRPC: then gRPC's holds.

    Raises CertificateError when a file or a folder that the environment names holds none.
    """
    environment = os.environ
    if environment.get(_OF_GRPC):
        return None
    found = [_folder(name) for name in environment.get(_FOLDERS, "").split(os.pathsep) if name]
    if named := environment.get(_FILE):
        found.append(_read(named))
    elif bundle := next(filter(None, map(_bundle, bundles)), b""):
        found.append(bundle)
    return b"\n".join(found) or None


def _bundle(path: str) -> bytes:
    try:
        content = read_pem(path)
    except OSError:
        return b""
    return content if _PEM in content else b""


def _read(path: str) -> bytes:
    try:
        content = read_pem(path)
    except OSError as error:
        raise CertificateError(f"cannot read {path}, which {_FILE} names: {error.strerror}") from error
    if _PEM not in content:
        raise CertificateError(f"{path}, which {_FILE} names, holds no certificate (PEM)")
    return content


def _folder(path: str) -> bytes:
    """The certificates of a folder, each in a file of its own or several in one; links are there twice, as openssl's
    `rehash` makes them."""
    try:
        with os.scandir(path) as entries:
            files = sorted({os.path.realpath(one.path) for one in entries if one.is_file()})
        contents = [read_pem(one) for one in files]
    except OSError as error:
        raise CertificateError(f"cannot read {path}, which {_FOLDERS} names: {error.strerror}") from error
    found = b"\n".join(content for content in contents if _PEM in content)
    if not found:
        raise CertificateError(f"{path}, which {_FOLDERS} names, holds no certificate (PEM)")
    return found
