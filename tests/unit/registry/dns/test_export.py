"""The cluster's names for name servers that do not know the cluster."""

import dns.rdatatype
import dns.zone
from portway_proto.v1.admin_pb2 import (
    DNS_RECORD_SOURCE_CHALLENGE,
    DNS_RECORD_SOURCE_NAME_SERVER,
    DNS_RECORD_SOURCE_OPERATOR,
    ListDnsRecordsResponse,
    ListedDnsRecord,
)
from portway_proto.v1.types_pb2 import NODE_STATE_DRAINING, REACH_FAILED, DnsRecord, NodeInfo
from portway_registry.dns.export import exported, zone_file
from portway_testkit.clusters.registry import node_info

DOMAIN = "tunnels.example"


def node(name: str, *addresses: str, zones: str = "", **more: object) -> NodeInfo:
    region = name.partition("-")[0]
    certified = [f"{zone}.{DOMAIN}" for zone in (zones or region).split()]
    return node_info(name, region, addresses=addresses, zones=certified, **more)


def listed(*records: tuple[str, str, str, int], registry_name: str = DOMAIN) -> ListDnsRecordsResponse:
    found = [
        ListedDnsRecord(record=DnsRecord(name=name, type=kind, ttl=60, data=data), source=source)  # type: ignore[arg-type]
        for name, kind, data, source in records
    ]
    return ListDnsRecordsResponse(records=found, domain=DOMAIN, registry_name=registry_name)


def short(records: list[DnsRecord]) -> set[tuple[str, str, str]]:
    return {(one.name.removesuffix(DOMAIN).rstrip("."), one.type, one.data) for one in records}


def test_names_lead_to_the_nodes_that_serve_them() -> None:
    nodes = [
        node("fra-1", "192.0.2.1", "2001:db8::1", zones="fra sin"),
        node("fra-2", "192.0.2.2", zones="fra made-up"),
        node("iad-1", "192.0.2.3", zones="fra iad sin"),
        node("fra-3", "192.0.2.4", state=NODE_STATE_DRAINING),
        node("fra-4", "192.0.2.5", reach=REACH_FAILED),
        node("fra-5"),
    ]
    assert short(exported(nodes, listed())) == {
        ("", "A", "192.0.2.1"),
        ("", "A", "192.0.2.2"),
        ("", "A", "192.0.2.3"),
        ("", "AAAA", "2001:db8::1"),
        ("fra", "A", "192.0.2.1"),
        ("fra", "A", "192.0.2.2"),
        ("fra", "AAAA", "2001:db8::1"),
        ("*.fra", "A", "192.0.2.1"),
        ("*.fra", "A", "192.0.2.2"),
        ("*.fra", "AAAA", "2001:db8::1"),
        ("iad", "A", "192.0.2.3"),
        ("*.iad", "A", "192.0.2.3"),
        # A region that has no node is served by whoever holds its certificate, if that is most nodes.
        ("*.sin", "A", "192.0.2.1"),
        ("*.sin", "AAAA", "2001:db8::1"),
        ("*.sin", "A", "192.0.2.3"),
    }


def test_records_of_operators_and_proofs_are_in_it_and_name_servers_are_not() -> None:
    """Those are the ones of the zone that this is written for."""
    records = [
        (f"_psl.{DOMAIN}", "TXT", '"x"', DNS_RECORD_SOURCE_OPERATOR),
        (DOMAIN, "A", "192.0.2.80", DNS_RECORD_SOURCE_OPERATOR),
        (f"_acme-challenge.fra.{DOMAIN}", "TXT", '"y"', DNS_RECORD_SOURCE_CHALLENGE),
        (DOMAIN, "NS", f"ns1.{DOMAIN}.", DNS_RECORD_SOURCE_NAME_SERVER),
    ]
    found = short(exported([node("fra-1", "192.0.2.1")], listed(*records, registry_name=f"reg.{DOMAIN}")))
    assert found == {
        ("", "A", "192.0.2.80"),
        ("reg", "A", "192.0.2.1"),
        ("fra", "A", "192.0.2.1"),
        ("*.fra", "A", "192.0.2.1"),
        ("_psl", "TXT", '"x"'),
        ("_acme-challenge.fra", "TXT", '"y"'),
    }


def test_a_large_region_is_cut() -> None:
    many = [node(f"fra-{number}", f"192.0.2.{number}") for number in range(1, 30)]
    found = exported(many, listed())
    assert len([one for one in found if one.name == f"fra.{DOMAIN}"]) == 8


def test_a_zone_file_is_read_by_others() -> None:
    """With name servers it is a whole zone; without it is what a provider's import takes."""
    records = exported([node("fra-1", "192.0.2.1", "2001:db8::1")], listed())
    text = zone_file(records, DOMAIN, ["a.ns.example", "b.ns.example."], 7)
    zone = dns.zone.from_text(text, DOMAIN)
    assert zone.get_soa().serial == 7
    assert len(zone.find_rdataset("@", "NS")) == 2
    assert [one.address for one in zone.find_rdataset("*.fra", "A")] == ["192.0.2.1"]
    plain = zone_file(records, DOMAIN, [], 7)
    assert "SOA" not in plain
    dns.zone.from_text(plain, DOMAIN, check_origin=False)
