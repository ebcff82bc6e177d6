"""Certificates that cannot be used are found at start, and the flag that named them is said; changed files count."""

import datetime
import itertools
import logging
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from portway_registry.config import Config
from portway_registry.errors import ConfigError
from portway_registry.pki import port_certificates as certificates
from portway_registry.pki.cluster_authority import ClusterAuthority, configured_authority
from portway_registry.pki.port_certificates import CertificateFiles, PortCertificate, SelfIssued, node_port_certificate
from portway_registry.pki.signing import Signer

NOW = datetime.datetime.now(datetime.UTC)
YEAR = datetime.timedelta(days=365)


class Files:
    """A cluster's CA, another CA, and what they signed, as files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()  # not of objects: one that is gone leaves its id to the next
        self.cluster, self.other = trustme.CA(), trustme.CA()

    def ca(self, authority: trustme.CA) -> Path:
        path = self._folder / f"ca-{id(authority)}.crt"
        path.write_bytes(authority.cert_pem.bytes())
        return path

    def key(self, authority: trustme.CA) -> Path:
        path = self._folder / f"ca-{id(authority)}.key"
        path.write_bytes(authority.private_key_pem.bytes())
        return path

    def issue(self, authority: trustme.CA, **times: Any) -> tuple[Path, Path]:
        leaf = authority.issue_cert("registry.example", **times)
        stem = self._folder / f"leaf-{next(self._numbers)}"
        certificate, key = stem.with_suffix(".crt"), stem.with_suffix(".key")
        certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        key.write_bytes(leaf.private_key_pem.bytes())
        return certificate, key

    def config(self, **changed: Path | None) -> Config:
        certificate, key = self.issue(self.cluster)
        given = {"tls_cert": certificate, "tls_key": key, "cluster_ca": self.ca(self.cluster)}
        return Config(**given | changed)  # type: ignore[arg-type]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def read(config: Config, now: datetime.datetime = NOW) -> tuple[CertificateFiles, PortCertificate, ClusterAuthority]:
    """What both ports show, with a CA that an operator brought."""
    public = CertificateFiles(config, "tls_cert", "tls_key", lambda: now)
    authority = configured_authority(config, now)
    assert authority is not None
    return public, node_port_certificate(config, public, authority, lambda: now), authority


def refusal(config: Config, now: datetime.datetime = NOW) -> str:
    with pytest.raises(ConfigError) as raised:
        read(config, now)
    return str(raised.value)


def test_one_pair_serves_both_ports(files: Files) -> None:
    """A certificate of a CA whose key is elsewhere is shown to clients and to nodes."""
    config = files.config()
    public, mesh, authority = read(config)
    assert config.tls_cert is not None
    assert public is mesh
    assert public.current().chain == config.tls_cert.read_bytes()
    assert authority.signer is None


def test_nodes_have_a_pair_of_their_own(files: Files) -> None:
    """With a certificate of a public CA for clients, nodes are shown one of the cluster's."""
    public, public_key = files.issue(files.other)
    mesh, mesh_key = files.issue(files.cluster)
    config = files.config(tls_cert=public, tls_key=public_key, mesh_tls_cert=mesh, mesh_tls_key=mesh_key)
    pairs = read(config)
    assert [pair.current().chain for pair in pairs[:2]] == [public.read_bytes(), mesh.read_bytes()]


def test_with_the_authority_s_key_nodes_are_shown_a_fresh_one(files: Files) -> None:
    """Whatever the public port shows: the mesh port's is made by the registry, and is from the cluster's CA."""
    public, public_key = files.issue(files.other)
    config = files.config(tls_cert=public, tls_key=public_key, cluster_ca_key=files.key(files.cluster))
    _, mesh, authority = read(config)
    shown = x509.load_pem_x509_certificate(mesh.current().chain)
    shown.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate))
    assert authority.signer is not None


def test_a_certificate_of_its_own_is_made_anew_in_time() -> None:
    """At half its life; until then it is the same."""
    now = NOW
    signer = Signer.create()
    pair = SelfIssued(ClusterAuthority(signer.pem, signer), lambda: now)
    first = pair.current()
    now += datetime.timedelta(days=3)
    assert pair.current() is first
    now += datetime.timedelta(days=1)
    assert pair.current() is not first


def test_a_certificate_of_its_own_is_made_anew_when_another_ca_issues() -> None:
    """At once; a CA that is merely trusted changes nothing."""
    old, new = Signer.create(), Signer.create()
    authority = ClusterAuthority(old.pem, old)
    pair = SelfIssued(authority, lambda: NOW)
    first = pair.current()
    authority.replace(old.pem + new.pem, old)
    assert pair.current() is first
    authority.replace(new.pem + old.pem, new)
    pair.current().certificate.verify_directly_issued_by(new.certificate)


@pytest.mark.parametrize("wrong", ["key of another", "no key"])
def test_an_authority_s_key_must_fit(files: Files, wrong: str) -> None:
    """Both files are named."""
    path = files.key(files.other)
    if wrong == "no key":
        path.write_bytes(b"noise")
    said = refusal(files.config(cluster_ca_key=path))
    assert "--cluster-ca " in said
    assert f"--cluster-ca-key {path}" in said


def test_changed_files_are_shown_from_then_on(
    files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A renewed pair takes the place of the one before; half of one is logged, and nothing changes."""
    monkeypatch.setattr(certificates, "CHECK_EVERY", 0.0)
    config = files.config()
    assert config.tls_cert is not None
    assert config.tls_key is not None
    pair = CertificateFiles(config, "tls_cert", "tls_key", lambda: NOW)
    first = pair.current()
    certificate, key = files.issue(files.cluster)
    certificate.replace(config.tls_cert)
    with caplog.at_level(logging.ERROR):
        assert pair.current() is first
    assert "the old one stays in use" in caplog.text
    key.replace(config.tls_key)
    assert pair.current().chain == config.tls_cert.read_bytes() != first.chain


def test_files_are_read_at_once_when_that_is_asked_for(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    """Changed or not; files that cannot be used are logged, and those before stay. One issued in memory has none."""
    config = files.config()
    assert config.tls_cert is not None
    assert config.tls_key is not None
    public, _, _ = read(config)
    first = public.current()
    with caplog.at_level(logging.INFO):
        public.reload()
    assert caplog.records[-1].getMessage() == "certificate reloaded"
    assert caplog.records[-1].__dict__["file"] == str(public._certificate.path)
    assert public.current().chain == first.chain
    certificate, key = files.issue(files.cluster)
    certificate.replace(config.tls_cert)
    key.replace(config.tls_key)
    public.reload()
    assert public.current().chain == config.tls_cert.read_bytes() != first.chain
    config.tls_key.write_bytes(b"noise")
    public.reload()
    assert "the old one stays in use" in caplog.text
    assert public.current().chain == config.tls_cert.read_bytes()


def test_an_intermediate_ca_leads_to_the_cluster_s(files: Files) -> None:
    """A chain with an intermediate certificate is the cluster's when that was signed by it."""
    certificate, key = files.issue(files.cluster.create_child_ca())
    read(files.config(tls_cert=certificate, tls_key=key))


def test_nodes_would_not_trust_a_foreign_certificate(files: Files) -> None:
    """A certificate of another CA alone is refused, and the remedy named."""
    certificate, key = files.issue(files.other)
    assert "--mesh-tls-cert" in refusal(files.config(tls_cert=certificate, tls_key=key))


def test_an_authority_without_a_file_is_named_as_the_cluster_s_own(files: Files) -> None:
    """The CA in the store has no file that an error could name."""
    certificate, key = files.issue(files.other)
    config = files.config(cluster_ca=None, mesh_tls_cert=certificate, mesh_tls_key=key)
    public, _, authority = read(files.config())
    with pytest.raises(ConfigError, match="not issued by the cluster's own CA"):
        node_port_certificate(config, public, authority, lambda: NOW)


@pytest.mark.parametrize("name", ["tls_cert", "tls_key", "cluster_ca"])
def test_what_is_needed_is_said(files: Files, tmp_path: Path, name: str) -> None:
    """Without one of the files, or with one that is not there, its flag is named."""
    dashed = f"--{name.replace('_', '-')}"
    if name != "cluster_ca":
        assert refusal(files.config(**{name: None})).startswith(f"{dashed} FILE is required")
    assert refusal(files.config(**{name: tmp_path / "gone"})).startswith(f"cannot read {dashed} {tmp_path / 'gone'}")


def test_a_key_that_is_not_the_certificate_s_is_refused(files: Files) -> None:
    """Certificate and key have to fit."""
    _, key = files.issue(files.cluster)
    assert "is not the key of --tls-cert" in refusal(files.config(tls_key=key))


@pytest.mark.parametrize("name", ["tls_cert", "tls_key", "cluster_ca"])
def test_what_is_no_pem_is_refused(files: Files, tmp_path: Path, name: str) -> None:
    """Bytes of another kind are named with their flag."""
    path = tmp_path / "noise"
    path.write_bytes(b"\x00\x01noise")
    said = refusal(files.config(**{name: path}))
    assert said.startswith(f"--{name.replace('_', '-')} {path} holds no ")


def test_an_expired_certificate_is_refused(files: Files) -> None:
    """A certificate that is over says since when, whichever of the files it is in."""
    certificate, key = files.issue(files.cluster, not_before=NOW - 2 * YEAR, not_after=NOW - YEAR)
    said = refusal(files.config(tls_cert=certificate, tls_key=key))
    assert f"expired on {NOW - YEAR:%Y-%m-%d}" in said
    own = files.config()
    mesh = files.config(tls_cert=own.tls_cert, tls_key=own.tls_key, mesh_tls_cert=certificate, mesh_tls_key=key)
    assert "--mesh-tls-cert" in refusal(mesh)


def test_a_certificate_of_tomorrow_blames_the_clock(files: Files) -> None:
    """A certificate that is not valid yet most likely means a clock that is behind."""
    certificate, key = files.issue(files.cluster, not_before=NOW + YEAR, not_after=NOW + 2 * YEAR)
    assert "check this machine's clock" in refusal(files.config(tls_cert=certificate, tls_key=key))


@pytest.mark.parametrize("given", ["mesh_tls_cert", "mesh_tls_key"])
def test_half_a_pair_for_nodes_is_refused(files: Files, given: str) -> None:
    """The certificate for nodes and its key go together."""
    certificate, key = files.issue(files.cluster)
    path = certificate if given == "mesh_tls_cert" else key
    assert "go together" in refusal(files.config(**{given: path}))
