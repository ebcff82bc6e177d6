"""What is said about the delegation, by what the parent zone's servers say."""

import pytest
from portway_registry.doctor.delegation import Referral
from portway_server.delegation import judge

DOMAIN = "tun.example.com"
OWN = ("45.76.1.7", "2a05:f480::7")


@pytest.mark.parametrize(
    ("seen", "good", "says"),
    [
        (Referral("example.com", servers=(("ns1.tun.example.com", ("45.76.1.7",)),)), True, "is delegated to ns1"),
        (Referral("example.com"), False, "the zone example.com does not delegate tun.example.com yet"),
        (Referral("example.com", servers=(("ns.host.test", ("45.1.1.1",)),)), False, "none of it is 45.76.1.7"),
        (Referral("example.com", servers=(("ns1.tun.example.com", ()),)), False, "(no address)"),
        (Referral("example.com", "ns.test (1.2.3.4), a server of it, does not answer"), False, "does not answer"),
    ],
)
def test_what_is_seen_decides(seen: Referral, good: bool, says: str) -> None:
    """One server that is this cluster's is enough: the others may be other machines."""
    verdict = judge(DOMAIN, OWN, seen)
    assert (verdict.good, says in verdict.text) == (good, True), verdict.text
