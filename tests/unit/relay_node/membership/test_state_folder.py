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
def kept(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path / "state")


def certify(signer: Signer, request: bytes, name: str = "fra-1") -> NodeCertificate:
    certificate = signer.node(requested_key(request), name, "fra")
    return NodeCertificate(certificate=certificate.public_bytes(serialization.Encoding.PEM), cluster_ca=signer.pem)


def key_of(request: bytes) -> bytes:
    key = x509.load_der_x509_csr(request).public_key()
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def test_nothing_is_kept_at_first(kept: StateFolder) -> None:
    """No invitation, no certificate, and no folder is made by looking."""
    assert kept.invitation is None
    assert not kept.folder.exists()


def test_a_certificate_counts_once_it_is_whole(kept: StateFolder, signer: Signer) -> None:
    """A key alone is no identity: a node that was killed while it joined asks again, with the same key."""
    request = kept.new_request("abc", "fra-1")
    assert kept.invitation is None
    assert key_of(kept.new_request("abc", "fra-1")) == key_of(request)
    kept.joined("abc", certify(signer, request))
    assert kept.invitation == "abc"
    assert kept.certificate().issuer == signer.certificate.subject


def test_what_is_kept_is_for_its_owner(kept: StateFolder, signer: Signer) -> None:
    """Folder and files, the drafts that they are written to included."""
    kept.joined("abc", certify(signer, kept.new_request("abc", "fra-1")))
    assert stat.S_IMODE(kept.folder.stat().st_mode) & 0o022 == 0
    assert stat.S_IMODE((kept.folder / "abc").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (kept.folder / "abc").iterdir()} == {0o600}


def test_another_invitation_is_another_key(kept: StateFolder, signer: Signer) -> None:
    """The identity of before counts until the new one is whole, and is deleted then."""
    first = kept.new_request("abc", "fra-1")
    kept.joined("abc", certify(signer, first))
    second = kept.new_request("xyz", "fra-1")
    assert key_of(second) != key_of(first)
    assert kept.invitation == "abc"
    kept.joined("xyz", certify(signer, second))
    assert kept.invitation == "xyz"
    assert sorted(path.name for path in kept.folder.iterdir()) == [CURRENT, "xyz"]


def test_a_renewed_certificate_is_for_the_same_key(kept: StateFolder, signer: Signer) -> None:
    """It takes the place of the one before."""
    request = kept.new_request("abc", "fra-1")
    kept.joined("abc", certify(signer, request))
    before = kept.certificate()
    again = kept.request("fra-1")
    assert key_of(again) == key_of(request)
    kept.renewed(certify(signer, again))
    assert kept.certificate().serial_number != before.serial_number


def test_a_key_that_others_can_read_is_not_used(kept: StateFolder, signer: Signer) -> None:
    """It may be in other hands."""
    kept.joined("abc", certify(signer, kept.new_request("abc", "fra-1")))
    (kept.folder / "abc" / KEY).chmod(0o640)
    with pytest.raises(JoinError, match="can be read by others"):
        kept.request("fra-1")


@pytest.mark.parametrize("content", [b"", b"noise"])
def test_a_broken_file_is_told(kept: StateFolder, signer: Signer, content: bytes) -> None:
    """Which it is, and what to do."""
    kept.joined("abc", certify(signer, kept.new_request("abc", "fra-1")))
    (kept.folder / "abc" / KEY).write_bytes(content)
    with pytest.raises(JoinError, match="invite the node anew"):
        kept.request("fra-1")
    (kept.folder / "abc" / "node.crt").write_bytes(content)
    with pytest.raises(JoinError, match="is no certificate"):
        kept.certificate()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """With the flag that names another."""
    (tmp_path / "file").write_text("")
    with pytest.raises(JoinError, match="--state-dir"):
        StateFolder(tmp_path / "file").new_request("abc", "fra-1")
