"""What Prometheus is given of a node's counts."""

import dataclasses

from portway_carrier.values import Counters
from portway_relay.dns.server import DnsCounts
from portway_relay.mesh.peers import PeerCounts
from portway_relay.metrics import MeshCounts, NodeCounts, exposition

COUNTS = NodeCounts(
    sessions=1,
    sessions_away=2,
    tunnels=3,
    visits=4,
    half_open=5,
    greeting=6,
    raw_ports_held=7,
    raw_ports_resting=8,
    registry_connected=True,
    certificate_ends={"node": 31, "fra.example.com": 32},
    lacking_regions=["ams"],
    connections=9,
    accept_pauses=10,
    rejected={"rate": 11, "greetings": 12},
    outcomes={"done": 13},
    passages=33,
    passage_outcomes={"done": 34},
    passage_bytes=(35, 36),
    handshakes=21,
    signatures_unchecked={"node": 22},
    mesh=MeshCounts(
        peers={"fra-2": PeerCounts(True, 23, 24), "iad-1": PeerCounts(False, 0, 0)},
        inbound_lanes=25,
        routes=26,
        lookups={("registry", "found"): 27, ("nobody", "unknown"): 28},
        forwards={"sent": 29},
        handshakes=30,
    ),
    carrier=Counters(
        bytes_in=14,
        bytes_out=15,
        visits_started=16,
        handshakes=17,
        handshakes_failed=18,
        lanes_opened=19,
        lanes_closed=20,
    ),
    dns=DnsCounts({"udp": 33, "tcp": 34}, {"noerror": 35, "nxdomain": 36}, {"rate": 37}, 38, 0.5, 39, 40),
)


def samples(counts: NodeCounts) -> dict[str, float]:
    """Each sample by its name, labels included, without the prefix that all have."""
    lines = [line for line in exposition(counts).decode().splitlines() if not line.startswith("#")]
    assert all(line.startswith("portway_relay_") for line in lines)
    return {name.removeprefix("portway_relay_"): float(value) for name, _, value in (s.rpartition(" ") for s in lines)}


def test_every_count_is_there_under_its_own_name() -> None:
    """Gauges as they are, totals with Prometheus' suffix, labels of few values each."""
    assert samples(COUNTS) == {
        "sessions": 1,
        "sessions_away": 2,
        "tunnels": 3,
        "visits": 4,
        "half_open_connections": 5,
        "greeting_lanes": 6,
        "raw_ports_held": 7,
        "raw_ports_resting": 8,
        "registry_connected": 1,
        'certificate_end_timestamp_seconds{certificate="node"}': 31,
        'certificate_end_timestamp_seconds{certificate="fra.example.com"}': 32,
        'region_certificate_missing{region="ams"}': 1,
        'dns_queries_total{transport="udp"}': 33,
        'dns_queries_total{transport="tcp"}': 34,
        'dns_answers_total{code="noerror"}': 35,
        'dns_answers_total{code="nxdomain"}': 36,
        'dns_unanswered_total{reason="rate"}': 37,
        "dns_pauses_total": 38,
        "dns_seconds_total": 0.5,
        "dns_connections": 39,
        "dns_records_version": 40,
        "connections_total": 9,
        "accept_pauses_total": 10,
        "handshakes_total": 17,
        "handshakes_failed_total": 18,
        "lanes_opened_total": 19,
        "lanes_closed_total": 20,
        "visits_started_total": 16,
        "received_bytes_total": 14,
        "sent_bytes_total": 15,
        'turned_away_total{reason="rate"}': 11,
        'turned_away_total{reason="greetings"}': 12,
        'visits_ended_total{outcome="done"}': 13,
        "passages": 33,
        'passages_ended_total{outcome="done"}': 34,
        'passages_bytes_total{direction="to_registry"}': 35,
        'passages_bytes_total{direction="from_registry"}': 36,
        'lane_handshakes{of="client"}': 21,
        'lane_handshakes{of="node"}': 30,
        'signatures_unchecked_total{of="node"}': 22,
        'mesh_peer_up{peer="fra-2"}': 1,
        'mesh_peer_up{peer="iad-1"}': 0,
        'mesh_lanes{peer="fra-2",state="idle"}': 23,
        'mesh_lanes{peer="fra-2",state="busy"}': 24,
        'mesh_lanes{peer="iad-1",state="idle"}': 0,
        'mesh_lanes{peer="iad-1",state="busy"}': 0,
        "mesh_lanes_taken": 25,
        "routes": 26,
        'lookups_total{answered_by="registry",outcome="found"}': 27,
        'lookups_total{answered_by="nobody",outcome="unknown"}': 28,
        'forwards_total{outcome="sent"}': 29,
    }


def test_a_registry_that_is_away_is_zero() -> None:
    """An alert is a comparison with 1."""
    assert samples(dataclasses.replace(COUNTS, registry_connected=False))["registry_connected"] == 0


def test_each_family_says_what_it_counts() -> None:
    """A HELP line of words, and a TYPE, before its samples."""
    lines = exposition(COUNTS).decode().splitlines()
    names = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    helped = {line.split()[2]: line.split(maxsplit=3)[3] for line in lines if line.startswith("# HELP")}
    assert names == set(helped)
    assert all(helped.values())
    assert "portway_relay_turned_away_total" in names


def test_two_nodes_in_one_process_do_not_meet() -> None:
    """Nothing is kept in the library's global registry."""
    other = dataclasses.replace(COUNTS, sessions=100)
    assert samples(COUNTS)["sessions"] == 1
    assert samples(other)["sessions"] == 100
