"""The ends of a registry's certificates are told in time, with what to do."""

import datetime
import logging
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from portway_registry.config import Config
from portway_registry.pki.cluster_authority import ClusterAuthority
from portway_registry.pki.expiry import watched_certificates
from portway_registry.pki.port_certificates import CertificateFiles, SelfIssued
from portway_registry.pki.signing import Signer, new_key, private_pem
from portway_runtime.clocks import utc_now
from portway_runtime.expiry import ExpiryWarnings

DAY = datetime.timedelta(days=1)
OLD, NEXT = Signer.create(), Signer.create()


class Port:
    """The files of a port's certificate."""

    def __init__(self, folder: Path, name: str) -> None:
        self.certificate, self.key = folder / f"{name}.crt", folder / f"{name}.key"

    def write(self, life: datetime.timedelta) -> None:
        key = new_key()
        made = OLD.registry(key.public_key(), ["registry.example.com"], life)
        self.certificate.write_bytes(made.public_bytes(Encoding.PEM))
        self.key.write_bytes(private_pem(key))


@pytest.fixture
def public(tmp_path: Path) -> Port:
    port = Port(tmp_path, "public")
    port.write(90 * DAY)
    return port


def files_of(port: Port, other: Port | None = None) -> tuple[CertificateFiles, CertificateFiles | None]:
    mesh = {} if other is None else {"mesh_tls_cert": other.certificate, "mesh_tls_key": other.key}
    config = Config(tls_cert=port.certificate, tls_key=port.key, **mesh)  # type: ignore[arg-type]
    own = CertificateFiles(config, "tls_cert", "tls_key", utc_now)
    return own, None if other is None else CertificateFiles(config, "mesh_tls_cert", "mesh_tls_key", utc_now)


def test_a_public_certificate_that_is_about_to_end_is_told(public: Port, caplog: pytest.LogCaptureFixture) -> None:
    """At 30, 7 and 1 days and each hour of the last, with its flag and file; one that took its place ends it."""
    files, _ = files_of(public)
    authority = ClusterAuthority(OLD.pem, OLD)
    ahead = datetime.timedelta()
    watched = watched_certificates(files, SelfIssued(authority, utc_now), authority)
    warnings = ExpiryWarnings(watched, lambda: utc_now() + ahead)

    def look(at: datetime.timedelta) -> list[tuple[str, int]]:
        nonlocal ahead
        ahead = at
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            warnings.look()
        return [(record.__dict__["certificate"], record.__dict__["hours_left"]) for record in caplog.records]

    assert look(59 * DAY) == []
    assert look(61 * DAY) == [("public", 28 * 24 + 23)]
    assert look(62 * DAY) == []
    assert look(84 * DAY) == [("public", 5 * 24 + 23)]
    assert f"put a new one in the place of --tls-cert {public.certificate}" in caplog.text
    assert [hours for _, hours in (look(89 * DAY + n * DAY / 24)[0] for n in range(1, 24))] == list(range(22, -1, -1))
    assert look(91 * DAY)[0][0] == "public"
    assert "has ended" in caplog.text
    public.write(200 * DAY)
    files.reload()
    assert look(91 * DAY + DAY / 24) == []


def test_what_is_watched(public: Port, tmp_path: Path) -> None:
    """Both ports where both have files, and each CA, with what replaces it; nothing that the registry issues itself."""
    mesh = Port(tmp_path, "mesh")
    mesh.write(90 * DAY)
    files, for_nodes = files_of(public, mesh)
    assert for_nodes is not None
    authority = ClusterAuthority(OLD.pem, OLD)
    one, other = authority.issuer_id, ClusterAuthority(NEXT.pem, NEXT).issuer_id
    assert set(watched_certificates(files, for_nodes, authority)()) == {"public", "mesh", f"ca-{one}"}
    assert set(watched_certificates(files, files, authority)()) == {"public", f"ca-{one}"}
    watched = watched_certificates(files, SelfIssued(authority, utc_now), authority)
    assert watched()[f"ca-{one}"].remedy == "replace the CA (`portway-admin ca rotate`)"
    authority.replace(NEXT.pem + OLD.pem, NEXT)
    assert f"`portway-admin ca retire {one}`" in watched()[f"ca-{one}"].remedy
    assert "`portway-admin ca rotate`" in watched()[f"ca-{other}"].remedy
    shown = watched_certificates(files, files, authority, public.certificate)()["etcd"]
    assert (shown.end, "--etcd-cert" in shown.remedy) == (files.current().certificate.not_valid_after_utc, True)
    assert "etcd" not in watched_certificates(files, files, authority, tmp_path / "none")()
    given = ClusterAuthority(OLD.pem, OLD, from_files=True)
    assert "--cluster-ca" in watched_certificates(files, files, given)()[f"ca-{one}"].remedy
