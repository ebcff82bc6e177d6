"""`portway netcheck` against a cluster of several regions, with nodes in every state."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from portway_proto.v1 import admin_pb2
from portway_testkit.clusters.cluster import Cluster, NodePlan
from portway_testkit.clusters.registry import loopback_geoip
from portway_testkit.waiting import eventually

FRANKFURT = {"latitude": 50.1, "longitude": 8.7}
PARIS = {"latitude": 48.9, "longitude": 2.4}
SYDNEY = {"latitude": -33.9, "longitude": 151.2}


def netcheck(cluster: Cluster, *arguments: str) -> str:
    """What it prints; it must have picked a node."""
    done = subprocess.run(
        [sys.executable, "-m", "portway", "netcheck", *arguments],
        env=os.environ | cluster.environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def nodes_of(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {node["name"]: node for region in told["regions"] for node in region["nodes"]}


@pytest.fixture
def cluster(start_cluster: Callable[..., Cluster], tmp_path: Path) -> Cluster:
    """GeoIP has this machine in Frankfurt."""
    return start_cluster(
        NodePlan("syd-1", "syd", settings=SYDNEY),
        NodePlan("fra-1", "fra", settings=FRANKFURT),
        NodePlan("fra-2", "fra", settings=FRANKFURT),
        NodePlan("par-1", "par", settings=PARIS),
        geoip=loopback_geoip(tmp_path / "geoip.mmdb"),
        lease_seconds=600,  # a node that was killed is known to the end
    )


def test_every_region_is_in_it_and_a_dead_node_says_so(cluster: Cluster) -> None:
    """As a table and as JSON: the nearest is dead and still known, the next one drains, the third is picked."""
    cluster.admin.order("fra-2", admin_pb2.NODE_ORDER_DRAIN)
    cluster.nodes["fra-1"].kill()
    eventually(lambda: "draining" in netcheck(cluster))
    told = json.loads(netcheck(cluster, "--json"))
    assert [region["region"] for region in told["regions"]] == ["fra", "par", "syd"]
    assert told["client"] == {"address": "127.0.0.1", "country": "DE", "latitude": 50.1, "longitude": 8.7}
    nodes = nodes_of(told)
    assert nodes.keys() == {"fra-1", "fra-2", "par-1", "syd-1"}
    assert (nodes["fra-1"]["reached"], nodes["fra-1"]["not_reached"]) == (False, "refused")
    assert "refused" in nodes["fra-1"]["problem"]
    assert nodes["fra-1"]["rtt_ms"] is None
    assert nodes["fra-2"]["state"] == "draining"
    assert all(0 < nodes[name]["rtt_ms"] < 1000 for name in ("fra-2", "par-1", "syd-1"))
    assert nodes["par-1"]["address"] == f"127.0.0.1:{cluster.nodes['par-1'].port}"
    assert nodes["par-1"]["expected_rtt_ms"] == pytest.approx(2.1 * 480 / 100, abs=1)
    assert nodes["syd-1"]["distance_km"] == pytest.approx(16_480, abs=100)
    assert told["picked"] in ("par-1", "syd-1")  # both are near, whatever they say
    assert "fra-1, the first of the order, cannot be reached" in told["why"]

    lines = netcheck(cluster).splitlines()
    assert lines[1] == "client    127.0.0.1, for GeoIP in DE, at 50.1, 8.7"
    rows = [line.split()[:2] for line in lines if line.split()[:1] in (["fra"], ["par"], ["syd"])]
    assert rows == [["fra", "fra-1"], ["fra", "fra-2"], ["par", "par-1"], ["syd", "syd-1"]]
    assert "not reached: 1 of 4" in lines
    assert lines[-1].startswith("picked: ")
