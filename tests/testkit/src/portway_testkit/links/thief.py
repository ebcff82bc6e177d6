"""A node that was broken into: it serves its own tunnel to whoever comes to it, and says what it likes to all others.

Here: a real node of a cluster with a client of its own, what it has seen of other clients, what it says over the mesh,
to the registry and to whoever asks. Not here: what a lane with a stolen certificate may say (hand_lane.py), and
what must not come of it (tests/hostile/mesh).
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, cast

from portway_carrier.contract import Lane
from portway_proto.v1.lane_pb2 import Answer, Gone, Routes
from portway_proto.v1.types_pb2 import TunnelOptions
from portway_proto.wire.frames import Opening
from portway_proto.wire.statements import Claim, Presence, SigningKey, read_claim, read_presence
from portway_relay.routing.tunnel import Tunnel

from portway_testkit.clusters.cluster import Cluster
from portway_testkit.clusters.hand_grants import HandGrant
from portway_testkit.links.hand_tunnel import Bind, HandTunnel
from portway_testkit.signers import SessionSigner, label_of
from portway_testkit.visitors.onlookers import answered
from portway_testkit.waiting import eventually

# The epoch with which a tunnel is bound at its home; it was at the hostile node before, with the one below.
SEEN: Final = 2
# Invented labels in one frame: claim and presence of each have 600 bytes together.
_IN_A_FRAME: Final = 20
# Frames until the thief waits for the other side to have read them.
_IN_FLIGHT: Final = 20


@dataclass(frozen=True, slots=True)
class SaidPort:
    """A raw port, and the ticket that it shows for it."""

    port: int
    ticket: bytes


@dataclass(frozen=True, slots=True)
class Client:
    """What the hostile node has of a client: everything that it was sent, and the raw port that it says it has."""

    claim: Claim
    presence: Presence
    grant_token: str
    token_id: str = "a token"
    raw: SaidPort | None = None


class Thief:
    """`Thief(cluster, "fra-2", bind)` turns a node; `bind` makes tunnels, the first of which is the thief's own.

    Whatever visit another node leads to it is answered by that tunnel, whose name is "thief".
    """

    def __init__(self, cluster: Cluster, name: str, bind: Bind) -> None:
        self.cluster = cluster
        self.name = name
        self.bind = bind
        self.tunnel = bind(cluster, name, "thief")
        self._claims: dict[str, Client] = {}  # by label: what it answers when it is asked
        cluster.run(self._turn)

    @property
    def grant(self) -> HandGrant:
        """Of its own client."""
        return self.tunnel.grant

    async def _turn(self) -> None:
        node = self.cluster.nodes[self.name].node
        events, tunnels = node._serving.inbound_lanes._events, node._routing.tunnels
        mine = tunnels.live(_label(self.tunnel))
        answer = events.answer

        def take(_: str, lane: Lane, opening: Opening) -> None:
            tunnel = None if opening.label in self._claims else tunnels.live(opening.label)
            node._routing.visits.start_forwarded(lane, opening, tunnel or mine)

        def lie(asked: str) -> Answer:
            known = self._claims.get(asked)
            if known is None:
                return answer(asked)
            return Answer(tunnel=self._described(known), presence=known.presence.encoded)

        events.visit_arrived = take  # type: ignore[method-assign, assignment]
        events.answer = lie  # type: ignore[method-assign, assignment]

    def lure(self, key: SigningKey, home: str) -> tuple[HandTunnel, list[Client]]:
        """A client binds a tunnel here, and then at its home, with one session key, as a program does; what can be said
        of it from then on."""
        before = self.bind(self.cluster, self.name, "before", key, SEEN - 1)
        seen = self.seen(before.grant, key)
        own = self.bind(self.cluster, home, "own", key, SEEN, grant=before.grant)
        return own, self.made_of(seen)

    def seen(self, grant: HandGrant, key: SigningKey) -> Client:
        """The newest statements of a client's session about one of its tunnels."""
        (claim,) = (claim for claim in grant.signer.held if claim.key == key.public)
        return Client(claim, grant.presented[-1], grant.token)

    def made_of(self, seen: Client) -> list[Client]:
        """What was seen, as it was; the claim in a session of a client of the thief's own; a claim of higher rank that
        nobody has signed."""
        mine, claim = self.grant, seen.claim
        higher = mine.claim(SigningKey(), claim.epoch + 10, self.name).encoded
        forged = read_claim(claim.key + higher[len(claim.key) :])
        return [
            seen,
            Client(claim, mine.present(self.name, claim), mine.token),
            Client(forged, mine.present(self.name, forged), mine.token),
        ]

    def claims(self, *clients: Client) -> None:
        """Claim labels over the mesh, to the registry, and towards whoever asks."""
        node = self.cluster.nodes[self.name].node

        async def claim() -> None:
            for client in clients:
                self._claims[client.claim.label] = client
                self._tell(Routes(bound=[self._described(client)], presences=[client.presence.encoded]))
                node._routing.outbox.bound(_tunnel(client))

        self.cluster.run(claim)

    def takes_back(self, label: str, epoch: int) -> None:
        """Say of another's tunnel that it is gone."""

        async def take_back() -> None:
            self.cluster.nodes[self.name].node._routing.outbox.withdrawn(label, epoch)
            self._tell(Routes(gone=[Gone(label=label, epoch=epoch)]))

        self.cluster.run(take_back)

    def floods(self, number: int) -> None:
        """Claim invented labels, each in an invented session, over the mesh; all were heard when it returns."""
        form = SessionSigner(self.grant.signer.cluster)
        claim = form.claim(node=self.name, epoch=1)
        presence = form.present(self.name, time_ms=time.time_ns() // 1_000_000)
        for start in range(0, number, _IN_A_FRAME * _IN_FLIGHT):
            ends = range(start, min(start + _IN_A_FRAME * _IN_FLIGHT, number), _IN_A_FRAME)
            self.cluster.run(lambda: self._flood(claim, presence, ends))

    async def _flood(self, claim: Claim, presence: Presence, starts: Iterable[int]) -> None:
        for start in starts:
            frame = Routes()
            for number in range(start, start + _IN_A_FRAME):
                client = _invented(claim, presence, number)
                frame.bound.append(self._described(client))
                frame.presences.append(client.presence.encoded)
            self._tell(frame)
        for peer in self._peers():
            await peer.control.ask("a")

    def floods_registry(self, number: int) -> None:
        """The same to the registry, in one batch."""
        form = SessionSigner(self.grant.signer.cluster)
        claim, presence = form.claim(node=self.name, epoch=1), form.present(self.name)
        outbox = self.cluster.nodes[self.name].node._routing.outbox

        async def flood() -> None:
            for one in range(number):
                outbox.bound(_tunnel(_invented(claim, presence, one)))

        self.cluster.run(flood)

    def is_silent_about(self, key: SigningKey) -> None:
        """From now on it says nothing about this label on its own account: not that its client has gone."""
        routing, label = self.cluster.nodes[self.name].node._routing, label_of(key)
        table: Any = self.cluster.nodes[self.name].node._serving.table
        announcer: Any = table._announcer

        async def silence() -> None:
            for name in ("withdrawn", "closed"):
                say = getattr(announcer, name)
                setattr(announcer, name, lambda tunnel, say=say: None if tunnel.label == label else say(tunnel))
            taken = routing.routes._superseded
            routing.routes._superseded = lambda claim: None if claim.label == label or taken is None else taken(claim)

        self.cluster.run(silence)

    def ticket(self, label: str, port: int) -> bytes:
        """One that it signs itself, whosever the port is."""
        return self.cluster.nodes[self.name].node._raw.tickets.sign(label, port).encoded

    def was_heard(self) -> None:
        """Wait until all that it said has been: a tunnel of its own, bound after it, is known."""
        own = self.bind(self.cluster, self.name, "thief's")
        eventually(lambda: any(_label(own) == one.label for one in self.cluster.admin.tunnels()))
        others = [name for name, running in self.cluster.nodes.items() if name != self.name and running.runs]
        eventually(lambda: {answered(self.cluster, at, own.host) for at in others} == {"thief's"})
        own.leave()

    def _tell(self, routes: Routes) -> None:
        for peer in self._peers():
            peer.control.tell(routes)

    def _peers(self) -> list[Any]:
        return list(self.cluster.nodes[self.name].node._routing.peers._peers.values())

    def _described(self, client: Client) -> Any:
        return self.cluster.nodes[self.name].node._routing.describe(_tunnel(client))


def _tunnel(client: Client) -> Tunnel:
    holder: Any = client
    options = TunnelOptions.FromString(client.claim.options)
    return Tunnel(client.claim, holder, options, max_visits=1, opened_at_ms=1, raw=cast(Any, client.raw))


def _invented(claim: Claim, presence: Presence, number: int) -> Client:
    """Of the right form; nobody has signed it."""
    key = number.to_bytes(len(claim.key))
    session = presence.encoded[: len(presence.session_key)]
    assert session == presence.session_key
    return Client(
        read_claim(key + claim.encoded[len(key) :]), read_presence(key + presence.encoded[len(session) :]), "no grant"
    )


def _label(tunnel: HandTunnel) -> str:
    return tunnel.host.partition(".")[0]
