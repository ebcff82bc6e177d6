"""The records that are passed on: known fields, in their form, and never longer than is said."""

import math

import pytest
from portway_proto.records import (
    InvalidRecord,
    cut_printable,
    ip_addresses,
    mesh_links,
    node_record,
    tunnel_record,
    zone_names,
)
from portway_proto.v1.types_pb2 import MeshLink, NodeInfo, NodeState, Reach, TunnelInfo, TunnelOptions

NODE = NodeInfo(
    name="fra-1",
    region="fra",
    host="relay.example",
    port=443,
    server_name="fra-1.node.portway.internal",
    version="1.2.3",
    latitude=50.1,
    longitude=-8.7,
    domain="tunnels.example",
    state=NodeState.NODE_STATE_CORDONED,
    sessions=1,
    tunnels=2,
    visits=3,
    max_sessions=4,
    started_at_ms=5,
    reach=Reach.REACH_FAILED,
    reach_failure="from node lon-1: no answer",
    certificate_end_s=1_800_000_000,
    lacking_regions=6,
    grant_keys=["1", "2"],
    clock_ahead_s=-7_200,
    authorities=["0123456789abcdef"],
    certificate_authority="0123456789abcdef",
    unaware_clients=7,
    addresses=["192.0.2.1", "2001:db8::1"],
    dns=True,
    zones=["fra.tunnels.example", "tunnels.example"],
    dns_version=8,
    descriptors=1_024,
    descriptors_used=100,
    unit="portway-relay@1.service",
    links=[MeshLink(node="lon-1", round_trip_us=11_000), MeshLink(node="iad-1", failure="refused")],
)
TUNNEL = TunnelInfo(
    label="a" * 16,
    node="fra-1",
    region="fra",
    epoch=7,
    tenant="demo",
    token_id="token1",
    options=TunnelOptions(h2_enabled=True, unencrypted=True),
    unencrypted_port=20_000,
    opened_at_ms=9,
    host="a.fra.tunnels.example",
    claim=b"c" * 200,
    ticket=b"t",
)
UNKNOWN = b"\xc2\x3e\x03abc"  # a field that no release knows


def changed(record: NodeInfo | TunnelInfo, **fields: object) -> NodeInfo | TunnelInfo:
    copy = type(record).FromString(record.SerializeToString())
    for name, value in fields.items():
        setattr(copy, name, value)
    return copy


def test_every_field_of_a_node_is_copied() -> None:
    """A field that is added to the message has to be added here, with its form."""
    assert {field.name for field, _ in NODE.ListFields()} == {field.name for field in NodeInfo.DESCRIPTOR.fields}
    assert node_record(NODE) == NODE


def test_addresses_are_those_of_hosts_in_their_shortest_form() -> None:
    """They are shown to resolvers: nothing else may come into a node's answers by another one's word."""
    sent = ["2001:DB8:0::1", "x", "::", "224.0.0.1", "fe80::1%lo", "192.0.2.1"]
    assert ip_addresses(sent) == ["2001:db8::1", "192.0.2.1"]
    assert len(ip_addresses(f"192.0.2.{number}" for number in range(100))) == 8


def test_zones_have_their_form_and_are_not_too_many() -> None:
    sent = ["b.example", "Fra.example", "a.example", "b.example", "example", "a..b", "x" * 64 + ".example"]
    assert zone_names(sent) == ["a.example", "b.example"]
    assert len(zone_names(f"r{number}.example" for number in range(1000))) == 256


@pytest.mark.parametrize("end", [-1, 253_402_300_800, 2**63 - 1])
def test_an_end_that_no_certificate_has_is_none(end: int) -> None:
    """It is shown as a date, of which there are so many."""
    assert node_record(changed(NODE, certificate_end_s=end)).certificate_end_s == 0  # type: ignore[arg-type]
    last = node_record(changed(NODE, certificate_end_s=253_402_300_799))  # type: ignore[arg-type]
    assert last.certificate_end_s == 253_402_300_799


@pytest.mark.parametrize("unit", ["x.service; reboot", "x", "a" * 101 + ".service", "-x.service", "$(x).service"])
def test_a_unit_without_its_form_is_none(unit: str) -> None:
    """It is a part of commands that are shown to operators."""
    assert node_record(changed(NODE, unit=unit)).unit == ""  # type: ignore[arg-type]


def test_every_field_of_a_tunnel_is_copied() -> None:
    """A field that is added to the message has to be added here, with its form."""
    assert {field.name for field, _ in TUNNEL.ListFields()} == {field.name for field in TunnelInfo.DESCRIPTOR.fields}
    assert tunnel_record(TUNNEL) == TUNNEL
    assert tunnel_record(TunnelInfo(label="a" * 16)) == TunnelInfo(label="a" * 16)


def test_unknown_fields_are_dropped() -> None:
    """They are not checked, so they are not passed on."""
    node, tunnel = changed(NODE), changed(TUNNEL)
    node.MergeFromString(UNKNOWN)
    tunnel.MergeFromString(UNKNOWN)
    assert node_record(node).SerializeToString() == NODE.SerializeToString()  # type: ignore[arg-type]
    assert tunnel_record(tunnel).SerializeToString() == TUNNEL.SerializeToString()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "a" * 64),
        ("name", "Fra"),
        ("region", "fra/1"),
        ("host", ""),
        ("host", "a" * 254),
        ("host", "a b"),
        ("port", 65536),
        ("server_name", "a" * 254),
        ("version", "1" * 65),
        ("version", "\x1b[2J"),
        ("latitude", math.nan),
        ("longitude", 181.0),
        ("domain", "é.example"),
    ],
)
def test_a_node_without_its_form_is_refused(field: str, value: object) -> None:
    """The error names the field."""
    with pytest.raises(InvalidRecord, match=field):
        node_record(changed(NODE, **{field: value}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("label", "a" * 15),
        ("label", "a" * 5_000_000),
        ("node", "a" * 64),
        ("region", "\n"),
        ("tenant", "a" * 65),
        ("token_id", "to ken"),
        ("unencrypted_port", 65536),
        ("host", "a" * 254),
        ("claim", b"c" * 2_305),
        ("ticket", b"t" * 4_097),
    ],
)
def test_a_tunnel_without_its_form_is_refused(field: str, value: object) -> None:
    """The error names the field, and does not repeat a long value."""
    with pytest.raises(InvalidRecord, match=field) as refused:
        tunnel_record(changed(TUNNEL, **{field: value}))  # type: ignore[arg-type]
    assert len(str(refused.value)) < 150


def test_what_a_later_release_may_say_becomes_unspecified() -> None:
    """States are not refused, so that nodes can be upgraded first."""
    found = node_record(changed(NODE, state=99, reach=98))  # type: ignore[arg-type]
    assert (found.state, found.reach) == (NodeState.NODE_STATE_UNSPECIFIED, Reach.REACH_UNSPECIFIED)


def test_the_largest_records_are_as_large_as_is_said() -> None:
    """2,000 nodes fit into a message of 4 MiB; of links other nodes are told nothing."""
    node = node_record(
        changed(  # type: ignore[arg-type]
            NODE,
            name="a" * 63,
            region="a" * 63,
            host="a" * 253,
            server_name="a" * 100,
            version="1" * 64,
            domain="a" * 200,
            sessions=2**32 - 1,
            tunnels=2**32 - 1,
            visits=2**32 - 1,
            max_sessions=2**32 - 1,
            started_at_ms=-1,
            certificate_end_s=253_402_300_799,
            lacking_regions=2**32 - 1,
            reach_failure="é" * 1_000,
            dns_version=2**64 - 1,
        )
    )
    node.ClearField("links")
    node.ClearField("unit")
    assert node.ByteSize() < 1_500
    tunnel = changed(TUNNEL, node="a" * 63, region="a" * 63, tenant="a" * 64, token_id="a" * 64, host="a" * 253)
    assert tunnel_record(tunnel).ByteSize() < 920  # type: ignore[arg-type]


def test_links_are_bounded_and_have_their_form() -> None:
    """A node cannot fill a registry's memory by them, nor a terminal."""
    long = [MeshLink(node=f"n-{number}", failure="\x1b" * 1_000) for number in range(100)]
    assert mesh_links([MeshLink(node="Not a name"), MeshLink()]) == []
    kept = mesh_links(long)
    assert [one.node for one in kept] == [f"n-{number}" for number in range(64)]
    assert kept[0].failure == " " * 100


def test_a_text_for_people_is_cut_and_printable() -> None:
    """Control characters would act on a terminal."""
    assert cut_printable("no answer\n\x1b[31m", 11) == "no answer  "
    assert cut_printable("é" * 400, 301) == "é" * 150
