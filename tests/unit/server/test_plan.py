"""What is decided for a machine, from what was asked for and what was found."""

from dataclasses import replace
from pathlib import Path

import pytest
from portway_geo.position import Position
from portway_server.errors import SetupRefused
from portway_server.plan import Found, parent_records, plan
from portway_server.ports import Holder
from portway_server.wishes import Ports, Wishes

FOUND = Found(("45.76.1.7", "2a05:f480::7"), (), True, Position(50.0, 8.0), "c0ffee", ())
WISHES = Wishes("tun.example.com", "fra")


def test_addresses_position_and_name_are_found() -> None:
    """Nothing but the domain and the region has to be given."""
    made = plan(WISHES, FOUND)
    assert made.public == ("45.76.1.7", "2a05:f480::7")
    assert made.dns_listen == ("45.76.1.7:53", "[2a05:f480::7]:53")
    assert made.advertise == "45.76.1.7:443"
    assert (made.wishes.name, made.wishes.latitude, made.wishes.longitude) == ("fra-c0ffee", 50.0, 8.0)
    assert made.notes == ()


def test_what_was_given_counts() -> None:
    """A name, a position and other ports are taken as they are."""
    wishes = replace(WISHES, name="web", latitude=1.0, longitude=2.0, ports=Ports(public=8443, dns=5353))
    made = plan(wishes, FOUND)
    assert made.wishes == wishes
    assert (made.advertise, made.dns_listen[0]) == ("45.76.1.7:8443", "45.76.1.7:5353")


def test_behind_a_mapped_address_dns_listens_at_the_machine_s_own() -> None:
    """The provider's address is none that a socket can be bound to."""
    made = plan(replace(WISHES, addresses=("45.76.1.7",)), replace(FOUND, addresses=("10.0.0.5",)))
    assert (made.public, made.dns_listen) == (("45.76.1.7",), ("10.0.0.5:53",))
    assert made.notes == ()


def test_a_given_address_of_its_own_is_listened_at() -> None:
    """Not that of the default route."""
    made = plan(replace(WISHES, addresses=("45.76.9.9",)), replace(FOUND, own=("45.76.9.9",)))
    assert made.dns_listen == ("45.76.9.9:53",)


def test_a_private_address_is_noted() -> None:
    """It may be what is wanted, or mapped by the provider."""
    made = plan(WISHES, replace(FOUND, addresses=("10.0.0.5",), position=None))
    assert made.is_private
    first, second = made.notes
    assert "10.0.0.5 is private" in first
    assert "--public-address" in first
    assert "--latitude" in second


def test_without_a_default_route_an_address_is_asked_for() -> None:
    with pytest.raises(SetupRefused, match="--public-address"):
        plan(WISHES, replace(FOUND, addresses=()))


@pytest.mark.parametrize(("address", "says"), [("nonsense", "not an IP address"), ("fe80::1", "cannot reach it")])
def test_an_address_that_cannot_be_public_is_refused(address: str, says: str) -> None:
    with pytest.raises(SetupRefused, match=says):
        plan(replace(WISHES, addresses=(address,)), FOUND)


def test_all_ports_that_are_taken_are_named_with_who_has_them() -> None:
    """One run shows all of them."""
    holders = (
        Holder("tcp", "0.0.0.0", 443, "nginx (pid 7)"),
        Holder("udp", "45.76.1.7", 53, "named (pid 8)"),
        Holder("tcp", "127.0.0.1", 5432, "postgres (pid 9)"),
    )
    with pytest.raises(SetupRefused) as refused:
        plan(WISHES, replace(FOUND, holders=holders))
    text = str(refused.value)
    assert "TCP port 443 (visitors and clients) is taken by nginx (pid 7)" in text
    assert "UDP port 53 (DNS) is taken by named (pid 8)" in text
    assert "postgres" not in text


def test_a_local_resolver_is_not_in_the_way() -> None:
    """DNS is served at the machine's own addresses, so that systemd-resolved keeps its address of loopback."""
    made = plan(WISHES, replace(FOUND, holders=(Holder("udp", "127.0.0.53", 53, "systemd-resolve (pid 3)"),)))
    assert made.dns_listen


def test_metrics_go_around_ports_that_are_taken() -> None:
    """Prometheus's node_exporter has port 9100 on many machines."""
    assert plan(WISHES, FOUND).metrics == (9100, 9101)
    taken = Holder("tcp", "::", 9100, "node_exporter (pid 3)")
    assert plan(WISHES, replace(FOUND, holders=(taken,))).metrics == (9101, 9102)


def test_without_dns_port_53_is_not_wanted() -> None:
    made = plan(replace(WISHES, dns=False), replace(FOUND, holders=(Holder("udp", "::", 53, "named"),)))
    assert made.dns_listen == ()


def test_certificates_that_nobody_can_prove_are_noted() -> None:
    """With a node that does not answer DNS, unless they are from elsewhere or no registry is here."""
    own = (Path("/own.crt"), Path("/own.key"))
    (note,) = plan(replace(WISHES, dns=False), FOUND).notes
    assert "--tls-cert" in note
    assert plan(replace(WISHES, dns=False, certificates=(own,)), FOUND).notes == ()
    assert plan(replace(WISHES, dns=False, registry=False), FOUND).notes == ()


def test_without_a_registry_its_ports_are_not_wanted() -> None:
    plan(replace(WISHES, registry=False), replace(FOUND, holders=(Holder("tcp", "::", 7400, "another"),)))


@pytest.mark.parametrize(
    ("domain", "region", "name", "says"),
    [
        ("com", "fra", "", "other people's"),
        ("co.uk", "fra", "", "other people's"),
        ("tun..example.com", "fra", "", "not a domain"),
        ("https://tun.example.com", "fra", "", "not a domain"),
        ("tun.example.com", "Fra", "", "not a region"),
        ("tun.example.com", "fra", "a.b", "not a node name"),
    ],
)
def test_names_that_cannot_work_are_refused(domain: str, region: str, name: str, says: str) -> None:
    with pytest.raises(SetupRefused, match=says):
        Wishes(domain, region, name)


def test_the_parent_s_records_are_those_of_a_zone_file() -> None:
    """The name server, and an address of each family."""
    assert parent_records("tun.example.com", "ns1.tun.example.com", ["45.76.1.7", "2a05:f480::7"]) == [
        "tun.example.com.      NS    ns1.tun.example.com.",
        "ns1.tun.example.com.  A     45.76.1.7",
        "ns1.tun.example.com.  AAAA  2a05:f480::7",
    ]
