"""One of two replicas of the registry is cut off from etcd, which the other one reaches; or etcd is lost for both."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import portway
import pytest
from portway_testkit.clusters.cluster import DOMAIN, LOOPBACK, Cluster
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.clusters.replicas import Replicas, with_a_replica
from portway_testkit.fixtures import AsClient
from portway_testkit.links.link import Link
from portway_testkit.own_time import OwnTime
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import TunnelWatch, is_consistent, serves
from portway_testkit.waiting import eventually

LEASE = 15  # seconds, as by default
# Seconds within which nodes are to have moved: as much as is left of a lease at least.
MOVED_WITHIN = LEASE * 2 / 3
# For a busy machine, whose leases are as much longer.
SLACK = 6.0
AWAY = 2.0 * LEASE


@dataclass(frozen=True, slots=True)
class Cut:
    """Two replicas, of which the second reaches etcd through a link; all nodes are linked to it."""

    replicas: Replicas
    link: Link

    @property
    def mesh(self) -> Cluster:
        return self.replicas.mesh

    def cut(self, how: str) -> None:
        async def cut() -> None:
            if how == "silent":
                self.link.swallow()
            else:
                self.link.cut(refuse=True)

        self.mesh.run(cut)

    def mend(self) -> None:
        async def mend() -> None:
            self.link.mend()

        self.mesh.run(mend)

    def linked_to(self) -> list[str]:
        """Which replica each node is linked to."""
        first, second = self.replicas.mesh_addresses
        names = {first: "first", second: "second"}
        streams = [node.node._stream for node in self.mesh.nodes.values()]
        return [names[one._registries.current] if one._registered else "" for one in streams]

    def led_to(self) -> set[int]:
        """How many replicas each node passes connections on to."""
        return {len(node.node._serving.fronts.in_order()) for node in self.mesh.nodes.values()}


@pytest.fixture
def lease() -> int:
    return LEASE


@pytest.fixture
def cut(make_mesh: Callable[..., Cluster], etcd: EtcdServer, lease: int) -> Iterator[Cut]:
    mesh = make_mesh(store=f"etcd:{etcd.url}", registry_name=DOMAIN, lease_seconds=lease)
    link = Link(etcd.port)
    mesh.run(link.__aenter__)
    try:
        with with_a_replica(mesh, store=f"etcd:http://{LOOPBACK}:{link.port}") as replicas:
            first, second = replicas.mesh_addresses
            replicas.link(*mesh.nodes, to=(second, first))
            made = Cut(replicas, link)
            assert set(made.linked_to()) == {"second"}
            eventually(lambda: made.led_to() == {2})
            yield made
            made.mend()
    finally:
        mesh.run(link.__aexit__)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", ["silent", "refused"])
@pytest.mark.parametrize("lease", [round((MOVED_WITHIN + SLACK) * 3 / 2)], ids=["patient"])
def test_nodes_go_to_the_replica_that_reaches_the_store(
    cut: Cut, as_client: AsClient, how: str, own_time: OwnTime
) -> None:
    """Before their leases end: no node and no tunnel is lost for anybody. Clients are led to that replica too, which
    alone knows what is new; when the other one is back it serves as before."""
    mesh = cut.mesh
    as_client(mesh.environment() | {"PORTWAY_REGISTRY": f"{DOMAIN}:{mesh.node.port}"})
    nodes, lost = set(mesh.nodes), set[str]()
    with TunnelWatch(mesh.admin) as watch, HttpOrigin() as origin, portway.forward(origin.port) as tunnel:
        eventually(lambda: watch.shows(tunnel))
        cut.cut(how)
        began = own_time()
        while set(cut.linked_to()) != {"first"}:
            assert own_time() - began < MOVED_WITHIN + SLACK, cut.linked_to()
            lost |= nodes - {node.name for node in mesh.admin.nodes()}
            assert serves(tunnel, mesh.ca)
        assert not lost
        assert watch.shows(tunnel)
        eventually(lambda: cut.led_to() == {1})
        with HttpOrigin() as other, portway.forward(other.port, token=mesh.token()) as second:
            assert serves(second, mesh.ca)
            eventually(lambda: watch.shows(tunnel, second))
        cut.mend()
        eventually(lambda: cut.led_to() == {2})
        eventually(lambda: {one.host for one in cut.replicas.admin.tunnels()} == {tunnel.host})
        eventually(lambda: is_consistent(mesh, tunnel))
        assert set(cut.linked_to()) == {"first"}


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_without_a_store_for_anybody_nodes_stay(
    cut: Cut, as_client: AsClient, etcd: EtcdServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Each with the replica that it has, which answers from memory; also once etcd is back."""
    mesh = cut.mesh
    as_client(mesh.environment() | {"PORTWAY_REGISTRY": f"{DOMAIN}:{mesh.node.port}"})
    thawed = threading.Timer(AWAY, etcd.resume)
    token = mesh.token()
    seen: set[str] = set()
    with TunnelWatch(mesh.admin) as watch, HttpOrigin() as origin, portway.forward(origin.port) as tunnel:
        eventually(lambda: watch.shows(tunnel))
        # A token that both replicas know.
        with HttpOrigin() as other, portway.forward(other.port, token=token):
            pass
        etcd.pause()
        thawed.start()
        try:
            while thawed.is_alive():
                seen.update(cut.linked_to())
                assert serves(tunnel, mesh.ca)
                thawed.join(1.0)
            eventually(lambda: is_consistent(mesh, tunnel))
            eventually(lambda: watch.shows(tunnel))
            eventually(lambda: cut.led_to() == {2})
        finally:
            thawed.cancel()
            thawed.join()
        assert seen | set(cut.linked_to()) == {"second"}
    told = [record.message for record in caplog.records]
    assert "the store is not reached: nodes go to another registry, if one reaches it" in told
    assert "the registry does not reach its store: looking for one that does" in told
    assert "going to a registry that reaches its store" not in told
