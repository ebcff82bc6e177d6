"""The CAs of the system, for connections to which nobody names one."""

from pathlib import Path

import pytest
import trustme
from portway_runtime.errors import CertificateError
from portway_runtime.trusted_roots import system_roots


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def company(tmp_path: Path) -> Path:
    path = tmp_path / "company.pem"
    path.write_bytes(trustme.CA().cert_pem.bytes())
    return path


def test_the_first_bundle_that_is_there_is_the_systems(tmp_path: Path, company: Path) -> None:
    """A file without certificates is none, nor is one that cannot be read."""
    empty = tmp_path / "empty.pem"
    empty.write_text("# nothing yet")
    bundles = [str(tmp_path), str(tmp_path / "absent"), str(empty), str(company), "/etc/passwd"]
    assert system_roots(bundles) == company.read_bytes()


def test_without_a_list_grpc_has_its_own(tmp_path: Path) -> None:
    """As on a system that nobody has thought of."""
    assert system_roots([str(tmp_path / "absent")]) is None


def test_a_named_file_takes_the_place_of_the_bundle(
    tmp_path: Path, company: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder's certificates are trusted as well, each once, whatever else is in it."""
    other, folder = trustme.CA().cert_pem.bytes(), tmp_path / "folder"
    folder.mkdir()
    (folder / "other.pem").write_bytes(other)
    (folder / "1a2b3c4d.0").symlink_to("other.pem")
    (folder / "README").write_text("not one of them")
    (folder / "sub").mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", str(company))
    assert system_roots(["/etc/passwd"]) == company.read_bytes()
    monkeypatch.setenv("SSL_CERT_DIR", f"{folder}:")
    assert system_roots(["/etc/passwd"]) == other + b"\n" + company.read_bytes()
    monkeypatch.delenv("SSL_CERT_FILE")
    assert system_roots([str(company)]) == other + b"\n" + company.read_bytes()


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
@pytest.mark.parametrize("kind", ["absent", "without a certificate", "of the other kind"])
def test_what_the_environment_names_must_be_there(
    tmp_path: Path, company: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    """Otherwise another CA would be trusted than the one that was meant. The error says which variable it is."""
    empty = tmp_path / "empty"
    if name == "SSL_CERT_FILE":
        empty.write_text("")
    else:
        empty.mkdir()
    of_other_kind = tmp_path if name == "SSL_CERT_FILE" else company
    wrong = {"absent": tmp_path / "absent", "without a certificate": empty, "of the other kind": of_other_kind}[kind]
    monkeypatch.setenv(name, str(wrong))
    with pytest.raises(CertificateError, match=f"{wrong}, which {name} names"):
        system_roots([str(company)])


def test_what_is_named_to_grpc_is_left_to_it(company: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own variable means its own calls alone."""
    monkeypatch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", str(company))
    assert system_roots([str(company)]) is None
