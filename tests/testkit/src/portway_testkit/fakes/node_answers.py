"""What a fake relay node answers to its clients' frames, as a test says.

It binds tunnels whose claims and presences are genuine and fit, and parks data lanes. Here: sessions, tunnels, the
answers and the switches that change them, and what happened. Not here: the thread and the sockets (fake_node.py).
"""

import secrets
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from portway_carrier.contract import Lane, Pool
from portway_carrier.errors import CarrierError
from portway_proto.v1 import lane_pb2, types_pb2
from portway_proto.wire.frames import FrameType, Opening
from portway_proto.wire.statements import (
    Claim,
    Presence,
    is_believable_epoch,
    read_claim,
    read_presence,
    signed_greeting,
)

from portway_testkit.signers import CLUSTER
from portway_testkit.waiting import PATIENCE

_first_epochs: dict[str, int] = {}  # of each label that a node was asked for


@dataclass
class FakeTunnel:
    """A tunnel that is bound at this node."""

    label: str
    claim: Claim
    ticket: bytes
    session: "FakeSession"


@dataclass
class FakeSession:
    """A client's session; `control` is None while it is detached."""

    id: bytes
    secret: bytes
    control: Lane | None
    pool: Pool
    grant: str
    key: bytes
    labels: set[str] = field(default_factory=set)
    presence: Presence | None = None


class NodeAnswers:
    """A node of this name, with this certificate in PEM; what happened is in `events`, in order."""

    def __init__(self, name: str, certificate: bytes, make_pool: Callable[[Lane | None], Pool]) -> None:
        self.name = name
        self.region = "test"
        self.domain = "localhost"
        self.port = 0  # of the hosts in BOUND
        self.claims: dict[str, Claim] = {}  # of highest rank, by label
        self.events: list[tuple[Any, ...]] = []
        self._happened_at: list[float] = []  # each of them
        self.sessions: dict[bytes, FakeSession] = {}
        self.tunnels: dict[str, FakeTunnel] = {}
        self.refuse_hello: lane_pb2.Failure | None = None
        self.after: NodeAnswers | None = None  # full until this one has bound a tunnel: whoever is connected first
        self.refuse_bind: lane_pb2.Failure | None = None
        self.accepted_binds = 0  # tunnels that it binds nevertheless
        self.forgotten: set[bytes] = set()  # ids of sessions that it does not know where lanes park
        self.resumes = True
        self.lose_answers = 0  # number of BINDs that are accepted and answered by dropping the connection
        self.ignore_binds = False
        self.host_in_bound: str | None = None  # in place of the tunnel's own
        self.clock_offset = 0.0  # seconds by which its clock is ahead
        self.registry_offset = 0.0  # seconds by which the registry's time is, as it was told, by which it judges
        self._tickets: dict[str, list[bytes]] = {}
        self._changed = threading.Condition()
        self._certificate = certificate
        self._make_pool = make_pool

    def wait(self, condition: Callable[[], bool]) -> None:
        """Return once `condition()` is true; it is checked after each event. Raises AssertionError."""
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE), f"it never came to be; happened: {self.events}"

    def count(self, what: str) -> int:
        return sum(1 for event in self.events if event[0] == what)

    def times(self, what: str) -> list[float]:
        """When the event happened, in seconds. A thread that waits for it may run later."""
        return [at for event, at in zip(self.events, self._happened_at, strict=True) if event[0] == what]

    def epochs(self, label: str) -> list[int]:
        """The epochs with which it bound the label, in order; 1 is the first that any node was asked for."""
        return [event[2] for event in self.events if event[:2] == ("bind", label)]

    def tickets_shown(self, label: str) -> list[bytes]:
        """The tickets with which it was asked for the label, in order."""
        return self._tickets.get(label, [])

    def happened(self, *event: Any) -> None:
        with self._changed:
            self.events.append(event)
            self._happened_at.append(time.monotonic())
            self._changed.notify_all()

    def greeted(self, lane: Lane, frame_type: int, payload: bytes) -> FakeSession | None:
        """The session of a control lane's first frame; None for a data lane, which is parked."""
        if frame_type == FrameType.PARK:
            park = lane_pb2.Park.FromString(payload)
            session = self.sessions.get(park.session_id)
            if session is None or session.secret != park.session_secret or session.id in self.forgotten:
                lane.fail(failure(lane_pb2.FAILURE_CODE_SESSION).SerializeToString())
                self.happened("park refused")
            else:
                session.pool.park(lane)
                self.happened("park")
            return None
        return self._hello(lane, lane_pb2.Hello.FromString(payload))

    def _hello(self, lane: Lane, hello: lane_pb2.Hello) -> FakeSession | None:
        refusal = self.refuse_hello
        if self.after is not None and not self.after.count("bind"):
            refusal = failure(lane_pb2.FAILURE_CODE_OVERLOADED)
        if refusal is not None:
            self.happened("hello refused")
            lane.fail(refusal.SerializeToString())
            return None
        key = session_key_of(hello.grant)
        leaf, end, _ = self._certificate.decode().partition(ssl.PEM_FOOTER)
        certificate = ssl.PEM_cert_to_DER_cert(leaf.strip() + end)
        assert signed_greeting(key, CLUSTER, self.name, certificate, hello.signature).is_genuine()
        session = self.sessions.get(hello.session_id) if self.resumes else None
        resumed = session is not None and session.secret == hello.session_secret
        if session is None or not resumed:
            session = FakeSession(
                secrets.token_bytes(16),
                secrets.token_bytes(16),
                lane,
                self._make_pool(lane),
                hello.grant,
                key,
            )
            self.sessions[session.id] = session
        session.control = lane
        session.pool.attach_control(lane)
        welcome = lane_pb2.Welcome(
            session_id=session.id,
            session_secret=session.secret,
            resumed=resumed,
            node_time_ms=int((time.time() + self.clock_offset) * 1000),
            node=self.name,
            region=self.region,
            resume_seconds=60,
            max_lanes=256,
        )
        self.happened("hello", resumed)
        lane.send(FrameType.WELCOME, welcome.SerializeToString())
        return session

    def told(self, session: FakeSession, frame_type: int, payload: bytes) -> None:
        """A frame on a control lane."""
        if frame_type == FrameType.BIND:
            self._bind(session, lane_pb2.Bind.FromString(payload))
        elif frame_type == FrameType.PRESENCE:
            self._presence(session, lane_pb2.Presence.FromString(payload))
        elif frame_type == FrameType.UNBIND:
            label = lane_pb2.Unbind.FromString(payload).label
            tunnel = self.tunnels.get(label)
            if tunnel is not None and tunnel.session is session:
                del self.tunnels[label]
                self.claims.pop(label, None)
            session.labels.discard(label)
            self.happened("unbind", label)
        elif frame_type == FrameType.MOVED:
            moved = lane_pb2.Moved.FromString(payload)
            claim, presence = read_claim(moved.claim), read_presence(moved.presence)
            assert claim.signed(CLUSTER).is_genuine()
            assert presence.signed(CLUSTER).is_genuine()
            assert presence.places(claim)
            assert claim.label == moved.label
            self.happened("moved", moved.label, claim.node, epoch_number(claim))
        elif frame_type == FrameType.GOAWAY:
            self._end_session(session)
            self.happened("goaway")

    def _bind(self, session: FakeSession, bind: lane_pb2.Bind) -> None:
        lane = session.control
        assert lane is not None
        claim = read_claim(bind.claim)
        label = claim.label
        if self.ignore_binds:
            self.happened("bind ignored", label, epoch_number(claim))
            return
        failure = self._why_not(session, claim)
        if failure is not None:
            owner = self.claims.get(label) if failure.code == lane_pb2.FAILURE_CODE_EPOCH else None
            refused = lane_pb2.BindRefused(
                request=bind.request, failure=failure, claim=b"" if owner is None else owner.encoded
            )
            self.happened("bind refused", label, epoch_number(claim))
            lane.send(FrameType.BIND_REFUSED, refused.SerializeToString())
            return
        self._tickets.setdefault(label, []).append(bind.ticket)
        raw = types_pb2.TunnelOptions.FromString(claim.options).unencrypted
        ticket = bind.ticket or (f"20001 {label}".encode() if raw else b"")
        self._evict(label, session, claim)
        with self._changed:  # the tunnel and its event appear together, and before the answer
            self.claims[label] = claim
            self.tunnels[label] = FakeTunnel(label, claim, ticket, session)
            session.labels.add(label)
            self.happened("bind", label, epoch_number(claim))
        bound = lane_pb2.Bound(
            request=bind.request,
            host=f"{label}.{self.region}.{self.domain}" if self.host_in_bound is None else self.host_in_bound,
            port=self.port,
            unencrypted_host="127.0.0.1" if raw else "",
            unencrypted_port=20001 if raw else 0,
            ticket=ticket,
        )
        if self.lose_answers:
            self.lose_answers -= 1
            lane.abort()
        else:
            lane.send(FrameType.BOUND, bound.SerializeToString())

    def _evict(self, label: str, by: FakeSession, claim: Claim) -> None:
        """Tell the session that held the label at this node until now."""
        known = self.tunnels.get(label)
        if known is None or known.session is by or known.session.control is None:
            return
        known.session.labels.discard(label)
        unbound = lane_pb2.Unbound(
            label=label, failure=failure(lane_pb2.FAILURE_CODE_EPOCH, "taken"), claim=claim.encoded
        )
        known.session.control.send(FrameType.UNBOUND, unbound.SerializeToString())

    def _presence(self, session: FakeSession, message: lane_pb2.Presence) -> None:
        presence = read_presence(message.statement)
        assert presence.signed(CLUSTER).is_genuine()
        assert (presence.session_key, presence.node) == (session.key, self.name)
        assert session.presence is None or presence.time_ms > session.presence.time_ms
        session.presence = presence
        session.grant = message.grant or session.grant
        self.happened("presence", len(presence.ids), message.grant)

    def _why_not(self, session: FakeSession, claim: Claim) -> lane_pb2.Failure | None:
        """Why a BIND with this claim is refused."""
        if self.refuse_bind is not None and len(self.tunnels) >= self.accepted_binds:
            return self.refuse_bind
        now_ms = int((time.time() + self.registry_offset) * 1000)
        presence = session.presence
        fits = (claim.node, claim.session_key) == (self.name, session.key) and claim.signed(CLUSTER).is_genuine()
        if not fits or presence is None or not presence.places(claim):
            return lane_pb2.Failure(code=lane_pb2.FAILURE_CODE_CLAIM)
        if not presence.is_fresh(now_ms) or not is_believable_epoch(claim.epoch, now_ms):
            return lane_pb2.Failure(code=lane_pb2.FAILURE_CODE_TIME)
        known = self.claims.get(claim.label)
        if known is not None and known.rank > claim.rank:
            return lane_pb2.Failure(code=lane_pb2.FAILURE_CODE_EPOCH)
        return None

    def lost(self, session: FakeSession, lane: Lane, error: CarrierError) -> None:
        if session.control is lane:
            session.control = None
            session.pool.attach_control(None)
            self.happened("lost", str(error))

    def _end_session(self, session: FakeSession) -> None:
        self.sessions.pop(session.id, None)
        for label in session.labels:
            tunnel = self.tunnels.get(label)
            if tunnel is not None and tunnel.session is session:
                del self.tunnels[label]
                self.claims.pop(label, None)
        session.pool.retire()


class Greeter:
    """The events of one lane that a client opened."""

    def __init__(self, node: NodeAnswers) -> None:
        self._node = node
        self._session: FakeSession | None = None

    def frame_received(self, lane: Lane, frame_type: int, payload: bytes) -> None:
        if self._session is None:
            self._session = self._node.greeted(lane, frame_type, payload)
        else:
            self._node.told(self._session, frame_type, payload)

    def opening_received(self, lane: Lane, opening: Opening) -> None:
        lane.abort()

    def lane_closed(self, lane: Lane, error: CarrierError) -> None:
        if self._session is not None:
            self._node.lost(self._session, lane, error)


def epoch_number(claim: Claim) -> int:
    """The epoch of a claim, counted from the first that any node was asked for, which is 1."""
    return claim.epoch - _first_epochs.setdefault(claim.label, claim.epoch) + 1


def grant_text(name: str, session_key: bytes) -> str:
    """What stands for a grant here: a name, and the session key that it is for."""
    return f"{name} {session_key.hex()}"


def session_key_of(grant: str) -> bytes:
    """The session key that a grant is for."""
    return bytes.fromhex(grant.split()[1])


def failure(code: int, message: str = "", retry_after_ms: int = 0) -> lane_pb2.Failure:
    """A Failure for refusals and GOAWAY."""
    return lane_pb2.Failure(code=lane_pb2.FailureCode.ValueType(code), message=message, retry_after_ms=retry_after_ms)
