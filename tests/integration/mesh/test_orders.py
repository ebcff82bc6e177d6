"""What operators want of nodes: cordoned, drained, removed, served again; and a rolling restart of all of them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import portway
import pytest
from portway_proto.v1.admin_pb2 import NODE_ORDER_CORDON, NODE_ORDER_DRAIN, NODE_ORDER_REMOVE, NODE_ORDER_SERVE
from portway_proto.v1.types_pb2 import NODE_STATE_CORDONED, NODE_STATE_DRAINING, NODE_STATE_READY
from portway_testkit.clusters.cluster import Cluster, NodePlan, RunningNode
from portway_testkit.clusters.mesh import connected
from portway_testkit.fixtures import AsClient
from portway_testkit.visitors.mesh_visitors import get
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.waiting import eventually

PLANS = (NodePlan("fra-1", "fra"), NodePlan("fra-2", "fra"), NodePlan("iad-1", "iad"))
VISITORS = 4


@pytest.fixture
def cluster(start_cluster: Callable[..., Cluster], as_client: AsClient, store: str) -> Cluster:
    """Three nodes that know of each other, and this process their client."""
    cluster = start_cluster(*PLANS, store=store)
    eventually(lambda: connected(cluster))
    as_client(cluster.environment())
    return cluster


class Load:
    """Visitors without pause, at every node of `open_nodes` in turn: each must get its whole answer."""

    def __init__(self, cluster: Cluster, tunnel: portway.Tunnel, expected: bytes) -> None:
        self.open_nodes: dict[str, RunningNode] = dict(cluster.nodes)
        self.failures: list[str] = []
        self.answered = 0
        self._cluster = cluster
        self._tunnel = tunnel
        self._expected = expected
        self._over = threading.Event()
        self._rounds = [0] * VISITORS
        self._threads = [threading.Thread(target=self._visit, args=(i,)) for i in range(VISITORS)]
        for thread in self._threads:
            thread.start()

    def settled(self) -> None:
        """Wait until every node has been visited a few times more."""
        enough = self.answered + len(self.open_nodes) * VISITORS * 2
        eventually(lambda: self.answered >= enough or bool(self.failures))

    def leave(self, name: str) -> None:
        """Visit this node no more, as a balancer does when a node is not ready; those on their way are waited for."""
        del self.open_nodes[name]
        before = list(self._rounds)
        eventually(lambda: all(now > then for now, then in zip(self._rounds, before, strict=True)))

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _visit(self, visitor: int) -> None:
        while not self._over.is_set():
            self._rounds[visitor] += 1
            for name, node in list(self.open_nodes.items()):
                try:
                    answer = get(node, self._tunnel, self._cluster.ca)
                except OSError as error:
                    self.failures.append(f"{name}: {error}")
                else:
                    self.answered += 1
                    if answer != self._expected:
                        self.failures.append(f"{name}: answered {answer!r}")


@contextmanager
def visited(cluster: Cluster, tunnel: portway.Tunnel, origin: HttpOrigin) -> Iterator[Load]:
    """Visitors at every node inside the block, none of whom may fail."""
    load = Load(cluster, tunnel, answer_of(origin))
    try:
        load.settled()
        yield load
    finally:
        load.stop()
    assert load.failures == []


def answer_of(origin: HttpOrigin) -> bytes:
    return f"{origin.name}\n".encode()


def home_of(cluster: Cluster) -> str:
    """The node that holds the one tunnel, as the registry knows it; empty in between."""
    return next((tunnel.node for tunnel in cluster.admin.tunnels()), "")


def state_of(cluster: Cluster, name: str) -> int:
    return next((node.state for node in cluster.admin.nodes() if node.name == name), 0)


def test_a_drained_node_is_left_and_nobody_notices(cluster: Cluster, origin: HttpOrigin) -> None:
    """Its client attaches elsewhere first; visitors at every node, the drained one too, are served all the time."""
    with portway.forward(origin.port) as tunnel, visited(cluster, tunnel, origin) as load:
        eventually(lambda: home_of(cluster) != "")
        first = home_of(cluster)
        cluster.admin.order(first, NODE_ORDER_DRAIN)
        eventually(lambda: home_of(cluster) not in ("", first))
        load.settled()
        assert state_of(cluster, first) == NODE_STATE_DRAINING
        cluster.admin.order(first, NODE_ORDER_SERVE)
        eventually(lambda: state_of(cluster, first) == NODE_STATE_READY)
        load.settled()


def test_a_drained_node_that_is_started_again_is_drained(cluster: Cluster) -> None:
    """The order stands until it is taken back."""
    cluster.admin.order("fra-2", NODE_ORDER_DRAIN)
    eventually(lambda: state_of(cluster, "fra-2") == NODE_STATE_DRAINING)
    cluster.nodes["fra-2"].restart()
    eventually(lambda: state_of(cluster, "fra-2") == NODE_STATE_DRAINING)


def test_a_cordoned_node_keeps_its_clients_and_gets_no_new_one(cluster: Cluster, origin: HttpOrigin) -> None:
    """What is open stays where it is; the next session goes elsewhere."""
    with portway.forward(origin.port):
        eventually(lambda: home_of(cluster) != "")
        first = home_of(cluster)
        cluster.admin.order(first, NODE_ORDER_CORDON)
        eventually(lambda: state_of(cluster, first) == NODE_STATE_CORDONED)
        with HttpOrigin() as other, portway.forward(other.port, token=cluster.token()) as second:
            assert second.port != cluster.nodes[first].port
        eventually(lambda: [tunnel.node for tunnel in cluster.admin.tunnels()] == [first])


def test_a_removed_node_is_refused_everywhere(cluster: Cluster, origin: HttpOrigin) -> None:
    """By registries and by other nodes; its clients go elsewhere, it stops, and after `serve` it may start again."""
    with portway.forward(origin.port) as tunnel:
        eventually(lambda: home_of(cluster) != "")
        first = home_of(cluster)
        others = [node for name, node in cluster.nodes.items() if name != first]
        cluster.admin.order(first, NODE_ORDER_REMOVE)
        eventually(lambda: home_of(cluster) not in ("", first))
        eventually(lambda: first not in [node.name for node in cluster.admin.nodes()])
        eventually(lambda: all(not node.node._routing.peers.answers(first) for node in others))
        eventually(lambda: cluster.nodes[first].metrics()["registry_connected"] == 0)
        assert all(get(node, tunnel, cluster.ca) == answer_of(origin) for node in others)
        assert cluster.nodes[first].was_removed
        cluster.admin.order(first, NODE_ORDER_SERVE)
        cluster.nodes[first].restart()
        eventually(lambda: state_of(cluster, first) == NODE_STATE_READY)
        eventually(lambda: connected(cluster))


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_every_node_is_restarted_and_nobody_notices(cluster: Cluster, origin: HttpOrigin) -> None:
    """One after the other, as an upgrade does it: no new connection fails where a node is up, no answer is cut."""
    with portway.forward(origin.port) as tunnel, visited(cluster, tunnel, origin) as load:
        for name, node in cluster.nodes.items():
            load.leave(name)
            node.restart()
            eventually(lambda: connected(cluster))
            load.open_nodes[name] = node
            load.settled()
