"""A client that leaves its node says where it went: who still comes to that node is sent there, and nobody is asked."""

import dataclasses
import socket
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, cast

import portway
import pytest
from portway_proto.v1.admin_pb2 import NODE_ORDER_DRAIN
from portway_proto.v1.lane_pb2 import Answer
from portway_proto.v1.mesh_pb2 import ResolveResponse
from portway_proto.wire.statements import SigningKey, read_claim
from portway_relay.config import NodeLimits
from portway_relay.node import Node
from portway_testkit.clusters.cluster import Cluster, NodePlan, RunningNode
from portway_testkit.clusters.hand_grants import grants_of
from portway_testkit.clusters.mesh import connected
from portway_testkit.fixtures import AsClient
from portway_testkit.links.hand_tunnel import HandTunnel
from portway_testkit.signers import label_of
from portway_testkit.visitors.mesh_visitors import answered_by, connect
from portway_testkit.visitors.origins import HttpOrigin, TcpOrigin, echo
from portway_testkit.visitors.visiting import TIMEOUT
from portway_testkit.waiting import PATIENCE, eventually

StartCluster = Callable[..., Cluster]
LIMITS = NodeLimits(stop_grace=PATIENCE)
# Of two regions: what a node holds is told to its siblings alone, so that neither hears of the other's tunnels unasked.
FAR_APART = (NodePlan("fra-1", "fra", LIMITS), NodePlan("iad-1", "iad", LIMITS))


class Questions:
    """What a node asks others about labels, from now on: a registry, and nodes of the label's region."""

    def __init__(self, node: Node) -> None:
        self.asked: list[str] = []
        lookup, peers = cast(Any, node._routing.lookup), cast(Any, node._routing.peers)
        resolve, ask_region = lookup._resolve, peers.ask_region

        async def counted_resolve(label: str, *, current: bool = False) -> ResolveResponse | None:
            self.asked.append("registry")
            answer: ResolveResponse | None = await resolve(label, current=current)
            return answer

        async def counted_ask_region(*asked: str | None) -> list[tuple[str, Answer]]:
            self.asked.append("region")
            answers: list[tuple[str, Answer]] = await ask_region(*asked)
            return answers

        lookup._resolve, peers.ask_region = counted_resolve, counted_ask_region


def sessions(cluster: Cluster, node: Node) -> int:
    """How many a node has; one that is stopping, too."""

    async def count() -> int:
        return len(node._serving.sessions)

    return cluster.run(count)


def shown(cluster: Cluster, label: str) -> list[tuple[str, int]]:
    """Node and epoch of a tunnel, as the registry has it."""
    return [(tunnel.node, tunnel.epoch) for tunnel in cluster.admin.tunnels() if tunnel.label == label]


def echoes(node: RunningNode, tunnel: portway.Tunnel, cluster: Cluster, sent: bytes) -> bool:
    with connect(node, tunnel.host, cluster.ca) as visitor:
        visitor.settimeout(TIMEOUT)
        visitor.sendall(sent)
        return visitor.recv(100) == sent


def was_cut(visitor: socket.socket) -> bool:
    try:
        return visitor.recv(100) == b""
    except ConnectionResetError:
        return True


def test_a_visitor_of_a_stopping_node_is_sent_after_the_client(
    start_cluster: StartCluster, as_client: AsClient
) -> None:
    """Right after the move, and for as long as the node is open; neither a registry nor another node is asked."""
    cluster = start_cluster(*(dataclasses.replace(plan, lame_duck=3.0) for plan in FAR_APART))
    as_client(cluster.environment())
    eventually(lambda: connected(cluster))
    with TcpOrigin(echo) as origin, portway.forward(origin.port) as tunnel:
        [home] = [running for running in cluster.nodes.values() if sessions(cluster, running.node)]
        stopping_node = home.node
        questions = Questions(stopping_node)
        with connect(home, tunnel.host, cluster.ca) as staying:
            staying.settimeout(TIMEOUT)
            staying.sendall(b"before")
            assert staying.recv(100) == b"before"
            stopping = threading.Thread(target=home.stop)
            stopping.start()
            eventually(lambda: not sessions(cluster, stopping_node))
            for number in range(5):
                assert echoes(home, tunnel, cluster, b"late %d" % number)
            assert questions.asked == []
            staying.sendall(b"after")
            assert staying.recv(100) == b"after"
        stopping.join(PATIENCE)
        assert not stopping.is_alive()


def test_a_visitor_of_a_drained_node_is_sent_after_the_client(
    start_cluster: StartCluster, as_client: AsClient, origin: HttpOrigin
) -> None:
    """Though its binding here was taken by a registry's word: the node stays open for good."""
    cluster = start_cluster(*FAR_APART)
    as_client(cluster.environment())
    eventually(lambda: connected(cluster))
    with portway.forward(origin.port) as tunnel:
        [home] = [running for running in cluster.nodes.values() if sessions(cluster, running.node)]
        questions = Questions(home.node)
        cluster.admin.order(home.config.name, NODE_ORDER_DRAIN)
        eventually(lambda: not sessions(cluster, home.node))
        with connect(home, tunnel.host, cluster.ca, "http/1.1") as visitor:
            visitor.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
            assert visitor.recv(100).startswith(b"HTTP/1.1 200 ")
        assert questions.asked == []


@pytest.mark.parametrize("at_home", [True, False], ids=["direct", "forwarded"])
def test_a_visit_that_a_client_has_left_ends_with_its_token(
    start_cluster: StartCluster, as_client: AsClient, at_home: bool
) -> None:
    """It goes on at the node before, whichever node the visitor came to, until the token is revoked."""
    cluster = start_cluster(*FAR_APART)
    environment = cluster.environment()
    as_client(environment)
    lost: SimpleQueue[portway.TunnelLostError] = SimpleQueue()
    eventually(lambda: connected(cluster))
    with (  # noqa: PT012 - it is the end of the block that raises
        TcpOrigin(echo) as origin,
        pytest.raises(portway.TunnelLostError, match="revoked"),
        portway.forward(origin.port, tunnel_lost=lost.put) as tunnel,
    ):
        [home] = [running for running in cluster.nodes.values() if sessions(cluster, running.node)]
        [other] = [running for running in cluster.nodes.values() if running is not home]
        with connect(home if at_home else other, tunnel.host, cluster.ca) as visitor:
            visitor.settimeout(TIMEOUT)
            visitor.sendall(b"before")
            assert visitor.recv(100) == b"before"
            cluster.admin.order(home.config.name, NODE_ORDER_DRAIN)
            eventually(lambda: not sessions(cluster, home.node))
            visitor.sendall(b"after")
            assert visitor.recv(100) == b"after"
            cluster.admin.revoke_token(environment["PORTWAY_TOKEN"])
            assert was_cut(visitor)
            lost.get(timeout=PATIENCE)


def test_nobody_sends_anothers_visitors_away(start_cluster: StartCluster) -> None:
    """A session is heard of its own labels alone, with claims of their own keys, and about nodes that are known."""
    cluster = start_cluster(*FAR_APART)
    eventually(lambda: connected(cluster))
    grant, node = grants_of(cluster), cluster.nodes["fra-1"]
    mine, theirs = SigningKey(), SigningKey()
    with (
        HandTunnel(node, cluster.ca, grant, theirs, 1, "theirs") as victim,
        HandTunnel(node, cluster.ca, grant, mine, 1, "mine") as hostile,
    ):
        elsewhere = hostile.grant.claim(SigningKey(), 2, "iad-1")
        for key in (theirs, mine):
            forged = read_claim(key.public + elsewhere.encoded[len(key.public) :])
            hostile.says_moved(forged, hostile.grant.present("iad-1", forged))
        nowhere = hostile.grant.claim(mine, 2, "nobody")
        hostile.says_moved(nowhere, hostile.grant.present("nobody"))
        hostile.leave()
        assert hostile.unbound is None
        assert answered_by(cluster, "fra-1", victim.host) == "theirs"
        victim.leave()
        for key in (theirs, mine):
            with HandTunnel(node, cluster.ca, grant, key, 3, "again") as again:
                assert again.refused is None


def test_a_client_that_says_wrong_misleads_its_own_visitors_for_one_try(start_cluster: StartCluster) -> None:
    """The node that it named refuses, the registry is asked, and the visitor is served where the tunnel is."""
    cluster = start_cluster(*FAR_APART, NodePlan("iad-2", "iad", LIMITS))
    eventually(lambda: connected(cluster))
    grant, key = grants_of(cluster), SigningKey()
    with HandTunnel(cluster.nodes["fra-1"], cluster.ca, grant, key, 1, "before") as before:
        questions = Questions(cluster.nodes["fra-1"].node)
        with HandTunnel(cluster.nodes["iad-2"], cluster.ca, grant, key, 3, "after"):
            before.says_moved(before.grant.claim(key, 2, "iad-1"), before.grant.present("iad-1"))
            before.leave()
            eventually(lambda: shown(cluster, label_of(key)) == [("iad-2", 3)])
            assert answered_by(cluster, "fra-1", before.host) == "after"
            assert questions.asked
