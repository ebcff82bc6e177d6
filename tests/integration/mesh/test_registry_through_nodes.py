"""The registry reached by its name at nodes' public ports: clients, operators, new nodes."""

import dataclasses
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import portway
import pytest
from portway_proto.v1 import admin_pb2
from portway_proto.v1.discovery_pb2 import SurveyRequest, SurveyResponse
from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub
from portway_registry.net.reached_at import reached_at
from portway_runtime.endpoints import Endpoint
from portway_runtime.grpc_channels import NO_PROXY_OF_ITS_OWN, OWN_CONNECTIONS
from portway_testkit.clusters.cluster import DOMAIN, LOOPBACK, PATIENCE, Cluster, NodePlan, RunningNode
from portway_testkit.clusters.mesh import connected
from portway_testkit.clusters.registry import loopback_geoip
from portway_testkit.fixtures import AsClient
from portway_testkit.links.connect_proxy import ConnectProxy
from portway_testkit.visitors.onlookers import answered, answered_at_last, named
from portway_testkit.visitors.visiting import connect_tls, tls_context
from portway_testkit.waiting import eventually

NAME = DOMAIN  # the registry's certificate has it
EVERYWHERE = {"listen": Endpoint("", 0), "advertise": Endpoint("localhost", 0)}
PLANS = tuple(NodePlan(name, name.partition("-")[0], settings=EVERYWHERE) for name in ("fra-1", "iad-1"))
MakeCluster = Callable[..., Cluster]


@pytest.fixture
def mesh(start_cluster: MakeCluster, tmp_path: Path) -> Cluster:
    """Two nodes on every address, which know where the registry is."""
    cluster = start_cluster(*PLANS, store=f"embedded:{tmp_path / 'registry.db'}", registry_name=NAME)
    eventually(lambda: connected(cluster) and all(map(knows_registry, cluster.nodes.values())))
    return cluster


def knows_registry(node: RunningNode) -> bool:
    return bool(node.node._serving.passages.name)


def at(node: RunningNode) -> str:
    """The registry's name at a node's public port."""
    return f"{NAME}:{node.port}"


def surveyed(cluster: Cluster, address: str, *, token: str = "", at: str = "") -> SurveyResponse:
    """What the registry says to a client that reaches it at `address`. A token is made at `at`, or where it listens."""
    credentials = grpc.ssl_channel_credentials(cluster.ca.read_bytes())
    options = (("grpc.ssl_target_name_override", NAME), *OWN_CONNECTIONS, *NO_PROXY_OF_ITS_OWN)
    with grpc.secure_channel(address, credentials, options) as channel:
        metadata = (("authorization", f"Bearer {token or new_token(cluster, at)}"),)
        return DiscoveryStub(channel).Survey(SurveyRequest(), timeout=PATIENCE, metadata=metadata)


def new_token(cluster: Cluster, at: str) -> str:
    admin = dataclasses.replace(cluster.admin, address=at) if at else cluster.admin
    return admin.create_token(admin_pb2.CreateTokenRequest(tenant="test", role=admin_pb2.ROLE_CLIENT))


@pytest.mark.parametrize("ingress", ["fra-1", "iad-1"])
def test_a_tunnel_opens_through_any_node(mesh: Cluster, as_client: AsClient, ingress: str) -> None:
    """Its home node or another one; it is no visit, and visitors are answered at both."""
    as_client(mesh.environment() | {"PORTWAY_REGISTRY": at(mesh.nodes[ingress])})
    with named("own") as tunnel:
        for node in mesh.nodes:
            eventually(lambda: answered_at_last(mesh, node, tunnel.host) == "own")
    eventually(lambda: mesh.nodes[ingress].metrics().get('passages_ended_total{outcome="done"}', 0) >= 1)
    visits = sum(node.metrics()["visits_started_total"] for node in mesh.nodes.values())
    assert visits == 3  # two visitors, one of them forwarded


@pytest.mark.parametrize("host", [LOOPBACK, "::1"])
def test_the_registry_sees_the_client_s_address(mesh: Cluster, host: str) -> None:
    """And not the node's, in either family; so it does without a node in between."""
    target = f"[{host}]:{mesh.node.port}" if ":" in host else f"{host}:{mesh.node.port}"
    assert surveyed(mesh, target).client_address == host
    assert surveyed(mesh, mesh.registry_address).client_address == LOOPBACK


@pytest.mark.parametrize("listens_at", ["::1", "::", "0.0.0.0"])
def test_a_registry_is_found_wherever_it_listens(start_cluster: MakeCluster, listens_at: str) -> None:
    """At an IPv6 address alone, or at every address, where nodes are told one of the machine's own."""
    listen = Endpoint(listens_at, 0)
    if reached_at(None, listen) is None:
        pytest.skip("this machine has no address that leads anywhere")
    cluster = start_cluster(PLANS[0], registry_name=NAME, listen=listen, check_private_addresses="yes")
    eventually(lambda: knows_registry(cluster.node))
    for host in (LOOPBACK, "::1"):
        target = f"[{host}]:{cluster.node.port}" if ":" in host else f"{host}:{cluster.node.port}"
        port = cluster.registry_config.listen.port
        direct = f"[::1]:{port}" if listens_at == "::1" else f"{LOOPBACK}:{port}"
        assert surveyed(cluster, target, at=direct).client_address == host


def test_the_client_is_located_by_its_own_address(start_cluster: MakeCluster, tmp_path: Path) -> None:
    """Not where the node is, from which the connection comes."""
    geoip = loopback_geoip(tmp_path / "ipv6.mmdb", country="SE", network="::1/128")
    cluster = start_cluster(PLANS[0], registry_name=NAME, geoip=geoip)
    eventually(lambda: knows_registry(cluster.node))
    eventually(lambda: surveyed(cluster, f"[::1]:{cluster.node.port}").client_country == "SE")
    assert surveyed(cluster, f"{LOOPBACK}:{cluster.node.port}").client_country == ""


def test_failed_authentications_are_counted_by_the_client_s_address(
    mesh: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the audit, as if no node were in between."""
    monkeypatch.setattr("portway_registry.access.failed_authentications._GATHERED", 0.05)  # before its first failure
    with pytest.raises(grpc.RpcError) as raised:
        surveyed(mesh, f"[::1]:{mesh.node.port}", token="pw_nobody_" + "a" * 32)
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED

    eventually(lambda: mesh.admin.failed_from() == {"::/64"})


def program(name: str, *words: str, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """A command of this installation, with what it printed."""
    command = [str(Path(sys.executable).with_name(name)), *words]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PORTWAY_")}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, env=clean | environment, check=False
    )


def test_commands_reach_it_through_any_node(mesh: Cluster) -> None:
    """An operator's, and netcheck, which says which address the registry has seen."""
    for node in mesh.nodes.values():
        environment = mesh.environment() | {"PORTWAY_REGISTRY": at(node)}
        token = mesh.admin.token
        listed = program(
            "portway-admin", "--json", "node", "list", environment=environment | {"PORTWAY_ADMIN_TOKEN": token}
        )
        assert listed.returncode == 0, listed.stderr
        assert {one["name"] for one in json.loads(listed.stdout)["nodes"]} == set(mesh.nodes)
        checked = program("portway", "netcheck", "--json", environment=environment)
        assert checked.returncode == 0, checked.stderr
        told = json.loads(checked.stdout)
        assert told["registry"] == at(node)
        assert told["client"]["address"] in (LOOPBACK, "::1")


def test_a_client_behind_a_company_s_proxy_needs_one_port(mesh: Cluster, as_client: AsClient) -> None:
    """The proxy is asked for the node's port alone; without one in the setting it would be 443."""
    with ConnectProxy() as proxy:
        proxy.hosts = {"tun.test": LOOPBACK, NAME: LOOPBACK}
        as_client(mesh.environment() | {"PORTWAY_REGISTRY": at(mesh.node), "PORTWAY_PROXY": proxy.url})
        with named("own") as tunnel:
            assert answered_at_last(mesh, "fra-1", tunnel.host) == "own"
        assert {int(each.rpartition(":")[2]) for each in proxy.asked} <= {node.port for node in mesh.nodes.values()}
        refused = program(
            "portway",
            "netcheck",
            environment=mesh.environment() | {"PORTWAY_REGISTRY": "tun.test", "PORTWAY_PROXY": proxy.url},
        )
        assert refused.returncode != 0
        assert "tun.test:443" in proxy.asked  # this process asks for its node meanwhile


def test_another_name_is_not_passed_on(mesh: Cluster) -> None:
    """It gets the alert of every unknown name."""
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized[ _]name"):
        connect_tls(tls_context(mesh.ca), (LOOPBACK, mesh.node.port), f"registry.{NAME}")


def test_a_node_that_was_not_told_a_name_passes_nothing_on(start_cluster: MakeCluster) -> None:
    """Nor does one whose registry has no domain."""
    cluster = start_cluster(PLANS[0])
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized[ _]name"):
        connect_tls(tls_context(cluster.ca), (LOOPBACK, cluster.node.port), NAME)


def test_with_everything_down_the_client_says_so(mesh: Cluster, as_client: AsClient) -> None:
    """The node has answered, and nobody is behind it. With the registry back it works again."""
    as_client(mesh.environment() | {"PORTWAY_REGISTRY": at(mesh.node)})
    mesh.stop_registry()
    with pytest.raises(portway.UnreachableError, match="no registry answers behind that node"), named("own"):
        pass
    mesh.start_registry()
    eventually(lambda: all(node.metrics()["registry_connected"] for node in mesh.nodes.values()))
    with named("own") as tunnel:
        eventually(lambda: answered(mesh, "iad-1", tunnel.host) == "own")
