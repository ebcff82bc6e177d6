"""Certificates that change while the node runs: taken up when they fit, and never making a running node worse.

Not here: what fits (test_certificates.py).
"""

import asyncio
import logging
import os
from itertools import product

import pytest
from portway_carrier.errors import TlsSettingsError
from portway_carrier.values import ClientTls
from portway_proto.wire.limits import LINK_ALPN, MESH_ALPN
from portway_runtime.tls_choices import GROUPS, Group
from portway_testkit.fakes.certificate_files import REGION, ZONE, Files, write_later


def test_any_regions_certificate_is_taken_when_its_file_changes(files: Files) -> None:
    """Not only the node's own."""
    files.add_region("ams", "*.ams.example.com")
    certificates = files.read()
    before = certificates.current().zones
    files.write(files.config.tls_cert[1], files.config.tls_key[1], files.authority.issue_cert("*.ams.example.com"))
    assert certificates.reload_if_changed()
    after = certificates.current().zones
    assert after["ams.example.com"].chain != before["ams.example.com"].chain
    assert after[ZONE].chain == before[ZONE].chain


def test_a_new_certificate_is_taken_when_its_files_change(files: Files) -> None:
    """Looked at again and again: once for each change, and not without one."""
    certificates = files.read()
    before = certificates.current()
    assert not certificates.reload_if_changed()
    assert certificates.current() is before
    files.region()
    assert certificates.reload_if_changed()
    assert certificates.current().zones[ZONE].chain == files.path("tls_cert").read_bytes() != before.zones[ZONE].chain
    assert certificates.current().node.chain == before.node.chain
    assert not certificates.reload_if_changed()


def test_files_that_do_not_fit_leave_the_old_ones_in_use(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    """Between the writing of a certificate and of its key nothing is changed; when both are there, all is."""
    certificates = files.read()
    before = certificates.current()
    leaf = files.authority.issue_cert(REGION)
    write_later(files.path("tls_cert"), leaf.cert_chain_pems[0].bytes())
    assert not certificates.reload_if_changed()
    assert certificates.current() is before
    assert "the old ones stay in use" in caplog.text
    assert str(files.path("tls_key")) in caplog.text
    caplog.clear()
    assert not certificates.reload_if_changed()
    assert caplog.text == ""
    write_later(files.path("tls_key"), leaf.private_key_pem.bytes())
    assert certificates.reload_if_changed()
    assert certificates.current().zones[ZONE].key == leaf.private_key_pem.bytes()


def test_a_set_is_prepared_before_it_is_used(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    """Every setting that connections will have; certificates that the carrier cannot use leave the old ones in use."""
    certificates = files.read()
    before = certificates.current()
    lanes = {tls.alpn for tls in files.prepared if isinstance(tls, ClientTls)}
    assert lanes == {LINK_ALPN, MESH_ALPN}
    lanes_here = {before.lane_tls(alpn, group) for alpn, group in product((LINK_ALPN, MESH_ALPN), GROUPS)}
    assert len(lanes_here) == 4
    assert lanes_here | {before.visitor_tls(ZONE, "h2", Group.P256)} < set(files.prepared)
    files.fault = TlsSettingsError("too small a key")
    files.region()
    assert not certificates.reload_if_changed()
    assert certificates.current() is before
    assert "the old ones stay in use" in caplog.text
    assert "too small a key" in caplog.text
    files.fault = None
    assert not certificates.reload_if_changed()


def test_certificates_that_cannot_be_loaded_now_are_tried_again(files: Files) -> None:
    """A process without descriptors takes the new certificate when it has some, though no file changes."""
    certificates = files.read()
    before = certificates.current()
    files.fault = TlsSettingsError("Too many open files", exhausted=True)
    files.region()
    assert not certificates.reload_if_changed()
    assert not certificates.reload_if_changed()
    assert certificates.current() is before
    files.fault = None
    assert certificates.reload_if_changed()
    assert certificates.current().zones[ZONE].chain == files.path("tls_cert").read_bytes()
    assert not certificates.reload_if_changed()


def test_a_file_that_goes_and_comes_back_is_read_again(files: Files) -> None:
    """A deployment may remove it first."""
    certificates = files.read()
    before = certificates.current()
    files.config.cert.unlink()
    assert not certificates.reload_if_changed()
    assert certificates.current() is before
    files.node()
    assert certificates.reload_if_changed()
    assert certificates.current().node.chain == files.config.cert.read_bytes()


def test_a_file_that_is_swapped_is_noticed(files: Files) -> None:
    """A rename of the same size and time is a change: it is another file."""
    certificates = files.read()
    path = files.config.cluster_ca
    stat = path.stat()
    swapped = path.with_suffix(".new")
    swapped.write_bytes(path.read_bytes())
    os.utime(swapped, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    swapped.rename(path)
    assert certificates.reload_if_changed()


def test_a_reload_can_be_asked_for(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    """SIGHUP reads the files whether they changed or not, and says until when visitors are served with them."""
    certificates = files.read()
    with caplog.at_level(logging.INFO):
        assert certificates.reload()
    assert "certificates reloaded" in caplog.text
    files.config.key.write_bytes(b"garbage")
    assert not certificates.reload()
    assert certificates.current().node.key != b"garbage"


def test_who_uses_certificates_hears_of_another_set(files: Files) -> None:
    """Once for each set that can be used; never for files that cannot."""
    certificates = files.read()
    heard: list[bytes] = []
    certificates.subscribe(lambda: heard.append(certificates.link_tls(Group.X25519).certificate))
    certificates.reload_if_changed()
    assert heard == []
    files.node()
    certificates.reload_if_changed()
    assert heard == [files.config.cert.read_bytes()]
    files.config.cert.write_bytes(b"not PEM")
    certificates.reload_if_changed()
    assert len(heard) == 1
    assert certificates.link_tls(Group.P256).certificate == certificates.mesh_tls(Group.P256).certificate == heard[0]


async def test_files_are_watched(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change is taken up without being asked for."""
    monkeypatch.setattr("portway_relay.certificates._POLL_INTERVAL", 0.001)
    certificates = files.read()
    changed = asyncio.Event()
    certificates.subscribe(changed.set)
    watching = asyncio.ensure_future(certificates.watch())
    files.node()
    await changed.wait()
    watching.cancel()
    assert certificates.current().node.chain == files.config.cert.read_bytes()
