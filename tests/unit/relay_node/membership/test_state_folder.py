"""What a node that joined keeps: written whole, read by nobody else, told apart by invitation."""

import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from portway_proto.v1.types_pb2 import NodeCertificate
from portway_registry.pki.signing import Signer, requested_key
from portway_relay.errors import JoinError
from portway_relay.membership.state_folder import CURRENT, KEY, StateFolder


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer.create()


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path / "state")


def certify(signer: Signer, request: bytes, name: str = "fra-1") -> NodeCertificate:
    certificate = signer.node(requested_key(request), name, "fra")
    return NodeCertificate(certificate=certificate.public_bytes(serialization.Encoding.PEM), cluster_ca=signer.pem)


def key_of(request: bytes) -> bytes:
    key = x509.load_der_x509_csr(request).public_key()
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def test_nothing_is_kept_at_first(folder: StateFolder) -> None:
    """No invitation, no certificate, and no folder is made by looking."""
    assert folder.invitation is None
    assert not folder.path.exists()


def test_a_certificate_counts_once_it_is_whole(folder: StateFolder, signer: Signer) -> None:
    """A key alone is no identity: a node that was killed while it joined asks again, with the same key."""
    request = folder.joining_request("abc", "fra-1")
    assert folder.invitation is None
    assert key_of(folder.joining_request("abc", "fra-1")) == key_of(request)
    folder.store_joined("abc", certify(signer, request))
    assert folder.invitation == "abc"
    assert folder.certificate().issuer == signer.certificate.subject


def test_what_is_kept_is_for_its_owner(folder: StateFolder, signer: Signer) -> None:
    """Folder and files, the drafts that they are written to included."""
    folder.store_joined("abc", certify(signer, folder.joining_request("abc", "fra-1")))
    assert stat.S_IMODE(folder.path.stat().st_mode) & 0o022 == 0
    assert stat.S_IMODE((folder.path / "abc").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder.path / "abc").iterdir()} == {0o600}


def test_another_invitation_is_another_key(folder: StateFolder, signer: Signer) -> None:
    """The identity of before counts until the new one is whole, and is deleted then."""
    first = folder.joining_request("abc", "fra-1")
    folder.store_joined("abc", certify(signer, first))
    second = folder.joining_request("xyz", "fra-1")
    assert key_of(second) != key_of(first)
    assert folder.invitation == "abc"
    folder.store_joined("xyz", certify(signer, second))
    assert folder.invitation == "xyz"
    assert sorted(path.name for path in folder.path.iterdir()) == [CURRENT, "xyz"]


def test_a_renewed_certificate_is_for_the_same_key(folder: StateFolder, signer: Signer) -> None:
    """It takes the place of the one before."""
    request = folder.joining_request("abc", "fra-1")
    folder.store_joined("abc", certify(signer, request))
    before = folder.certificate()
    again = folder.renewal_request("fra-1")
    assert key_of(again) == key_of(request)
    folder.store_renewed(certify(signer, again))
    assert folder.certificate().serial_number != before.serial_number


def test_a_key_that_others_can_read_is_not_used(folder: StateFolder, signer: Signer) -> None:
    """It may be in other hands."""
    folder.store_joined("abc", certify(signer, folder.joining_request("abc", "fra-1")))
    (folder.path / "abc" / KEY).chmod(0o640)
    with pytest.raises(JoinError, match="can be read by others"):
        folder.renewal_request("fra-1")


@pytest.mark.parametrize("content", [b"", b"noise"])
def test_a_broken_file_is_told(folder: StateFolder, signer: Signer, content: bytes) -> None:
    """Which it is, and what to do."""
    folder.store_joined("abc", certify(signer, folder.joining_request("abc", "fra-1")))
    (folder.path / "abc" / KEY).write_bytes(content)
    with pytest.raises(JoinError, match="invite the node anew"):
        folder.renewal_request("fra-1")
    (folder.path / "abc" / "node.crt").write_bytes(content)
    with pytest.raises(JoinError, match="is not a certificate"):
        folder.certificate()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """With the flag that names another."""
    (tmp_path / "file").write_text("")
    with pytest.raises(JoinError, match="--state-dir"):
        StateFolder(tmp_path / "file").joining_request("abc", "fra-1")
