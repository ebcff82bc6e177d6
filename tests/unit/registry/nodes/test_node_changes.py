"""Which changes of a node's record are written, and which other nodes are told of."""

from typing import Any

import pytest
from portway_proto.v1.types_pb2 import NODE_STATE_DRAINING, NODE_STATE_READY, MeshLink
from portway_registry.nodes.node_changes import clock_ahead, is_notable, without_counts
from portway_testkit.clusters.registry import node_info


def test_counts_are_all_that_is_left_out() -> None:
    """State, place and address stay; the original is not touched."""
    full = node_info("a", sessions=1, tunnels=2, visits=3, max_sessions=4, certificate_end_s=5, lacking_regions=6)
    full.clock_ahead_s = 7
    full.grant_keys[:] = ["1"]
    full.certificate_authority = "0123456789abcdef"
    full.dns_version = 8
    full.descriptors, full.descriptors_used = 10, 9
    full.links.append(MeshLink(node="b"))
    full.unit = "portway-server.service"
    assert without_counts(full) == node_info("a", max_sessions=4)
    assert full.sessions == 1


def link(round_trip_us: int) -> MeshLink:
    return MeshLink(node="b", round_trip_us=round_trip_us)


@pytest.mark.parametrize(
    ("before", "after", "notable"),
    [
        ({}, {}, False),
        ({"sessions": 0}, {"sessions": 1}, True),
        ({"sessions": 100}, {"sessions": 110}, False),
        ({"sessions": 100}, {"sessions": 111}, True),
        ({"visits": 100}, {"visits": 89}, True),
        ({"tunnels": 9}, {"tunnels": 10}, True),
        ({"certificate_end_s": 1}, {"certificate_end_s": 2}, True),
        ({}, {"lacking_regions": 1}, True),
        ({"grant_keys": ["1"]}, {"grant_keys": ["1", "2"]}, True),
        ({}, {"authorities": ["0123456789abcdef"]}, True),
        ({}, {"clock_ahead_s": -60}, True),
        ({}, {"addresses": ["192.0.2.1"]}, True),
        ({"zones": ["a.example"]}, {"zones": ["a.example", "b.example"]}, True),
        ({}, {"dns": True}, True),
        ({"dns_version": 7}, {"dns_version": 8}, True),
        ({"clock_ahead_s": 7_200}, {"clock_ahead_s": 7_201}, False),
        ({"clock_ahead_s": 7_200}, {"clock_ahead_s": 7_260}, True),
        ({}, {"descriptors": 1_024}, True),
        ({"descriptors_used": 100}, {"descriptors_used": 110}, False),
        ({"descriptors_used": 100}, {"descriptors_used": 111}, True),
        ({}, {"links": [MeshLink(node="b")]}, True),
        ({"links": [MeshLink(node="b")]}, {"links": [MeshLink(node="c")]}, True),
        ({"links": [MeshLink(node="b")]}, {"links": [MeshLink(node="b", failure="refused")]}, True),
        ({"links": [MeshLink(node="b", failure="x")]}, {"links": [MeshLink(node="b", failure="y")]}, False),
        ({"links": [MeshLink(node="b")]}, {"links": [MeshLink(node="b", round_trip_us=9)]}, True),
        *(
            ({"links": [link(before)]}, {"links": [link(now)]}, is_so)
            for before, now, is_so in (
                (1_000, 9_000, False),
                (20_000, 39_000, False),
                (20_000, 41_000, True),
                (41_000, 20_000, True),
            )
        ),
        ({"state": NODE_STATE_READY}, {"state": NODE_STATE_DRAINING}, True),
        ({"sessions": 99, "max_sessions": 100}, {"sessions": 100, "max_sessions": 100}, True),
        ({"sessions": 100, "max_sessions": 100}, {"sessions": 99, "max_sessions": 100}, True),
    ],
)
def test_small_changes_are_not_worth_a_write(before: dict[str, Any], after: dict[str, Any], notable: bool) -> None:
    """State, certificates, keys, clock and whether it is full always, a count when it changes by over a tenth, a
    link when it comes, goes, breaks, or is twice as slow."""
    assert is_notable(node_info("a", **before), node_info("a", **after)) is notable


@pytest.mark.parametrize(
    ("time_ms", "ahead"),
    [
        (0, 0),
        (1_000_000, 0),
        (1_059_000, 0),
        (1_060_000, 60),
        (940_000, -60),
        (8_200_400, 7_200),
        (2**63 - 1, 2**31 - 1),
        (-(2**63), 1 - 2**31),
    ],
)
def test_clocks_are_compared(time_ms: int, ahead: int) -> None:
    """Less than a minute says nothing, nor does a node that tells no time; what cannot be is bounded."""
    assert clock_ahead(time_ms, 1_000_000) == ahead
