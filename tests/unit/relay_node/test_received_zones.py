"""Certificates that registries hand to a node: which are taken, which are shown, and what a restart finds.

Not here: how a registry obtains them.
"""

import stat
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from portway_carrier.errors import TlsSettingsError
from portway_proto.v1.mesh_pb2 import ZoneCertificate
from portway_relay.certificates import Certificates
from portway_runtime.identities import dns_names
from portway_testkit.fakes.certificate_files import REGION, ZONE, Files

DAY = timedelta(days=1)
OTHER = "ams.example.com"


@pytest.fixture
def joined(files: Files, tmp_path: Path) -> Files:
    """A node with a state folder and no files for zones."""
    files.config = replace(files.config, tls_cert=(), tls_key=(), state_dir=tmp_path / "state")
    return files


def handed(
    files: Files, zone: str = ZONE, *names: str, age: timedelta = DAY, life: timedelta = 90 * DAY
) -> ZoneCertificate:
    """A certificate as a registry hands it to a node."""
    start = files.now - age
    leaf = files.authority.issue_cert(*names or (zone, f"*.{zone}"), not_before=start, not_after=start + life)
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    return ZoneCertificate(zone=zone, chain=chain, key=leaf.private_key_pem.bytes())


def shown(certificates: Certificates) -> dict[str, bytes]:
    """The chain of each zone in use."""
    return {zone: one.chain for zone, one in certificates.current().zones.items()}


def test_a_node_serves_with_what_registries_hand_to_it(joined: Files) -> None:
    """At once; those who look after the set are told."""
    certificates = joined.read()
    assert shown(certificates) == {}
    assert not certificates.serves_own_zone.is_set()
    told: list[bool] = []
    certificates.subscribe(lambda: told.append(True))
    own, other = handed(joined), handed(joined, OTHER)
    certificates.receive([own, other])
    assert shown(certificates) == {ZONE: own.chain, OTHER: other.chain}
    assert certificates.current().received == {ZONE, OTHER}
    assert certificates.serves_own_zone.is_set()
    assert told == [True]
    certificates.receive([own, other])
    assert told == [True], "nothing is new"


def test_a_restart_needs_no_registry(joined: Files) -> None:
    """What was handed to the node is in its state folder, for its owner alone to read."""
    own = handed(joined)
    joined.read().receive([own])
    assert joined.config.zones_folder is not None
    (path,) = joined.config.zones_folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(joined.config.zones_folder.stat().st_mode) == 0o700
    again = joined.read()
    assert shown(again) == {ZONE: own.chain}
    assert again.serves_own_zone.is_set()


def test_a_node_that_cannot_write_serves_all_the_same(joined: Files, caplog: pytest.LogCaptureFixture) -> None:
    """The log says that a restart needs a registry."""
    folder = joined.config.zones_folder
    assert folder is not None
    folder.parent.mkdir()
    folder.write_text("not a folder")
    certificates, own = joined.read(), handed(joined)
    certificates.receive([own])
    assert shown(certificates) == {ZONE: own.chain}
    assert "is not stored" in caplog.text


def test_a_damaged_file_is_passed_over(joined: Files, caplog: pytest.LogCaptureFixture) -> None:
    """A registry hands the certificate to the node again."""
    own = handed(joined)
    joined.read().receive([own])
    assert joined.config.zones_folder is not None
    path = joined.config.zones_folder / f"{ZONE}.pem"
    path.write_bytes(path.read_bytes()[:400])
    certificates = joined.read()
    assert shown(certificates) == {}
    assert str(path) in caplog.text
    certificates.receive([own])
    assert shown(joined.read()) == {ZONE: own.chain}


def test_a_file_by_hand_wins_for_its_zone(files: Files, tmp_path: Path) -> None:
    """In whatever order they come; other zones are those of registries."""
    files.config = replace(files.config, state_dir=tmp_path / "state")
    certificates, own, other = files.read(), handed(files), handed(files, OTHER)
    by_hand = shown(certificates)[ZONE]
    certificates.receive([own, other])
    assert shown(certificates) == {ZONE: by_hand, OTHER: other.chain}
    assert certificates.current().received == {OTHER}
    assert shown(files.read()) == {ZONE: by_hand, OTHER: other.chain}


def test_files_by_hand_that_have_expired_do_not_hold_up_others(files: Files) -> None:
    """The files stay as they were read; what registries hand to the node is used."""
    files.region(not_after=files.now + DAY)
    certificates = files.read()
    files.now += 2 * DAY
    other = handed(files, OTHER)
    certificates.receive([other])
    assert shown(certificates)[OTHER] == other.chain


def test_the_newer_one_of_two_is_used(joined: Files) -> None:
    """A replica of the registry that is behind hands the one before to the node."""
    certificates = joined.read()
    older, newer = handed(joined, age=2 * DAY), handed(joined)
    for one in (older, newer, older):
        certificates.receive([one])
    assert shown(certificates) == {ZONE: newer.chain}
    assert shown(joined.read()) == {ZONE: newer.chain}


def test_one_that_is_missing_in_a_list_stays(joined: Files) -> None:
    """A registry that has lost its store takes nothing away. What has ended goes with the next change."""
    certificates = joined.read()
    own, other = handed(joined, life=20 * DAY), handed(joined, OTHER)
    certificates.receive([own])
    certificates.receive([])
    assert shown(certificates) == {ZONE: own.chain}
    joined.now += 30 * DAY
    certificates.receive([other])
    assert shown(certificates) == {OTHER: other.chain}


@pytest.mark.parametrize(
    ("zone", "names"),
    [
        (ZONE, ("fra.example.com",)),
        (ZONE, ("*.ams.example.com",)),
        ("example.com", ("example.com", "*.example.com")),
        ("a.fra.example.com", ("*.a.fra.example.com",)),
        ("fra.example.org", ("*.fra.example.org",)),
        ("../../etc/passwd", ("*.fra.example.com",)),
        ("", ("*.fra.example.com",)),
    ],
)
def test_one_for_other_names_is_not_used(
    joined: Files, zone: str, names: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """It must be a wildcard for a zone of the cluster: a zone is a file's name, too."""
    certificates = joined.read()
    certificates.receive([handed(joined, zone, *names)])
    assert shown(certificates) == {}
    assert "is not used" in caplog.text
    assert joined.config.zones_folder is not None
    assert not joined.config.zones_folder.exists()


def test_one_with_another_key_is_not_used(joined: Files, caplog: pytest.LogCaptureFixture) -> None:
    """Nor one that has expired; the one before stays."""
    certificates, own = joined.read(), handed(joined, age=3 * DAY)
    certificates.receive([own])
    for wrong in (
        ZoneCertificate(zone=ZONE, chain=handed(joined).chain, key=handed(joined).key),
        ZoneCertificate(zone=ZONE, chain=b"none", key=b"none"),
        handed(joined, life=DAY / 2),
    ):
        certificates.receive([wrong])
    assert shown(certificates) == {ZONE: own.chain}
    assert caplog.text.count("is not used") == 3


def test_what_tls_cannot_use_is_not_used(joined: Files, caplog: pytest.LogCaptureFixture) -> None:
    """The set in use stays whole, until it can."""
    certificates = joined.read()
    joined.fault = TlsSettingsError("no such curve")
    certificates.receive([handed(joined)])
    assert shown(certificates) == {}
    assert "are not used" in caplog.text
    joined.fault = None
    assert certificates.reload()
    assert dns_names(certificates.current().zones[ZONE].certificate) == [ZONE, REGION]


def test_a_node_without_a_state_folder_holds_them_in_memory(files: Files) -> None:
    """One that was given its own certificate as files."""
    files.config = replace(files.config, tls_cert=(), tls_key=(), state_dir=None)
    certificates, own = files.read(), handed(files)
    certificates.receive([own])
    assert shown(certificates) == {ZONE: own.chain}
    assert shown(files.read()) == {}


def test_the_key_and_the_chain_of_a_stored_one_belong_together(joined: Files) -> None:
    """They are one file, which is replaced as a whole."""
    own = handed(joined)
    joined.read().receive([own])
    assert joined.config.zones_folder is not None
    (path,) = joined.config.zones_folder.iterdir()
    stored = path.read_bytes()
    assert own.key in stored
    assert own.chain in stored
