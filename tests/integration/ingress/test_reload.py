"""Certificates that change while the node serves."""

import logging
import shutil
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path

import portway
import pytest
from portway_registry.pki.ca_folder import CaFolder
from portway_testkit.clusters.cluster import DOMAIN, Cluster
from portway_testkit.fixtures import AsClient
from portway_testkit.visitors.origins import TcpOrigin, echo
from portway_testkit.visitors.visiting import visit
from portway_testkit.waiting import eventually

pytestmark = pytest.mark.shares_sockets


def certificate_of(visitor: ssl.SSLSocket) -> bytes:
    shown = visitor.getpeercert(binary_form=True)
    assert shown is not None
    return shown


def renew(pki: Path) -> None:
    """The same CA's new certificate for the region's names, moved into place file by file as tools do."""
    authority = CaFolder.open(pki)
    for name in ("region-fra.crt", "region-fra.key"):
        (pki / name).rename(pki / f"{name}.old")
    for path in authority.add_region("fra", DOMAIN):
        path.rename(path.with_suffix(path.suffix + ".new"))
    for name in ("region-fra.key", "region-fra.crt"):
        (pki / f"{name}.new").rename(pki / name)


def test_a_renewed_certificate_is_shown_without_a_restart(
    make_cluster: Callable[..., Cluster], as_client: AsClient
) -> None:
    """Seconds after its files were replaced new visitors see the new certificate; a visit in progress goes on."""
    cluster = make_cluster()
    as_client(cluster.environment())
    with TcpOrigin(echo) as server, portway.forward(server.port) as tunnel, visit(tunnel, cluster.ca) as before:
        old = certificate_of(before)
        renew(cluster.pki)

        def renewed() -> bool:
            with visit(tunnel, cluster.ca) as visitor:
                return certificate_of(visitor) != old

        eventually(renewed)
        before.sendall(b"still there?")
        assert before.recv(100) == b"still there?"


def test_files_that_do_not_fit_change_nothing(
    make_cluster: Callable[..., Cluster], as_client: AsClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A pair that does not fit is logged as an error with the file's name, the old one stays in use, and the next
    change is taken again."""
    cluster = make_cluster()
    as_client(cluster.environment())
    key = cluster.pki / "region-fra.key"
    with TcpOrigin(echo) as server, portway.forward(server.port) as tunnel:
        with visit(tunnel, cluster.ca) as visitor:
            old = certificate_of(visitor)
        with caplog.at_level(logging.ERROR, "portway_relay.certificates"):
            shutil.copy(key, cluster.pki / "kept.key")
            shutil.copy(cluster.pki / "node-fra-1.key", key)
            eventually(lambda: f"{key} is not the key of" in caplog.text)
        with visit(tunnel, cluster.ca) as visitor:
            assert certificate_of(visitor) == old
            visitor.sendall(b"hello")
            assert visitor.recv(100) == b"hello"
        renew(cluster.pki)

        def renewed() -> bool:
            with visit(tunnel, cluster.ca) as visitor:
                return certificate_of(visitor) != old

        eventually(renewed)


def test_no_room_for_temporary_files_changes_nothing(
    make_cluster: Callable[..., Cluster], as_client: AsClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A node whose TMPDIR is full or gone serves visitors of every protocol, starts, and takes a renewed certificate:
    keys are read from their own files alone."""
    cluster = make_cluster()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    cluster.node.restart()
    as_client(cluster.environment())
    with TcpOrigin(echo) as server, portway.forward(server.port) as tunnel:
        with visit(tunnel, cluster.ca) as visitor:
            old = certificate_of(visitor)
        renew(cluster.pki)

        def renewed() -> bool:
            with visit(tunnel, cluster.ca, "http/1.1") as visitor:
                return certificate_of(visitor) != old

        eventually(renewed)
        with visit(tunnel, cluster.ca, "h2") as visitor:
            visitor.sendall(b"hello")
            assert visitor.recv(100) == b"hello"
