"""A node is started while no registry can be reached: it goes on by what registries said before."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import portway
import pytest
from portway_proto.v1.admin_pb2 import NODE_ORDER_CORDON, NODE_ORDER_SERVE
from portway_registry.pki.ca_folder import CaFolder
from portway_testkit.clusters.cluster import DOMAIN, Cluster, RunningNode
from portway_testkit.clusters.dns_mesh import (
    ADDRESSES_AT,
    BELIEVED,
    NAMES,
    data,
    dns_settings,
    named,
    named_at_all,
    named_everywhere,
)
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.clusters.joining import Joiner
from portway_testkit.fixtures import AsClient
from portway_testkit.visitors.onlookers import answered, home_of
from portway_testkit.visitors.onlookers import named as tunnel_named
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import serves
from portway_testkit.visitors.visiting import receive, visit_raw
from portway_testkit.waiting import eventually

REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a registry, at each start."""
    monkeypatch.setattr("portway_relay.node._REGISTRY_WITHIN", 0.5)


@pytest.fixture
def joined(tmp_path: Path, etcd: EtcdServer) -> Iterator[Callable[..., Cluster]]:
    """Starts nodes that joined, with certificates for both regions, and answer DNS."""
    with ExitStack() as stack:

        def start(*names: str) -> Cluster:
            settings = {"lease_seconds": 2, "cluster_ca": None, **BELIEVED}
            cluster = stack.enter_context(Cluster(tmp_path, (), store=f"etcd:{etcd.url}", settings=settings))
            joiner, authority = Joiner(cluster, tmp_path), CaFolder.open(cluster.pki)
            for region in ("fra", "iad"):
                authority.add_region(region, DOMAIN)
            zones = {
                f"tls_{kind}": tuple(cluster.pki / f"region-{region}.{end}" for region in ("fra", "iad"))
                for kind, end in (("cert", "crt"), ("key", "key"))
            }
            for name in names:
                joiner.join(name, name.partition("-")[0], **zones, **dns_settings(name))
            return cluster

        yield start


def fall(cluster: Cluster, etcd: EtcdServer) -> None:
    cluster.stop_registry()
    etcd.kill()


def test_names_resolve_and_visitors_are_served_through_nodes_that_were_started_alone(
    joined: Callable[..., Cluster], etcd: EtcdServer, as_client: AsClient
) -> None:
    """All nodes are started again, one after the other. The tunnel's client is wherever it can be, the label stays."""
    mesh = joined(*NAMES)
    named_everywhere(mesh)
    mesh.admin.add_dns_record("own", "TXT", '"x"')
    for at in NAMES:
        eventually(lambda at=at: data(mesh, at, "own", "TXT"))  # type: ignore[misc]
    as_client(mesh.environment())
    with tunnel_named("own") as tunnel:
        fall(mesh, etcd)
        for name in NAMES:
            mesh.nodes[name].restart()
            assert data(mesh, name, "own", "TXT") == {'"x"'}
            assert len(data(mesh, name, "", "NS")) == len(NAMES)
            for at in NAMES:
                eventually(lambda at=at: named_at_all(mesh, at) == set(NAMES))  # type: ignore[misc]
                assert len(named(mesh, at)) == ADDRESSES_AT[at]
                eventually(lambda at=at: answered(mesh, at, tunnel.host) == "own")  # type: ignore[misc]
        assert home_of(mesh, tunnel)
        mesh.nodes["fra-2"].kill()
        eventually(lambda: "fra-2" not in named_at_all(mesh, "fra-1") | named(mesh, "fra-1"))
        with tunnel_named("second") as second:
            for at in ("fra-1", "iad-1"):
                eventually(lambda at=at: answered(mesh, at, second.host) == "second")  # type: ignore[misc]


def test_a_client_comes_back_to_the_only_node(
    joined: Callable[..., Cluster], etcd: EtcdServer, as_client: AsClient, origin: HttpOrigin
) -> None:
    """With the grant that it has: the same URL, and the same raw port. Also after a kill, and a second one."""
    cluster = joined("fra-1")
    as_client(cluster.environment())
    ca = cluster.visitors_ca
    with portway.forward(origin.port, unencrypted=True) as tunnel:
        raw = tunnel.tcp_socket
        eventually(lambda: cluster.nodes["fra-1"].config.registry_file.exists())  # type: ignore[union-attr]
        fall(cluster, etcd)
        for end in (RunningNode.stop, RunningNode.kill, RunningNode.stop):
            end(cluster.nodes["fra-1"])
            cluster.nodes["fra-1"].start()
            eventually(lambda: serves(tunnel, ca))
            with visit_raw(tunnel) as visitor:
                visitor.sendall(REQUEST)
                assert receive(visitor).endswith(b"origin\n")
            assert tunnel.tcp_socket == raw
        etcd.start()
        cluster.start_registry()
        eventually(lambda: [one.label for one in cluster.admin.tunnels()] == [tunnel.host.partition(".")[0]])
        assert serves(tunnel, ca)


def test_what_was_forbidden_stays_forbidden(
    joined: Callable[..., Cluster], etcd: EtcdServer, as_client: AsClient, origin: HttpOrigin
) -> None:
    """A token that was revoked, and a node that an operator took out of service."""
    cluster = joined("fra-1", "iad-1")
    node = cluster.nodes["fra-1"]
    cluster.admin.order("fra-1", NODE_ORDER_CORDON)
    cluster.admin.order("iad-1", NODE_ORDER_SERVE)
    token = cluster.token()
    as_client(cluster.environment(token))
    with portway.forward(origin.port):
        token_id = token.split("_")[1]
        cluster.admin.revoke_token(token)
        for one in cluster.nodes.values():
            eventually(lambda one=one: token_id in one.node._serving.grants._revoked)  # type: ignore[misc]
        fall(cluster, etcd)
        for one in cluster.nodes.values():
            one.restart()
            assert token_id in one.node._serving.grants._revoked
    eventually(lambda: named_at_all(cluster, "iad-1") == {"iad-1", "fra-1"} and named(cluster, "iad-1") == {"iad-1"})
    eventually(lambda: named(cluster, "fra-1") == {"iad-1"})
    assert node.node._lifecycle.state == 2  # cordoned
