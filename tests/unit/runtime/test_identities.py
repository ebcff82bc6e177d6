"""What another node's certificate says of it."""

import datetime

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from portway_runtime.identities import BACKDATE, NodeIdentity, dns_names, node_name, read_identity_der, region_name

CA = trustme.CA()
ISSUED = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def der(*names: str) -> bytes:
    leaf = CA.issue_cert(*names, not_before=ISSUED - BACKDATE).cert_chain_pems[0].bytes()
    return x509.load_pem_x509_certificate(leaf).public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize(
    ("names", "region"),
    [
        (["fra-1.node.portway.internal"], ""),
        (["fra-1.node.portway.internal", "fra.region.portway.internal"], "fra"),
    ],
)
def test_a_node_s_says_name_region_and_time(names: list[str], region: str) -> None:
    """The registry dates it back by an hour, which is undone here."""
    assert read_identity_der(der(*names)) == NodeIdentity("fra-1", region, int(ISSUED.timestamp()) * 1000)


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(None, id="none"),
        pytest.param(b"noise", id="no certificate"),
        pytest.param(der("registry.portway.internal"), id="the registry's"),
        pytest.param(der("fra-1"), id="a plain name"),
        pytest.param(der("fra-1.example.com"), id="a name of another domain"),
        pytest.param(der("a.b.node.portway.internal"), id="a name of two parts"),
        pytest.param(der("a.node.portway.internal", "b.node.portway.internal"), id="two nodes"),
        pytest.param(
            der("a.node.portway.internal", "fra.region.portway.internal", "iad.region.portway.internal"),
            id="two regions",
        ),
    ],
)
def test_any_other_is_no_node_s(shown: bytes | None) -> None:
    """The cluster's CA signs for others too."""
    assert read_identity_der(shown) is None


def test_names_are_made_as_they_are_read() -> None:
    """A certificate with a node's and a region's name says both."""
    read = read_identity_der(der(node_name("fra-1"), region_name("fra")))
    assert read is not None
    assert (read.node, read.region) == ("fra-1", "fra")


def test_dns_names_are_in_lower_case_and_alone() -> None:
    """An IP address is not a DNS name."""
    certificate = x509.load_der_x509_certificate(der("FRA-1.example.com", "192.0.2.1"))
    assert dns_names(certificate) == ["fra-1.example.com"]


def test_a_certificate_without_names_has_none() -> None:
    """Such as one by a CA that uses the subject alone."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    bare = x509.CertificateBuilder(name, name, key.public_key(), 1, ISSUED, ISSUED + BACKDATE)
    assert dns_names(bare.sign(key, hashes.SHA256())) == []
