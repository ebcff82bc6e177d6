"""The registry reached by its name at nodes' public ports: clients, operators, new nodes."""

import json
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import portway
import pytest
from portway_proto.v1.discovery_pb2 import SurveyRequest, SurveyResponse
from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub
from portway_runtime.endpoints import Endpoint
from portway_runtime.grpc_channels import NO_PROXY_OF_ITS_OWN, OWN_CONNECTIONS
from portway_testkit.clusters.cluster import DOMAIN, LOOPBACK, PATIENCE, Cluster, NodePlan, RunningNode
from portway_testkit.clusters.joining import Joiner
from portway_testkit.clusters.mesh import connected
from portway_testkit.clusters.registry import loopback_geoip
from portway_testkit.fixtures import AsClient
from portway_testkit.links.connect_proxy import ConnectProxy
from portway_testkit.visitors.onlookers import answered, named
from portway_testkit.visitors.visiting import connect_tls, tls_context
from portway_testkit.waiting import eventually

NAME = DOMAIN  # the registry's certificate has it
EVERYWHERE = {"listen": Endpoint("", 0), "advertise": Endpoint("localhost", 0)}
PLANS = tuple(NodePlan(name, name.partition("-")[0], settings=EVERYWHERE) for name in ("fra-1", "iad-1"))
MakeCluster = Callable[..., Cluster]


@pytest.fixture
def mesh(start_cluster: MakeCluster) -> Cluster:
    """Two nodes on every address, which know where the registry is."""
    cluster = start_cluster(*PLANS, registry_name=NAME)
    eventually(lambda: connected(cluster) and all(map(knows_registry, cluster.nodes.values())))
    return cluster


def knows_registry(node: RunningNode) -> bool:
    return bool(node.node._serving.passages.name)


def at(node: RunningNode) -> str:
    """The registry's name at a node's public port."""
    return f"{NAME}:{node.port}"


def surveyed(cluster: Cluster, address: str, name: str = NAME) -> SurveyResponse:
    """What the registry says to a client that reaches it at `address`."""
    credentials = grpc.ssl_channel_credentials(cluster.ca.read_bytes())
    options = (("grpc.ssl_target_name_override", name), *OWN_CONNECTIONS, *NO_PROXY_OF_ITS_OWN)
    with grpc.secure_channel(address, credentials, options) as channel:
        metadata = (("authorization", f"Bearer {cluster.token()}"),)
        return DiscoveryStub(channel).Survey(SurveyRequest(), timeout=PATIENCE, metadata=metadata)


@pytest.mark.parametrize("entrance", ["fra-1", "iad-1"])
def test_a_tunnel_opens_through_any_node(mesh: Cluster, as_client: AsClient, entrance: str) -> None:
    """Its home node or another one; it is no visit, and visitors are answered at both."""
    as_client(mesh.environment() | {"PORTWAY_REGISTRY": at(mesh.nodes[entrance])})
    with named("own") as tunnel:
        for node in mesh.nodes:
            eventually(lambda: answered(mesh, node, tunnel.host) == "own")
    told = {name: node.metrics() for name, node in mesh.nodes.items()}
    assert told[entrance]['passages_ended_total{outcome="done"}'] >= 1
    assert sum(one["visits_started_total"] for one in told.values()) == 3  # two visitors, one of them forwarded


@pytest.mark.parametrize("host", [LOOPBACK, "::1"])
def test_the_registry_sees_the_client_s_address(mesh: Cluster, host: str) -> None:
    """And not the node's, in either family; so it does without a node in between."""
    target = f"[{host}]:{mesh.node.port}" if ":" in host else f"{host}:{mesh.node.port}"
    assert surveyed(mesh, target).client_address == host
    assert surveyed(mesh, mesh.registry_address).client_address == LOOPBACK


def test_the_client_is_located_by_its_own_address(start_cluster: MakeCluster, tmp_path: Path) -> None:
    """Not where the node is, from which the connection comes."""
    geoip = loopback_geoip(tmp_path / "ipv6.mmdb", country="SE", network="::1/128")
    cluster = start_cluster(PLANS[0], registry_name=NAME, geoip=geoip)
    eventually(lambda: knows_registry(cluster.node))
    eventually(lambda: surveyed(cluster, f"[::1]:{cluster.node.port}").client_country == "SE")
    assert surveyed(cluster, f"{LOOPBACK}:{cluster.node.port}").client_country == ""


def test_failed_authentications_are_counted_by_the_client_s_address(mesh: Cluster) -> None:
    """In the audit, and so are anonymous calls: those of one address do not count for another one."""
    credentials = grpc.ssl_channel_credentials(mesh.ca.read_bytes())
    options = (("grpc.ssl_target_name_override", NAME), *OWN_CONNECTIONS)
    with grpc.secure_channel(f"[::1]:{mesh.node.port}", credentials, options) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            DiscoveryStub(channel).Survey(SurveyRequest(), metadata=(("authorization", "Bearer pw_a_b"),))
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]

