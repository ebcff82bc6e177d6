"""Certificates that cannot be used are found at start, and the flag that named them is said."""

import datetime
from pathlib import Path

import pytest
import trustme
from portway_registry.certificates import read_certificates
from portway_registry.config import Config
from portway_registry.errors import ConfigError
from portway_testkit.registry import Pki

NOW = datetime.datetime.now(datetime.UTC)
YEAR = datetime.timedelta(days=365)


class Files:
    """A cluster's CA, another CA, and what they signed, as files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.cluster, self.other = trustme.CA(), trustme.CA()

    def ca(self, authority: trustme.CA) -> Path:
        path = self._folder / f"ca-{id(authority)}.crt"
        path.write_bytes(authority.cert_pem.bytes())
        return path

    def issue(self, authority: trustme.CA, **times: datetime.datetime) -> tuple[Path, Path]:
        leaf = authority.issue_cert("registry.example", **times)
        stem = self._folder / f"leaf-{id(leaf)}"
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


def refusal(config: Config, now: datetime.datetime = NOW) -> str:
    with pytest.raises(ConfigError) as raised:
        read_certificates(config, now)
    return str(raised.value)


def test_one_pair_serves_both_ports(files: Files) -> None:
    """A certificate of the cluster's CA is shown to clients and to nodes."""
    config = files.config()
    found = read_certificates(config, NOW)
    assert config.tls_cert is not None
    assert found.public == found.mesh
    assert found.public.certificate == config.tls_cert.read_bytes()


def test_nodes_have_a_pair_of_their_own(files: Files) -> None:
    """With a certificate of a public CA for clients, nodes are shown one of the cluster's."""
    public, public_key = files.issue(files.other)
    mesh, mesh_key = files.issue(files.cluster)
    config = files.config(tls_cert=public, tls_key=public_key, mesh_tls_cert=mesh, mesh_tls_key=mesh_key)
    found = read_certificates(config, NOW)
    assert (found.public.certificate, found.mesh.certificate) == (public.read_bytes(), mesh.read_bytes())


def test_an_intermediate_ca_leads_to_the_cluster_s(files: Files) -> None:
    """A chain with an intermediate certificate is the cluster's when that was signed by it."""
    certificate, key = files.issue(files.cluster.create_child_ca())
    read_certificates(files.config(tls_cert=certificate, tls_key=key), NOW)


def test_nodes_would_not_trust_a_foreign_certificate(files: Files) -> None:
    """A certificate of another CA alone is refused, and the remedy named."""
    certificate, key = files.issue(files.other)
    assert "--mesh-tls-cert" in refusal(files.config(tls_cert=certificate, tls_key=key))


@pytest.mark.parametrize("name", ["tls_cert", "tls_key", "cluster_ca"])
def test_what_is_needed_is_said(files: Files, tmp_path: Path, name: str) -> None:
    """Without one of the files, or with one that is not there, its flag is named."""
    dashed = f"--{name.replace('_', '-')}"
    assert refusal(files.config(**{name: None})).startswith(f"{dashed} FILE is needed")
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
    assert f"has expired on {NOW - YEAR:%Y-%m-%d}" in said
    own = files.config()
    mesh = files.config(tls_cert=own.tls_cert, tls_key=own.tls_key, mesh_tls_cert=certificate, mesh_tls_key=key)
    assert "--mesh-tls-cert" in refusal(mesh)


def test_an_expired_authority_is_refused(pki: Pki) -> None:
    """A cluster's CA that is over is named itself, not what it signed."""
    config = Config(tls_cert=pki.folder / "registry.crt", tls_key=pki.folder / "registry.key", cluster_ca=pki.ca)
    assert refusal(config, NOW + 11 * YEAR).startswith(f"--cluster-ca {pki.ca} has expired")


def test_a_certificate_of_tomorrow_blames_the_clock(files: Files) -> None:
    """A certificate that is not valid yet most likely means a clock that is behind."""
    certificate, key = files.issue(files.cluster, not_before=NOW + YEAR, not_after=NOW + 2 * YEAR)
    assert "set this machine's clock" in refusal(files.config(tls_cert=certificate, tls_key=key))


@pytest.mark.parametrize("given", ["mesh_tls_cert", "mesh_tls_key"])
def test_half_a_pair_for_nodes_is_refused(files: Files, given: str) -> None:
    """The certificate for nodes and its key go together."""
    certificate, key = files.issue(files.cluster)
    path = certificate if given == "mesh_tls_cert" else key
    assert "go together" in refusal(files.config(**{given: path}))
