"""A node that was broken into serves its own tunnel to whoever asks it for any, and claims the labels of others.

It is a real node with a client of its own: told what to say over the mesh and to the registry, and led to take every
visit that comes to it. What a single lane with a stolen certificate may say is in integration/forwarding.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from portway_carrier.contract import Lane
from portway_proto.v1.lane_pb2 import Gone, Routes
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.frames import Opening
from portway_proto.wire.labels import Chain
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.links.hand_tunnel import HandTunnel
from portway_testkit.visitors.onlookers import Onlookers, answered
from portway_testkit.waiting import eventually

Bind = Callable[..., HandTunnel]

HOSTILE = "fra-2"
HONEST = ("fra-1", "iad-1")
# The epoch that a tunnel is bound with, whose proof every node may have seen.
SEEN = 2
# Equal, lower, forged.
CLAIMS = (2, 1, 3, 4096)


@dataclass(frozen=True, slots=True)
class Thief:
    """The node that was broken into."""

    cluster: Cluster
    tunnel: HandTunnel
    bind: Bind

    def claim(self, chain: Chain, epoch: int) -> None:
        """Over the mesh, to the registry, and to whoever asks."""
        proof = chain.proof(min(epoch, SEEN))  # nothing beyond can be made
        claimed = TunnelInfo(label=chain.label, node=HOSTILE, region="fra", epoch=epoch, proof=proof)
        told = TunnelInfo(tenant="test", token_id="thief", host=self.tunnel.host)
        told.MergeFrom(claimed)
        node = self.cluster.nodes[HOSTILE].node

        async def claim() -> None:
            node._serving.inbound_lanes._events.held_tunnel = lambda label: claimed if label == chain.label else None  # type: ignore[method-assign]
            for peer in node._routing.peers._peers.values():
                peer.control.tell(Routes(bound=[claimed]))
            node._routing.outbox._bound[chain.label] = told
            node._routing.outbox.filled.set()

        self.cluster.run(claim)

    def take_back(self, chain: Chain, epoch: int) -> None:
        """Say of another's tunnel that it is gone."""
        node = self.cluster.nodes[HOSTILE].node

        async def take_back() -> None:
            node._routing.outbox.withdrawn(chain.label, epoch)
            for peer in node._routing.peers._peers.values():
                peer.control.tell(Routes(gone=[Gone(label=chain.label, epoch=epoch)]))

        self.cluster.run(take_back)

    def heard(self) -> None:
        """Wait until all that was said has been: a tunnel of its own, bound after it, is known."""
        own = self.bind(self.cluster, HOSTILE, "thief's second")
        eventually(lambda: any(label_of_host(own.host) == one.label for one in self.cluster.admin.tunnels()))
        eventually(lambda: answered(self.cluster, "fra-1", own.host) == "thief's")
        own.leave()


def label_of_host(host: str) -> str:
    return host.partition(".")[0]


@pytest.fixture
def thief(mesh: Cluster, bind: Bind) -> Thief:
    tunnel = bind(mesh, HOSTILE, "thief")
    node = mesh.nodes[HOSTILE].node
    label = label_of_host(tunnel.host)

    async def turn() -> None:
        events, mine = node._serving.inbound_lanes._events, node._routing.tunnels.live(label)

        def take(_: str, lane: Lane, opening: Opening) -> None:
            node._routing.visits.start_forwarded(lane, opening, node._routing.tunnels.live(opening.label) or mine)

        events.visit_arrived = take  # type: ignore[method-assign, assignment]

    mesh.run(turn)
    return Thief(mesh, tunnel, bind)


@pytest.mark.parametrize("home", ["fra-1", "iad-1"])
def test_it_gets_no_visitor_of_a_tunnel_that_is_there(mesh: Cluster, bind: Bind, thief: Thief, home: str) -> None:
    """Whatever it claims, and takes back: everybody goes on being served by the tunnel's own client."""
    chain = Chain()
    own = bind(mesh, home, "own", chain, SEEN)
    eventually(lambda: (home, SEEN) in shown(mesh, chain))
    with Onlookers(mesh, {own.host: "own"}, HONEST) as onlookers:
        for _ in range(3):
            for epoch in CLAIMS:
                thief.claim(chain, epoch)
            thief.take_back(chain, SEEN)
            thief.heard()
        before = onlookers.answers.copy()
        eventually(lambda: all((onlookers.answers - before)[at, "own"] > 3 for at in HONEST))
    assert shown(mesh, chain) == [(home, SEEN)]
    assert own.unbound is None


@pytest.mark.parametrize("home", ["fra-1", "iad-1"])
def test_it_gets_no_visitor_of_a_tunnel_that_is_gone(mesh: Cluster, bind: Bind, thief: Thief, home: str) -> None:
    """An epoch is its first holder's alone: the label is nobody's now, and its own client's with the next one."""
    chain = Chain()
    own = bind(mesh, home, "own", chain, SEEN)
    eventually(lambda: (home, SEEN) in shown(mesh, chain))
    own.leave()
    eventually(lambda: shown(mesh, chain) == [])
    with Onlookers(mesh, {own.host: "own"}, HONEST):
        for epoch in CLAIMS:
            thief.claim(chain, epoch)
            thief.heard()
            assert {answered(mesh, at, own.host) for at in HONEST} == {""}
        assert shown(mesh, chain) == []
        again = bind(mesh, home, "own", chain, SEEN + 1)
        assert again.refused is None
        for at in HONEST:
            eventually(lambda: answered(mesh, at, own.host) == "own")


def test_without_a_registry_it_gets_nobody_either(mesh: Cluster, bind: Bind, thief: Thief) -> None:
    """Claims with an equal epoch cannot be told apart then: who asks for the first time is led to neither."""
    chain = Chain()
    own = bind(mesh, "fra-1", "own", chain, SEEN)
    eventually(lambda: ("fra-1", SEEN) in shown(mesh, chain))
    mesh.stop_registry()
    try:
        with Onlookers(mesh, {own.host: "own"}, HONEST) as onlookers:
            for _ in range(2):
                for epoch in CLAIMS:
                    thief.claim(chain, epoch)
                before = onlookers.answers.copy() + onlookers.unanswered
                eventually(
                    lambda: all((onlookers.answers + onlookers.unanswered - before)[at, "own"] > 3 for at in HONEST)
                )
            assert not onlookers.unanswered["fra-1", "own"]
    finally:
        mesh.start_registry()
    for at in HONEST:
        eventually(lambda: answered(mesh, at, own.host) == "own")
    assert own.unbound is None


def shown(cluster: Cluster, chain: Chain) -> list[tuple[str, int]]:
    """Node and epoch of the tunnel, as the registry has it."""
    return [(tunnel.node, tunnel.epoch) for tunnel in cluster.admin.tunnels() if tunnel.label == chain.label]
