"""Certificates: each fault is found before the node runs, and named with its file.

Not here: files that change while the node runs (test_certificates_reloaded.py).
"""

from datetime import timedelta
from itertools import product

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from portway_carrier.errors import TlsSettingsError
from portway_carrier.values import ServerTls
from portway_proto.wire.limits import LINK_ALPN, MESH_ALPN
from portway_runtime.certificates import issued_by
from portway_runtime.identities import dns_names
from portway_runtime.tls_choices import GROUPS, Group
from portway_testkit.fakes.certificate_files import NODE, REGION, ZONE, Files

DAY = timedelta(days=1)
P256 = bytes.fromhex("2a8648ce3d030107")
UNKNOWN_CURVE = bytes.fromhex("2a8648ce3d03017f")


def test_a_ca_file_may_have_a_byte_order_mark(files: Files) -> None:
    """It goes on without: TLS would refuse it."""
    pem = files.config.cluster_ca.read_text()
    files.config.cluster_ca.write_text(pem, encoding="utf-8-sig")
    loaded = files.read().current()
    assert loaded.ca == pem.encode()
    assert {tls.client_ca for tls in files.prepared if isinstance(tls, ServerTls)} == {None, pem.encode()}


def test_files_that_fit_are_taken(files: Files) -> None:
    """Clients' lanes get the node's certificate, visitors the region's, with each protocol that can be chosen."""
    loaded = files.read().current()
    config = files.config
    assert loaded.ca == config.cluster_ca.read_bytes()
    asked = {LINK_ALPN: None, MESH_ALPN: loaded.ca}
    for protocol, group in product(asked, GROUPS):
        tls = loaded.lane_tls(protocol, group)
        assert (tls.alpn, tls.client_ca, tls.group) == (protocol, asked[protocol], group)
        assert (tls.certificate, tls.key) == (config.cert.read_bytes(), config.key.read_bytes())
    cert, key = files.path("tls_cert").read_bytes(), files.path("tls_key").read_bytes()
    for alpn, group in product((None, "http/1.1", "h2"), GROUPS):
        tls = loaded.visitor_tls(ZONE, alpn, group)
        assert (tls.alpn, tls.group, tls.certificate, tls.key) == (alpn, group, cert, key)
    assert dns_names(loaded.node.certificate) == [NODE]


def test_a_chain_is_kept_whole(files: Files) -> None:
    """The leaf is checked, and what was issued between it and a root is shown to visitors."""
    between = files.authority.create_child_ca()
    files.write(files.path("tls_cert"), files.path("tls_key"), between.issue_cert(REGION))
    chain = files.read().current().visitor_tls(ZONE, None, Group.X25519).certificate
    assert len(x509.load_pem_x509_certificates(chain)) >= 2


@pytest.mark.parametrize("kind", [trustme.KeyType.RSA, trustme.KeyType.ECDSA])
def test_keys_of_both_kinds_are_taken(files: Files, kind: trustme.KeyType) -> None:
    """RSA and elliptic curves."""
    files.node(key_type=kind)
    files.region(key_type=kind)
    assert files.read().current().zones[ZONE].key.startswith(b"-----BEGIN")


@pytest.mark.parametrize("which", ["cert", "tls_cert"])
def test_a_key_of_another_certificate_is_named(files: Files, which: str) -> None:
    """Both files are named, so that the right one can be replaced."""
    path = files.path(which)
    key = files.config.key if which == "cert" else files.path("tls_key")
    other = files.authority.issue_cert(NODE, REGION)
    key.write_bytes(other.private_key_pem.bytes())
    assert files.complaint() == f"{key} is not the key of {path}: the two files are from different pairs"


@pytest.mark.parametrize("which", ["node", "region"])
def test_a_certificate_that_has_expired_is_named(files: Files, which: str) -> None:
    """From the second it ends; a day before it is good."""
    end = files.now.replace(microsecond=0) + DAY
    getattr(files, which)(not_after=end)
    files.read()
    files.now = end
    path = files.config.cert if which == "node" else files.path("tls_cert")
    assert files.complaint() == f"{path} expired on {end:%Y-%m-%d %H:%M} UTC: put a new one in its place"


@pytest.mark.parametrize("which", ["node", "region"])
def test_a_certificate_of_tomorrow_points_at_the_clock(files: Files, which: str) -> None:
    """A certificate that is not valid yet most often means a clock that is wrong."""
    begin = files.now.replace(microsecond=0) + DAY
    getattr(files, which)(not_before=begin, not_after=begin + DAY)
    message = files.complaint()
    assert f"valid from {begin:%Y-%m-%d %H:%M} UTC on" in message
    assert "this machine's clock" in message
    files.now = begin
    files.read()


def test_the_nodes_certificate_is_for_its_name(files: Files) -> None:
    """Clients ask for the node by name; another node's certificate would turn all of them away."""
    files.node("relay-2.node.portway.internal", "example.com")
    assert files.complaint() == (
        f"{files.config.cert} is valid for relay-2.node.portway.internal, example.com, and must be for {NODE}"
    )


@pytest.mark.parametrize("name", ["fra.example.com", "*.example.com", "a.fra.example.com", "*.fra.example.org"])
def test_a_regions_certificate_is_a_wildcard_for_its_zone(files: Files, name: str) -> None:
    """Nothing but `*.<region>.<domain>` covers every label."""
    files.region(name)
    assert files.complaint() == f"{files.path('tls_cert')} is valid for {name}, and must be for *.REGION.example.com"


async def test_a_node_without_a_file_for_its_own_region_waits_for_a_registry(files: Files) -> None:
    """It serves what it has files for."""
    files.region("*.ams.example.com")
    certificates = files.read()
    assert set(certificates.current().zones) == {"ams.example.com"}
    assert not certificates.serves_own_zone.is_set()
    files.region()
    assert certificates.reload()
    assert certificates.serves_own_zone.is_set()


def test_every_region_has_its_certificate(files: Files) -> None:
    """A visitor is shown the one for the zone of its name, whichever node it came to."""
    files.add_region("ams", "*.ams.example.com")
    loaded = files.read().current()
    assert set(loaded.zones) == {ZONE, "ams.example.com"}
    for zone, identity in loaded.zones.items():
        assert dns_names(identity.certificate) == [f"*.{zone}"]
        assert loaded.visitor_tls(zone, "h2", Group.P256).certificate == identity.chain


def test_one_certificate_may_be_for_all_regions(files: Files) -> None:
    """What several name, the first of them serves."""
    files.region(REGION, "*.ams.example.com")
    files.add_region("ams", "*.ams.example.com", "*.iad.example.com")
    zones = files.read().current().zones
    assert set(zones) == {ZONE, "ams.example.com", "iad.example.com"}
    assert zones["ams.example.com"] is zones[ZONE]
    assert zones["iad.example.com"] is not zones[ZONE]


def test_names_are_the_same_in_any_case(files: Files) -> None:
    """Who wrote the certificate's names in capitals meant the same names."""
    files.region(REGION.upper())
    files.read()


def test_a_certificate_without_names_is_told(files: Files) -> None:
    """An e-mail address is no host name."""
    files.node("operator@example.com")
    assert "is valid for no DNS name" in files.complaint()


def test_the_nodes_certificate_is_the_clusters(files: Files) -> None:
    """One from another CA, or made by itself, is not trusted by clients: the node would be unreachable."""
    files.node(ca=trustme.CA())
    message = files.complaint()
    assert message.startswith(f"{files.config.cert} was not issued by the CA in {files.config.cluster_ca}")
    assert "portway-admin pki" in message


def test_any_of_several_cas_will_do(files: Files) -> None:
    """While a cluster changes its CA the file holds the old one and the new one."""
    other = trustme.CA()
    files.config.cluster_ca.write_bytes(other.cert_pem.bytes() + files.authority.cert_pem.bytes())
    loaded = files.read().current()
    assert len(loaded.authorities) == 2
    assert issued_by(loaded.node.certificate, loaded.authorities)
    assert not issued_by(loaded.node.certificate, loaded.authorities[:1])
    assert not issued_by(loaded.node.certificate, ())


@pytest.mark.parametrize("which", ["cluster_ca", "cert", "key", "tls_cert", "tls_key"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff\xfe\x00", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_file_that_cannot_be_used_is_named(files: Files, which: str, content: bytes) -> None:
    """Empty, garbage, or cut off: which file, and what it should hold."""
    path = files.path(which)
    path.write_bytes(content)
    message = files.complaint()
    assert message.startswith(f"{path} holds no ")
    assert "PEM" in message


@pytest.mark.parametrize("which", ["cluster_ca", "cert", "key", "tls_cert", "tls_key"])
def test_a_file_that_is_not_there_is_named(files: Files, which: str) -> None:
    """The file, and the system's reason."""
    path = files.path(which)
    path.unlink()
    assert files.complaint() == f"cannot read {path}: No such file or directory"


def test_a_key_with_a_passphrase_is_told(files: Files) -> None:
    """Nobody is there to type it."""
    key = ec.generate_private_key(ec.SECP256R1())
    files.config.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    assert "no passphrase" in files.complaint()


def test_a_key_of_an_unknown_kind_is_told(files: Files) -> None:
    """A curve that this machine's library does not know is one more thing to say, not a crash."""
    certificate = files.read().current().node.certificate
    strange = certificate.public_bytes(serialization.Encoding.DER).replace(P256, UNKNOWN_CURVE)
    pem = x509.load_der_x509_certificate(strange).public_bytes(serialization.Encoding.PEM)
    files.config.cert.write_bytes(pem)
    assert files.complaint().startswith(f"{files.config.cert} is for a key of a kind that cannot be used: ")


def test_certificates_that_cannot_be_loaded_at_first_are_an_error(files: Files) -> None:
    """The files are named, since the carrier sees only their contents."""
    files.fault = TlsSettingsError("too small a key")
    assert files.complaint() == f"{files.config.cert}, {files.path('tls_cert')}: too small a key"


def test_keys_are_not_shown(files: Files) -> None:
    """What is printed by accident holds no key."""
    loaded = files.read().current()
    assert "PRIVATE" not in repr(loaded)
