"""The certificates that `portway-admin pki` makes: who trusts them, for which names, and what is never overwritten."""

import datetime
import ipaddress
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from portway_registry.errors import PkiError
from portway_registry.pki.ca_folder import CaFolder, check_names


@pytest.fixture
def authority(tmp_path: Path) -> CaFolder:
    return CaFolder.create(tmp_path / "pki")


def test_a_ca_in_a_folder_may_have_a_byte_order_mark(authority: CaFolder) -> None:
    """As editors write it."""
    path = authority.folder / "ca.crt"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert CaFolder.open(authority.folder).certificate == authority.certificate


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def names(certificate: x509.Certificate) -> list[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in found]


def usages(certificate: x509.Certificate) -> set[x509.ObjectIdentifier]:
    return set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def handshake(server: tuple[Path, Path], ca: Path, name: str, client: tuple[Path, Path] | None = None) -> None:
    """A TLS handshake in memory, as OpenSSL does it. Raises ssl.SSLError."""
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listening.load_cert_chain(*server)
    dialling = ssl.create_default_context(cafile=ca)
    if client is not None:
        listening.load_verify_locations(ca)
        listening.verify_mode = ssl.CERT_REQUIRED
        dialling.load_cert_chain(*client)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        dialling.wrap_bio(to_client, to_server, server_hostname=name),
        listening.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(6):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    assert ends[0].version() == ends[1].version() == "TLSv1.3"


def test_the_registry_is_trusted_for_the_hosts_it_was_made_for(authority: CaFolder) -> None:
    """Names and addresses of the registry verify with the CA, others do not."""
    pair = tuple(authority.add_registry(["registry.example", "127.0.0.1", "::1"]))
    ca = authority.folder / "ca.crt"
    for name in ("registry.example", "127.0.0.1", "::1"):
        handshake((pair[0], pair[1]), ca, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake((pair[0], pair[1]), ca, "other.example")


def test_a_node_shows_one_certificate_everywhere(authority: CaFolder) -> None:
    """A node's certificate is good as a server's under its own name, and as a client's to the registry."""
    node = authority.add_node("fra-1")
    registry = authority.add_registry(["localhost"])
    ca = authority.folder / "ca.crt"
    handshake((node[0], node[1]), ca, "fra-1.node.portway.internal")
    handshake((registry[0], registry[1]), ca, "localhost", client=(node[0], node[1]))
    assert names(load(node[0])) == ["fra-1.node.portway.internal"]
    assert names(load(authority.add_node("fra-2", "fra")[0])) == [
        "fra-2.node.portway.internal",
        "fra.region.portway.internal",
    ]


def test_a_registry_s_certificate_makes_no_node(authority: CaFolder) -> None:
    """What may only serve is refused as a client's certificate."""
    registry = authority.add_registry(["localhost"])
    assert usages(load(registry[0])) == {ExtendedKeyUsageOID.SERVER_AUTH}
    node = authority.add_node("fra-1")
    assert usages(load(node[0])) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


def test_a_region_s_certificate_covers_its_labels(authority: CaFolder) -> None:
    """Every label of the region, and the region's own name; not another region, nor a name two levels down."""
    region = authority.add_region("fra", "tunnels.example")
    ca = authority.folder / "ca.crt"
    for name in ("abc.fra.tunnels.example", "fra.tunnels.example"):
        handshake((region[0], region[1]), ca, name)
    for name in ("abc.lon.tunnels.example", "a.b.fra.tunnels.example"):
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake((region[0], region[1]), ca, name)


def test_another_authority_is_not_trusted(authority: CaFolder, tmp_path: Path) -> None:
    """Two CAs are told apart, by their names too."""
    other = CaFolder.create(tmp_path / "other")
    assert other.certificate.subject != authority.certificate.subject
    node = other.add_node("fra-1")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake((node[0], node[1]), authority.folder / "ca.crt", "fra-1.node.portway.internal")


def test_certificates_stand_clocks_that_differ(authority: CaFolder) -> None:
    """They are valid from an hour ago on, for as long as the strictest platforms take, and not beyond the CA."""
    node = load(authority.add_node("fra-1")[0])
    now = datetime.datetime.now(datetime.UTC)
    for certificate in (node, authority.certificate):
        assert now - certificate.not_valid_before_utc >= datetime.timedelta(minutes=59)
    assert datetime.timedelta(days=800) < node.not_valid_after_utc - now < datetime.timedelta(days=826)
    assert node.not_valid_after_utc <= authority.certificate.not_valid_after_utc


def test_keys_are_their_owner_s_alone(authority: CaFolder) -> None:
    """Private keys can be read by nobody else; certificates by all."""
    authority.add_node("fra-1")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in authority.folder.iterdir()}
    assert {name: mode for name, mode in modes.items() if name.endswith(".key")} == {
        "ca.key": 0o600,
        "node-fra-1.key": 0o600,
    }
    assert modes["ca.crt"] & 0o077 == 0o044


def test_nothing_is_ever_overwritten(authority: CaFolder) -> None:
    """A CA or a certificate that is there stays, and the error says what to do."""
    before = {path: path.read_bytes() for path in authority.add_node("fra-1")}
    with pytest.raises(PkiError, match="pki node"):
        CaFolder.create(authority.folder)
    with pytest.raises(PkiError, match="never overwritten"):
        authority.add_node("fra-1")
    assert {path: path.read_bytes() for path in before} == before


def test_a_folder_is_opened_again(authority: CaFolder) -> None:
    """What is added later is from the same CA."""
    node = CaFolder.open(authority.folder).add_node("lon-1")
    handshake((node[0], node[1]), authority.folder / "ca.crt", "lon-1.node.portway.internal")


def test_a_folder_that_is_no_authority_is_refused(authority: CaFolder, tmp_path: Path) -> None:
    """A missing, broken or mixed-up CA is an error that says which file."""
    with pytest.raises(PkiError, match="portway-admin pki init"):
        CaFolder.open(tmp_path / "none")
    other = CaFolder.create(tmp_path / "other")
    (other.folder / "ca.key").write_bytes((authority.folder / "ca.key").read_bytes())
    with pytest.raises(PkiError, match="is not the key of"):
        CaFolder.open(other.folder)
    (other.folder / "ca.crt").write_bytes(b"noise")
    with pytest.raises(PkiError, match="cannot be read"):
        CaFolder.open(other.folder)


@pytest.mark.parametrize(
    ("domain", "regions", "nodes", "hosts", "says"),
    [
        ("no domain", [], [], [], "not a domain"),
        ("example.com", ["Fra"], [], [], "not a region name"),
        ("example.com", [], ["a b"], [], "not a node name"),
        ("example.com", [], [], ["a b"], "neither"),
        ("example.com", ["fra", "fra"], [], [], "region fra is named twice"),
        ("example.com", [], ["a", "b", "a"], [], "node a is named twice"),
    ],
)
def test_names_are_checked_before_anything_is_written(
    domain: str, regions: list[str], nodes: list[str], hosts: list[str], says: str
) -> None:
    """A name that no certificate can be made for is refused at once."""
    with pytest.raises(PkiError, match=says):
        check_names(domain, regions, nodes, hosts)


def test_an_address_becomes_an_address(authority: CaFolder) -> None:
    """IP addresses are written as such: clients do not look for them among the DNS names."""
    certificate = load(authority.add_registry(["127.0.0.1"])[0])
    name, own = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert isinstance(name, x509.IPAddress)
    assert name.value == ipaddress.ip_address("127.0.0.1")
    assert own.value == "registry.portway.internal"
