"""What another node's certificate says of it."""

import datetime

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from portway_runtime.identities import BACKDATE, NodeIdentity, read_identity_der

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
