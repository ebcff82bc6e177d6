"""What a thief of a node's key can say of tunnels: everything that the node ever heard, and what can be forged from it.

Here: the memory of what was heard, and messages made from it. Not here: when they are sent and to whom
(hostile_node.py). The thief has the node's certificate and key, and neither a tunnel's key nor a client's.
"""

import random
import secrets
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from typing import Final, TypeVar

from portway_proto.v1.lane_pb2 import Answer, Gone, Routes
from portway_proto.v1.mesh_pb2 import Announce, AnnouncedSession, Withdrawal
from portway_proto.v1.types_pb2 import TunnelInfo, TunnelOptions
from portway_proto.wire.limits import SIGNATURE_SIZE
from portway_proto.wire.statements import (
    Claim,
    Presence,
    SigningKey,
    StatementInvalid,
    read_claim,
    read_presence,
    sign_claim,
    sign_presence,
)
from portway_relay.mesh.control_lane import in_frames
from portway_relay.raw_ports.tickets import Ticket
from portway_relay.routing.tunnel import HomeNode

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

# Of each kind of statement; a run has a few dozen tunnels.
_REMEMBERED: Final = 2_000
_MOST_INVENTED: Final = 30_000  # labels of one process
_INVENTED_AT_ONCE: Final = 300
_GENUINE_AT_ONCE: Final = 20  # of those: signed with keys of its own, so that they verify
_MOST_OWN: Final = 400  # genuine claims that its own presence lists
_TICKETS_AT_ONCE: Final = 4
_RAW: Final = TunnelOptions(unencrypted=True).SerializeToString()


class Lies:
    """Statements for siblings, registries and askers. `rng` chooses; nothing is said twice in the same order."""

    def __init__(
        self,
        home: HomeNode,
        cluster: Callable[[], bytes],
        now_ms: Callable[[], int],
        sign_ticket: Callable[[str, int], Ticket],
        is_mine: Callable[[int], bool],
        rng: random.Random,
    ) -> None:
        """
        cluster: what statements are signed for.
        sign_ticket: signs a raw port's ticket with the node's key.
        is_mine: whether a raw port is of the node's own blocks. Those are its own to give, and are not lied about.
        """
        self._home = home
        self._cluster = cluster
        self._now_ms = now_ms
        self._sign_ticket = sign_ticket
        self._is_mine = is_mine
        self._rng = rng
        self._session = SigningKey()
        self._tunnels: OrderedDict[bytes, TunnelInfo] = OrderedDict()  # by claim
        self._presences: OrderedDict[bytes, Presence] = OrderedDict()  # by statement
        self._grants: OrderedDict[str, None] = OrderedDict()
        self._own: list[Claim] = []  # forged ones among them
        self._latest: Claim | None = None  # the last that verifies
        self._invented = 0

    # What is heard.

    def heard_tunnel(self, tunnel: TunnelInfo) -> None:
        """A tunnel as another party described it, or a client bound it here."""
        _remember(self._tunnels, tunnel.claim, tunnel)

    def heard_claim(self, encoded: bytes) -> None:
        """A claim that a client has signed, for this node or its next one."""
        try:
            claim = read_claim(encoded)
        except StatementInvalid:
            return
        self.heard_tunnel(self._described(claim))

    def heard_presence(self, encoded: bytes) -> None:
        """A presence, whoever sent it."""
        try:
            _remember(self._presences, encoded, read_presence(encoded))
        except StatementInvalid:
            return

    def heard_grant(self, grant: str) -> None:
        """A client's grant."""
        _remember(self._grants, grant, None)

    # What is said.

    def routes(self) -> Iterator[Routes]:
        """One round for another node: frames that fit."""
        yield from in_frames([*self._some(self._presences.values(), 50), self._own_presence()])
        yield from in_frames([*self._replayed(50), *self._forged(50), *self._raw_ports(), *self._inventions()])
        gone = [
            Gone(label=tunnel.label, epoch=tunnel.epoch, closed=self._rng.random() < 0.5) for tunnel in self._sample(50)
        ]
        yield Routes(gone=gone)
        if self._rng.random() < 0.05:  # against the protocol: the other node closes the lane
            yield from in_frames(map(self._in_own_name, self._sample(5)))

    def announce(self, batch: Announce) -> None:
        """Add a round to what a registry is told."""
        batch.bound.extend([*self._forged(20), *self._replayed(20), *self._inventions()])
        if self._rng.random() < 0.05:
            batch.bound.extend(map(self._in_own_name, self._sample(5)))
        batch.withdrawn.extend(Withdrawal(label=tunnel.label, epoch=tunnel.epoch) for tunnel in self._sample(20))
        for grant in self._some(self._grants, 20):
            for presence in self._some(self._presences, 3):
                batch.sessions.append(AnnouncedSession(grant=grant, presence=presence))
            batch.sessions.append(AnnouncedSession(grant=grant, presence=self._own_presence().encoded))

    def answer(self, label: str) -> Answer:
        """To ASK: the label is here, by an old claim or a forged one; or it is closed."""
        known = [tunnel for tunnel in self._tunnels.values() if tunnel.label == label]
        if not known:
            return Answer()
        tunnel = self._rng.choice(known)
        if self._rng.random() < 0.2:
            return Answer(closed_epoch=tunnel.epoch)
        old = [one for one in known if one.node == self._home.name]
        shown = self._rng.choice([*old, self._forge(tunnel)])
        presences = [one for one in self._presences.values() if one.session_key == read_claim(shown.claim).session_key]
        presence = self._rng.choice([*presences, self._own_presence(read_claim(shown.claim))])
        return Answer(tunnel=shown, presence=presence.encoded)

    def claim_of(self, label: str) -> bytes:
        """Some claim to the label, to show to its own client; b"" when none is known."""
        known = [claim for claim, tunnel in self._tunnels.items() if tunnel.label == label]
        return self._rng.choice(known) if known else b""

    def own_claim(self) -> Claim:
        """A claim to a label of its own, which verifies."""
        return self._latest or self._invent()

    # How it is made.

    def _replayed(self, count: int) -> Iterator[TunnelInfo]:
        """As they were heard: in the names of others, and what clients once signed for this node."""
        for tunnel in self._sample(count):
            yield tunnel
        for tunnel in self._tunnels.values():
            if tunnel.node == self._home.name:
                yield tunnel

    def _forged(self, count: int) -> Iterator[TunnelInfo]:
        return map(self._forge, self._sample(count))

    def _forge(self, tunnel: TunnelInfo) -> TunnelInfo:
        """Another's tunnel at this node, at a higher epoch, for the thief's session key or the client's own. All but
        the signature of the tunnel's key is as it should be."""
        claim = read_claim(tunnel.claim)
        session_key = self._rng.choice((self._session.public, claim.session_key))
        mine = sign_claim(
            SigningKey(),
            self._cluster(),
            epoch=claim.epoch + self._rng.choice((0, 1, 60_000)),
            session_key=session_key,
            node=self._home.name,
            options=claim.options,
        )
        signature = self._rng.choice((claim.encoded[-SIGNATURE_SIZE:], secrets.token_bytes(SIGNATURE_SIZE)))
        forged = read_claim(claim.key + mine.encoded[len(claim.key) : -SIGNATURE_SIZE] + signature)
        if session_key == self._session.public:
            self._list(forged)
        described = self._described(forged)
        if tunnel.unencrypted_port and not self._is_mine(tunnel.unencrypted_port):
            described.unencrypted_port, described.ticket = tunnel.unencrypted_port, tunnel.ticket
        return described

    def _in_own_name(self, tunnel: TunnelInfo) -> TunnelInfo:
        """Another node's claim as if it named this one."""
        renamed = TunnelInfo()
        renamed.CopyFrom(tunnel)
        renamed.node, renamed.region = self._home.name, self._home.region
        return renamed

    def _raw_ports(self) -> Iterator[TunnelInfo]:
        """Others' raw ports for tunnels of its own, with tickets that it signs, and for theirs."""
        others = [
            tunnel
            for tunnel in self._tunnels.values()
            if tunnel.unencrypted_port and not self._is_mine(tunnel.unencrypted_port)
        ]
        for tunnel in self._rng.sample(others, min(len(others), _TICKETS_AT_ONCE)):
            claim = self._invent(_RAW)
            ticket = self._sign_ticket(claim.label, tunnel.unencrypted_port).encoded
            for shown in (ticket, tunnel.ticket):
                described = self._described(claim)
                described.unencrypted_port, described.ticket = tunnel.unencrypted_port, shown
                yield described

    def _inventions(self) -> Iterator[TunnelInfo]:
        """Labels that nobody has: a few that verify, many that do not."""
        if self._invented >= _MOST_INVENTED:
            return
        self._invented += _INVENTED_AT_ONCE
        for _ in range(_GENUINE_AT_ONCE):
            yield self._described(self._invent())
        claim = self.own_claim()
        for _ in range(_INVENTED_AT_ONCE - _GENUINE_AT_ONCE):
            yield self._described(read_claim(secrets.token_bytes(len(claim.key)) + claim.encoded[len(claim.key) :]))

    def _invent(self, options: bytes = b"") -> Claim:
        claim = sign_claim(
            SigningKey(),
            self._cluster(),
            epoch=self._now_ms(),
            session_key=self._session.public,
            node=self._home.name,
            options=options,
        )
        self._list(claim)
        self._latest = claim
        return claim

    def _list(self, claim: Claim) -> None:
        self._own.append(claim)
        del self._own[:-_MOST_OWN]

    def _own_presence(self, *claims: Claim) -> Presence:
        """The thief's session is here, with these claims or the last ones that it made."""
        ids = frozenset(claim.id for claim in claims or self._own)
        return sign_presence(self._session, self._cluster(), time_ms=self._now_ms(), node=self._home.name, ids=ids)

    def _described(self, claim: Claim) -> TunnelInfo:
        return TunnelInfo(
            label=claim.label,
            node=claim.node,
            region=self._home.region,
            epoch=claim.epoch,
            options=TunnelOptions.FromString(claim.options),
            opened_at_ms=1,
            host=f"{claim.label}.{self._home.zone}",
            claim=claim.encoded,
        )

    def _sample(self, count: int) -> list[TunnelInfo]:
        return self._some(self._tunnels.values(), count)

    def _some(self, known: Collection[_Value], count: int) -> list[_Value]:
        return self._rng.sample(list(known), min(len(known), count))


def _remember(memory: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
    memory[key] = value
    if len(memory) > _REMEMBERED:
        memory.popitem(last=False)
