"""A node that is near on the map and far by the network, over emulated round trips: clients teach the registry."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from portway_lab.cluster.delay_network import why_not
from portway_lab.cluster.network import Network, Place, start_network
from portway_lab.cluster.portway import Cluster, NodePlan, RegistryPlan, start_cluster
from portway_lab.cluster.processes import Processes
from portway_registry.placement.round_trips import QUORUM
from portway_testkit.clusters.registry import loopback_geoip
from portway_testkit.waiting import PATIENCE

PLACES = (
    Place("registry", "near", access=0.0),
    Place("client", "near", access=2.0),
    Place("fast", "near", access=8.0),
    Place("slow", "far", access=0.0),
)
# Far enough for a second between the ends of two handshakes: a busy machine may be late by some of it.
DISTANCES = {("near", "far"): 400.0}
NETWORK = "10.231.77.0/24"  # where its places have their addresses
FRANKFURT, LONDON = (50.1, 8.7), (51.5, -0.1)

# Opens a tunnel, says at which node, and reports at once; ends when it is told to.
FORWARDS = """
import sys, portway
from portway.engine import reporter as reporting
reporting.REPORT_AFTER = reporting.REPORT_WITHIN = 0.0
with portway.forward(8000) as tunnel:
    print(tunnel.host.split(".")[1], flush=True)
    sys.stdin.readline()
"""

# What a registry tells a client, once it has learned.
ASKS = """
import json
from portway.config import resolve
from portway.engine.grpc_registries import GrpcRegistries
from portway_proto.wire.statements import SigningKey
from portway_testkit.waiting import eventually
registries = GrpcRegistries(resolve())
key = SigningKey().public
eventually(lambda: registries.locate(key).expected["fast-1"].learned)
told = [registries.locate(key) for _ in range(5)]
print(json.dumps({"names": [[node.name for node in one.nodes] for one in told],
                  "expected": {name: one.ms for name, one in told[0].expected.items()}}))
"""


@dataclass(frozen=True)
class World:
    network: Network
    cluster: Cluster

    def token(self, number: int) -> str:
        """A new one."""
        prefix = self.network.prefix("registry")
        made = self.cluster.ask("token", "create", "--tenant", f"tenant{number}", prefix=prefix)
        return str(made["token"])

    def client(self, token: str, program: str) -> "subprocess.Popen[str]":
        """A program in the client's place."""
        return subprocess.Popen(
            [*self.network.prefix("client"), sys.executable, "-c", program],
            env=os.environ | self.cluster.exports | {"PORTWAY_TOKEN": token},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """GeoIP has the client in Frankfurt, and so does the slow node say of itself; the fast one is in London."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    geoip = loopback_geoip(tmp_path / "geoip.mmdb", network=NETWORK)
    with Processes(tmp_path) as processes:
        network = start_network(processes, PLACES, DISTANCES)

        def node(place: str, position: tuple[float, float]) -> NodePlan:
            prefix = network.prefix(place)
            return NodePlan(f"{place}-1", place, *position, host=network.address(place), prefix=prefix)

        registry = RegistryPlan(
            host=network.address("registry"),
            prefix=(*network.prefix("registry"), "env", f"PORTWAY_REGISTRY_GEOIP={geoip}"),
        )
        plans = (node("slow", FRANKFURT), node("fast", LONDON))
        yield World(network, start_cluster(processes, plans, registry))


@pytest.mark.timeout(180)  # programs of three nodes, and of as many clients as it takes
def test_a_node_that_is_slow_from_here_is_named_after_a_faster_one(world: World) -> None:
    """Each client takes the fast one by its race; once several have said so, the registry names it first."""
    running = [world.client(world.token(number), FORWARDS) for number in range(QUORUM)]
    try:
        for one in running:
            assert one.stdout is not None
            assert one.stdout.readline().strip() == "fast"
        asking = world.client(world.cluster.token, ASKS)
        running.append(asking)
        out, errors = asking.communicate(timeout=3 * PATIENCE)
        assert asking.returncode == 0, errors
        told = json.loads(out)
        assert told["names"] == [["fast-1", "slow-1"]] * 5
        assert 10 <= told["expected"]["fast-1"] < 200
        assert told["expected"]["slow-1"] > told["expected"]["fast-1"]
    finally:
        for one in running:
            one.kill()
            one.communicate()
