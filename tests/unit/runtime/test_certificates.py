"""Certificate files: each fault names the file, and what cannot be used changes nothing.

What a program demands of the names in a certificate is in the programs' own tests.
"""

import resource
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from portway_runtime.certificates import (
    CertifiedKey,
    LoadedFiles,
    NamedFile,
    check_validity,
    issued_by,
    load_certified_key,
    parse_certificates,
)
from portway_runtime.errors import CertificateError
from portway_testkit.fakes.certificate_files import write_later

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def pair(tmp_path: Path, authority: trustme.CA) -> tuple[NamedFile, NamedFile]:
    """The files of a pair that is valid from a day before NOW to a day after."""
    return _write_pair(authority, tmp_path, NOW - DAY, NOW + DAY)


def _write_pair(authority: trustme.CA, folder: Path, start: datetime, end: datetime) -> tuple[NamedFile, NamedFile]:
    issued = authority.issue_cert("node.example.com", not_before=start, not_after=end)
    chain, key = folder / "node.crt", folder / "node.key"
    write_later(chain, b"".join(part.bytes() for part in issued.cert_chain_pems))
    write_later(key, issued.private_key_pem.bytes())
    return NamedFile(chain), NamedFile(key, f"--key {key.name}")


def _leaf(pair: tuple[NamedFile, NamedFile]) -> x509.Certificate:
    return parse_certificates(pair[0].read(), pair[0])[0]


def test_a_pair_that_fits_is_loaded(pair: tuple[NamedFile, NamedFile]) -> None:
    """The chain and the key as they are, and the leaf read; the key is in no repr."""
    loaded = load_certified_key(*pair, NOW)
    assert (loaded.chain, loaded.key, loaded.certificate) == (pair[0].read(), pair[1].read(), _leaf(pair))
    assert "PRIVATE" not in repr(loaded)


def test_a_file_is_called_as_the_caller_calls_it(tmp_path: Path) -> None:
    """By its flag, or by its path where it has no other name."""
    path = tmp_path / "gone.crt"
    with pytest.raises(CertificateError, match=rf"^cannot read {path}: No such file"):
        NamedFile(path).read()
    with pytest.raises(CertificateError, match=r"^cannot read --cert gone\.crt: No such file"):
        NamedFile(path, "--cert gone.crt").read()


def test_what_is_no_certificate_or_key_is_named(pair: tuple[NamedFile, NamedFile]) -> None:
    """Each file for itself; a key with a passphrase cannot be used by a server that starts alone."""
    certificate, key = pair
    pem = key.read()
    key.path.write_text("nothing")
    with pytest.raises(CertificateError, match=r"--key node\.key holds no private key that can be used"):
        load_certified_key(certificate, key, NOW)
    private = serialization.load_pem_private_key(pem, None)
    key.path.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(CertificateError, match=r"--key node\.key holds no private key.*no passphrase"):
        load_certified_key(certificate, key, NOW)
    certificate.path.write_text("nothing")
    with pytest.raises(CertificateError, match=r"node\.crt holds no certificate that can be read"):
        load_certified_key(certificate, key, NOW)


def test_a_key_of_another_pair_is_refused(
    pair: tuple[NamedFile, NamedFile], tmp_path: Path, authority: trustme.CA
) -> None:
    """Both files are named: either may be the wrong one."""
    other = tmp_path / "other"
    other.mkdir()
    key = _write_pair(authority, other, NOW - DAY, NOW + DAY)[1]
    with pytest.raises(CertificateError, match=r"--key node\.key is not the key of .*node\.crt"):
        load_certified_key(pair[0], key, NOW)


def test_a_certificate_for_a_key_of_an_unknown_kind_is_refused(pair: tuple[NamedFile, NamedFile]) -> None:
    """Such as one on a curve that nobody knows."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    der = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, NOW - DAY, NOW + DAY)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )
    p256, unknown = bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d03017f")
    changed = x509.load_der_x509_certificate(der.replace(p256, unknown))
    pair[0].path.write_bytes(changed.public_bytes(serialization.Encoding.PEM))
    with pytest.raises(CertificateError, match=r"node\.crt is for a key of a kind that cannot be used"):
        load_certified_key(*pair, NOW)


def test_a_certificate_is_valid_from_its_start_until_before_its_end(pair: tuple[NamedFile, NamedFile]) -> None:
    """Beyond either the error says what to do about it."""
    leaf, file = _leaf(pair), pair[0]
    check_validity(leaf, file, NOW - DAY)
    check_validity(leaf, file, NOW + DAY - timedelta(seconds=1))
    with pytest.raises(CertificateError, match=r"node\.crt expired on 2026-06-02 00:00 UTC: put a new one"):
        load_certified_key(*pair, NOW + DAY)
    with pytest.raises(CertificateError, match=r"node\.crt is valid from 2026-05-31 00:00 UTC.*this machine's clock"):
        load_certified_key(*pair, NOW - DAY - timedelta(seconds=1))


def test_one_of_several_authorities_is_enough(pair: tuple[NamedFile, NamedFile], authority: trustme.CA) -> None:
    """Others, also of the same name with another key, do not count."""

    def read(ca: trustme.CA) -> x509.Certificate:
        return x509.load_pem_x509_certificate(ca.cert_pem.bytes())

    leaf, stranger = _leaf(pair), read(trustme.CA())
    assert issued_by(leaf, [stranger, read(authority)])
    assert not issued_by(leaf, [stranger, leaf])
    assert not issued_by(leaf, [])


def test_every_certificate_of_a_file_is_read(authority: trustme.CA) -> None:
    """In their order; a file may hold several CAs."""
    pem = authority.cert_pem.bytes()
    assert len(parse_certificates(pem + trustme.CA().cert_pem.bytes(), NamedFile(Path("ca.crt")))) == 2


@pytest.fixture
def load(pair: tuple[NamedFile, NamedFile]) -> Callable[[], CertifiedKey]:
    return lambda: load_certified_key(*pair, NOW)


def test_files_are_loaded_again_only_when_asked(
    pair: tuple[NamedFile, NamedFile], load: Callable[[], CertifiedKey], tmp_path: Path, authority: trustme.CA
) -> None:
    """`changed` says that there is something to load."""
    loaded = LoadedFiles([file.path for file in pair], load)
    before = loaded.value
    assert not loaded.changed
    _write_pair(authority, tmp_path, NOW - DAY, NOW + 2 * DAY)
    assert (loaded.changed, loaded.value) == (True, before)
    loaded.reload()
    assert not loaded.changed
    assert loaded.value.certificate.not_valid_after_utc == NOW + 2 * DAY


def test_a_version_that_cannot_be_used_is_said_once_and_changes_nothing(
    pair: tuple[NamedFile, NamedFile], load: Callable[[], CertifiedKey]
) -> None:
    """Until the files change again: half a pair is there while the other half is being written."""
    loaded = LoadedFiles([file.path for file in pair], load)
    before, key = loaded.value, pair[1].read()
    pair[1].path.write_text("half")
    with pytest.raises(CertificateError):
        loaded.reload()
    assert (loaded.changed, loaded.value) == (False, before)
    pair[1].path.write_bytes(key)
    assert loaded.changed
    loaded.reload()
    assert loaded.value == before


def test_a_version_that_cannot_be_read_now_is_tried_again(
    pair: tuple[NamedFile, NamedFile], load: Callable[[], CertifiedKey], tmp_path: Path, authority: trustme.CA
) -> None:
    """A process without a free descriptor does not miss a certificate that is replaced meanwhile."""
    loaded = LoadedFiles([file.path for file in pair], load)
    _write_pair(authority, tmp_path, NOW - DAY, NOW + 2 * DAY)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(CertificateError) as caught:
            loaded.reload()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.exhausted
    assert loaded.changed
    loaded.reload()
    assert loaded.value.certificate.not_valid_after_utc == NOW + 2 * DAY
    assert not loaded.changed


def test_files_that_cannot_be_used_at_first_are_an_error(
    pair: tuple[NamedFile, NamedFile], load: Callable[[], CertifiedKey]
) -> None:
    """There is nothing to go on with."""
    pair[0].path.unlink()
    with pytest.raises(CertificateError, match="No such file"):
        LoadedFiles([pair[0].path], load)
