"""A node that was broken into serves its own tunnel to whoever asks it for any, and claims the labels of others.

It is a real node with a client of its own: told what to say over the mesh and to the registry, and led to take every
visit that comes to it. What a single lane with a stolen certificate may say is in integration/forwarding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from portway_carrier.contract import Lane
from portway_proto.v1.lane_pb2 import Answer, Gone, Routes
from portway_proto.v1.types_pb2 import TunnelOptions
from portway_proto.wire.frames import Opening
from portway_proto.wire.statements import Claim, Presence, SigningKey, read_claim
from portway_relay.routing.tunnel import Tunnel
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.links.hand_tunnel import HandTunnel
from portway_testkit.signers import label_of
from portway_testkit.visitors.onlookers import Onlookers, answered
from portway_testkit.waiting import eventually

Bind = Callable[..., HandTunnel]

HOSTILE = "fra-2"
HONEST = ("fra-1", "iad-1")
# The epoch with which a tunnel is bound at its home; it was at the hostile node before, with the one below.
SEEN = 2


@dataclass(frozen=True, slots=True)
class Client:
    """What the hostile node has of a client: everything that it was sent."""

    claim: Claim
    presence: Presence
    grant_token: str
    token_id: str = "a token"


@dataclass(frozen=True, slots=True)
class Thief:
    """The node that was broken into."""

    cluster: Cluster
    tunnel: HandTunnel
    bind: Bind

    def lure(self, key: SigningKey, home: str) -> tuple[HandTunnel, list[Client]]:
        """A client binds a tunnel here, and then at its home; what can be said of it from then on."""
        before = self.bind(self.cluster, HOSTILE, "before", key, SEEN - 1)
        (claim,) = before.grant.signer.held
        seen = Client(claim, before.grant.presented[-1], before.grant.token)
        mine = self.tunnel.grant
        forged = read_claim(claim.key + mine.claim(SigningKey(), SEEN + 1, HOSTILE).encoded[len(claim.key) :])
        said = [
            seen,
            Client(claim, mine.present(HOSTILE, claim), mine.token),  # in a session of its own
            Client(forged, mine.present(HOSTILE, forged), mine.token),
        ]
        return self.bind(self.cluster, home, "own", key, SEEN), said

    def claim(self, client: Client) -> None:
        """Over the mesh, to the registry, and to whoever asks."""
        node, label = self.cluster.nodes[HOSTILE].node, client.claim.label
        holder: Any = client
        tunnel = Tunnel(client.claim, holder, TunnelOptions(), max_visits=1, opened_at_ms=1)
        described, presence = node._routing.describe(tunnel), client.presence.encoded
        events = node._serving.inbound_lanes._events
        answer = events.answer

        async def claim() -> None:
            events.answer = lambda asked: (  # type: ignore[method-assign, assignment]
                Answer(tunnel=described, presence=presence) if asked == label else answer(asked)
            )
            for peer in node._routing.peers._peers.values():
                peer.control.tell(Routes(bound=[described], presences=[presence]))
            node._routing.outbox.bound(tunnel)

        self.cluster.run(claim)

    def take_back(self, key: SigningKey, epoch: int) -> None:
        """Say of another's tunnel that it is gone."""
        node = self.cluster.nodes[HOSTILE].node

        async def take_back() -> None:
            node._routing.outbox.withdrawn(label_of(key), epoch)
            for peer in node._routing.peers._peers.values():
                peer.control.tell(Routes(gone=[Gone(label=label_of(key), epoch=epoch)]))

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
    key = SigningKey()
    own, said = thief.lure(key, home)
    eventually(lambda: (home, SEEN) in shown(mesh, key))
    with Onlookers(mesh, {own.host: "own"}, HONEST) as onlookers:
        for _ in range(3):
            for client in said:
                thief.claim(client)
            thief.take_back(key, SEEN)
            thief.heard()
        before = onlookers.answers.copy()
        eventually(lambda: all((onlookers.answers - before)[at, "own"] > 3 for at in HONEST))
    assert shown(mesh, key) == [(home, SEEN)]
    assert own.unbound is None


@pytest.mark.parametrize("home", ["fra-1", "iad-1"])
def test_it_gets_no_visitor_of_a_tunnel_that_is_gone(mesh: Cluster, bind: Bind, thief: Thief, home: str) -> None:
    """Where its visitors came in the label is nobody's now, and its own client's with the next epoch. A node that has
    heard of no later claim may be led to where the client placed its tunnel a moment ago, until that presence ends."""
    key = SigningKey()
    own, said = thief.lure(key, home)
    eventually(lambda: (home, SEEN) in shown(mesh, key))
    assert {answered(mesh, at, own.host) for at in HONEST} == {"own"}
    own.leave()
    eventually(lambda: shown(mesh, key) == [])
    with Onlookers(mesh, {own.host: "own"}, HONEST):
        for client in said:
            thief.claim(client)
            thief.heard()
            assert {answered(mesh, at, own.host) for at in HONEST} == {""}
        again = bind(mesh, home, "own", key, SEEN + 1)
        assert again.refused is None
        for at in HONEST:
            eventually(lambda: answered(mesh, at, own.host) == "own")


def test_without_a_registry_it_gets_nobody_either(mesh: Cluster, bind: Bind, thief: Thief) -> None:
    """What it shows is told apart without asking anybody."""
    key = SigningKey()
    own, said = thief.lure(key, "fra-1")
    eventually(lambda: ("fra-1", SEEN) in shown(mesh, key))
    mesh.stop_registry()
    try:
        with Onlookers(mesh, {own.host: "own"}, HONEST) as onlookers:
            for _ in range(2):
                for client in said:
                    thief.claim(client)
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


def shown(cluster: Cluster, key: SigningKey) -> list[tuple[str, int]]:
    """Node and epoch of the tunnel, as the registry has it."""
    return [(tunnel.node, tunnel.epoch) for tunnel in cluster.admin.tunnels() if tunnel.label == label_of(key)]
