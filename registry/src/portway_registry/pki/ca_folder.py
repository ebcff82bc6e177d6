"""A certificate authority in the files of one folder: for what visitors and clients see, and for try-outs.

Here: the folder and what is written to it. Not here: the certificates themselves, the cluster's own CA. Which party
trusts which certificate is in docs/architecture/trust.md.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from portway_runtime.pem_files import read_pem
from portway_runtime.secret_files import OWNER_ONLY, create_file

from portway_registry.errors import PkiError
from portway_registry.names import check_domain, check_host, check_node, check_region
from portway_registry.pki.signing import Signer, SigningKey, new_key, private_pem

_PUBLIC: Final = 0o644


class CaFolder:
    """A CA in a folder: `ca.crt`, `ca.key`, and beside them what it issued. Nothing is ever overwritten."""

    def __init__(self, folder: Path, signer: Signer) -> None:
        self.folder = folder
        self._signer = signer

    @property
    def certificate(self) -> x509.Certificate:
        """The CA's certificate."""
        return self._signer.certificate

    @classmethod
    def create(cls, folder: Path) -> "CaFolder":
        """Make a CA in `folder`, which is created too. Raises PkiError when there is one already."""
        existing = [path.name for path in (folder / "ca.crt", folder / "ca.key") if path.exists()]
        if existing:
            raise PkiError(
                f"{folder} already has {' and '.join(existing)}, which is never overwritten: add to it with "
                "`portway-admin pki node` and `pki region`, or name another folder"
            )
        signer = Signer.create()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PkiError(f"cannot make the folder {folder}: {error.strerror}") from error
        _write(folder, "ca", signer.certificate, signer.key)
        return cls(folder, signer)

    @classmethod
    def open(cls, folder: Path) -> "CaFolder":
        """The CA that `create` wrote to `folder`. Raises PkiError when it cannot be read or used."""
        paths = folder / "ca.crt", folder / "ca.key"
        try:
            certificate, key = map(read_pem, paths)
        except FileNotFoundError as error:
            raise PkiError(f"{error.filename} does not exist: make a CA with `portway-admin pki init`") from error
        except OSError as error:
            raise PkiError(f"cannot read {error.filename}: {error.strerror}") from error
        return cls(folder, Signer.load(certificate, key, names=(str(paths[0]), str(paths[1]))))

    def add_registry(self, hosts: Sequence[str]) -> list[Path]:
        """Issue the certificate of both registry ports; clients verify the public one by `hosts` (names, addresses).

        As for the other certificates: returns the paths written, certificate and key. Raises PkiError.
        """
        key = new_key()
        certificate = self._signer.registry(key.public_key(), _checked(check_host, hosts))
        return _write(self.folder, "registry", certificate, key)

    def add_node(self, name: str, region: str = "") -> list[Path]:
        """Issue a node's cluster certificate; with `region` "" the node may be of any region."""
        node = _checked(check_node, [name])[0]
        of_region = _checked(check_region, [region])[0] if region else ""
        key = new_key()
        return _write(self.folder, f"node-{node}", self._signer.node(key.public_key(), node, of_region), key)

    def add_region(self, region: str, domain: str) -> list[Path]:
        """Issue the certificate that visitors of a region's tunnels see."""
        name = _checked(check_region, [region])[0]
        key = new_key()
        certificate = self._signer.region(key.public_key(), name, _checked(check_domain, [domain])[0])
        return _write(self.folder, f"region-{name}", certificate, key)


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


def _write(folder: Path, stem: str, certificate: x509.Certificate, key: SigningKey) -> list[Path]:
    """Create `stem`.key, which only its owner can read, then `stem`.crt. Raises PkiError when there is either."""
    certificate_path, key_path = folder / f"{stem}.crt", folder / f"{stem}.key"
    for path in (certificate_path, key_path):
        if path.exists():
            raise _exists(path)
    public = certificate.public_bytes(serialization.Encoding.PEM)
    for path, content, mode in ((key_path, private_pem(key), OWNER_ONLY), (certificate_path, public, _PUBLIC)):
        try:
            created = create_file(path, content, mode=mode)
        except OSError as error:
            raise PkiError(f"cannot write {path}: {error.strerror}") from error
        if not created:
            raise _exists(path)
    return [certificate_path, key_path]


def _exists(path: Path) -> PkiError:
    return PkiError(f"{path} exists already and is never overwritten: move it away first")
