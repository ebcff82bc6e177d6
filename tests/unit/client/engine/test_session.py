"""portway.engine.session: answers that are waited for, what comes unasked, and the end."""

import asyncio
from typing import Any

import pytest
from portway.engine import session as module
from portway.engine.dialogue import BindRequest, SessionCredentials
from portway.engine.directory import Node
from portway.engine.failures import Failure
from portway.engine.session import BindRefused, End, Session, SessionOver, failure_of
from portway_carrier.errors import ConnectionLost, PeerFailed, PeerSilent
from portway_proto.v1 import lane_pb2
from portway_proto.wire.frames import FrameType, Opening, RefusalReason
from portway_runtime.endpoints import Endpoint
from portway_testkit.signers import SessionSigner

SIGNER = SessionSigner()
BIND = BindRequest(SIGNER.claim(node="fra-1"))
NODE = Node("fra-1", "fra", Endpoint("fra-1.test", 443), "fra-1.node.portway.internal", "test")
HOST = f"{BIND.label}.fra.test"
TAKEN = lane_pb2.Failure(code=lane_pb2.FAILURE_CODE_EPOCH, message="taken")


class FakeLane:
    def __init__(self) -> None:
        self.sent: list[tuple[int, bytes]] = []
        self.failed: list[lane_pb2.Failure] = []
        self.refused: list[RefusalReason] = []
        self.closed = False

    def send(self, frame_type: int, payload: bytes = b"") -> None:
        self.sent.append((frame_type, payload))

    def fail(self, payload: bytes) -> None:
        self.failed.append(lane_pb2.Failure.FromString(payload))
        self.closed = True

    def refuse(self, reason: RefusalReason, message: str = "") -> None:
        self.refused.append(reason)

    def close(self) -> None:
        self.closed = True


class FakeCarrier:
    def __init__(self) -> None:
        self.made = FakeLane()

    def lane(self, stream: object, side: object, events: object) -> FakeLane:
        return self.made


class Owner:
    """What a session tells that nobody asked."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def tunnel_unbound(self, session: Session, label: str, failure: Failure, claim: bytes) -> None:
        self.told.append(("unbound", label, failure, claim))

    def lanes_wanted(self, session: Session, lanes: int) -> None:
        self.told.append(("wanted", lanes))


class Peer:
    """A session, and the node at its other end."""

    def __init__(self) -> None:
        self.owner = Owner()
        carrier = FakeCarrier()
        self.lane = carrier.made
        self.session = Session(carrier, None, self.owner, NODE)  # type: ignore[arg-type]

    def says(self, frame_type: int, message: Any) -> None:
        self.session.frame_received(self.lane, frame_type, message.SerializeToString())  # type: ignore[arg-type]

    async def welcomed(self) -> Session:
        hello = asyncio.ensure_future(self.session.hello("grant", b"signature", None))
        await asyncio.sleep(0)
        self.says(FrameType.WELCOME, lane_pb2.Welcome(session_id=b"id", session_secret=b"secret"))
        await hello
        return self.session


@pytest.fixture
async def peer() -> Peer:
    return Peer()


async def binding(peer: Peer) -> "asyncio.Future[Any]":
    """A BIND that has gone out."""
    bind = asyncio.ensure_future(peer.session.bind(BIND))
    await asyncio.sleep(0)
    return bind


async def test_welcome_answers_hello(peer: Peer) -> None:
    """Its key is the session's from then on."""
    session = await peer.welcomed()
    assert peer.lane.sent[0][0] == FrameType.HELLO
    assert session.up
    assert session.credentials == SessionCredentials(b"id", b"secret")


async def test_answers_find_those_who_wait(peer: Peer) -> None:
    """Out of order."""
    await peer.welcomed()
    first, second = await binding(peer), await binding(peer)
    peer.says(FrameType.BIND_REFUSED, lane_pb2.BindRefused(request=2, failure=TAKEN, claim=b"claim"))
    peer.says(FrameType.BOUND, lane_pb2.Bound(request=1, host=HOST, port=443))
    assert (await first).host == HOST
    with pytest.raises(BindRefused, match="taken") as refused:
        await second
    assert refused.value.claim == b"claim"


async def test_an_answer_that_nobody_waits_for_is_dropped(peer: Peer) -> None:
    """Who asked was cancelled."""
    session = await peer.welcomed()
    bind = await binding(peer)
    bind.cancel()
    await asyncio.wait([bind])
    peer.says(FrameType.BOUND, lane_pb2.Bound(request=1, host=HOST, port=443))
    assert session.up


async def test_unbound_comes_after_the_bound_before_it(peer: Peer) -> None:
    """Both in one read: who waits for the answer has had it when the owner hears that it is over."""
    await peer.welcomed()

    async def bind() -> None:
        await peer.session.bind(BIND)
        peer.owner.told.append("bound")

    task = asyncio.ensure_future(bind())
    await asyncio.sleep(0)
    peer.says(FrameType.BOUND, lane_pb2.Bound(request=1, host=HOST, port=443))
    peer.says(FrameType.UNBOUND, lane_pb2.Unbound(label=BIND.label, failure=TAKEN, claim=b"claim"))
    await task
    await asyncio.sleep(0)
    assert peer.owner.told == ["bound", ("unbound", BIND.label, Failure(7, "taken"), b"claim")]


async def test_lanes_that_are_wanted_are_told(peer: Peer) -> None:
    """At once."""
    await peer.welcomed()
    peer.says(FrameType.WANT, lane_pb2.Want(lanes=5))
    assert peer.owner.told == [("wanted", 5)]


@pytest.mark.parametrize("what", ["HELLO", "BIND"])
async def test_a_node_that_does_not_answer_is_left(peer: Peer, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """It may be alive and of no use."""
    if what == "BIND":
        await peer.welcomed()
    monkeypatch.setattr(module, "ANSWER_TIMEOUT", 0.01)
    asked = peer.session.hello("grant", b"signature", None) if what == "HELLO" else peer.session.bind(BIND)
    with pytest.raises(SessionOver, match=rf"did not answer {what} within 0\.01 s"):
        await asked
    assert peer.lane.closed
    assert (await peer.session.over()).reason == f"it did not answer {what} within 0.01 s"


async def test_the_end_is_told_to_all_who_wait(peer: Peer) -> None:
    """With the node's own reason, where it gave one."""
    session = await peer.welcomed()
    binds = [await binding(peer) for _ in range(2)]
    failure = lane_pb2.Failure(code=lane_pb2.FAILURE_CODE_REVOKED, message="by an admin")
    session.lane_closed(peer.lane, PeerFailed(failure.SerializeToString()))  # type: ignore[arg-type]
    for bind in binds:
        with pytest.raises(SessionOver, match="by an admin"):
            await bind
    assert await session.over() == End("by an admin", Failure(4, "by an admin"))
    assert not session.up
    with pytest.raises(SessionOver, match="by an admin"):
        await session.bind(BIND)


async def test_silence_and_loss_are_ends_too(peer: Peer) -> None:
    """In the carrier's words; the first end counts."""
    session = await peer.welcomed()
    session.lane_closed(peer.lane, PeerSilent("nothing was heard for 10 s"))  # type: ignore[arg-type]
    session.lane_closed(peer.lane, ConnectionLost("later"))  # type: ignore[arg-type]
    assert await session.over() == End("nothing was heard for 10 s", silent=True)


async def test_a_node_that_leaves_ends_the_session_and_keeps_its_lane(peer: Peer) -> None:
    """Until the tunnels are elsewhere; what is being bound is bound there."""
    session = await peer.welcomed()
    bind = await binding(peer)
    peer.says(
        FrameType.GOAWAY,
        lane_pb2.Goaway(failure=lane_pb2.Failure(code=lane_pb2.FAILURE_CODE_SHUTDOWN, message="upgrade")),
    )
    with pytest.raises(SessionOver):
        await bind
    end = await session.over()
    assert (end.leaving, end.reason) == (True, "upgrade")
    assert not peer.lane.closed
    session.unbind("label")
    session.moved(BIND.claim, SIGNER.present("fra-1"))
    session.leave()
    said = [frame_type for frame_type, _ in peer.lane.sent[-3:]]
    assert said == [FrameType.UNBIND, FrameType.MOVED, FrameType.GOAWAY]
    assert peer.lane.closed


async def test_a_session_that_is_left_for_another_keeps_its_lane(peer: Peer) -> None:
    """It serves on until the tunnels are elsewhere."""
    session = await peer.welcomed()
    session.leave_for_another("it refuses a tunnel")
    assert await session.over() == End("it refuses a tunnel", leaving=True)
    assert not peer.lane.closed


async def test_a_node_is_shown_each_grant_once(peer: Peer) -> None:
    """HELLO brought the first, a presence brings the next."""
    session = await peer.welcomed()
    for grant in ("grant", "renewed", "renewed"):
        session.present(SIGNER.present("fra-1"), grant)
    shown = [lane_pb2.Presence.FromString(payload).grant for _, payload in peer.lane.sent[-3:]]
    assert shown == ["", "renewed", ""]


async def test_a_node_that_breaks_the_protocol_is_told(peer: Peer) -> None:
    """And the session is over."""
    session = await peer.welcomed()
    peer.says(FrameType.BOUND, lane_pb2.Bound(request=9, host=HOST, port=443))
    (failure,) = peer.lane.failed
    assert failure.code == lane_pb2.FAILURE_CODE_PROTOCOL
    assert "broke the protocol" in (await session.over()).reason


async def test_a_visit_on_the_control_lane_is_refused(peer: Peer) -> None:
    """They come on data lanes."""
    session = await peer.welcomed()
    session.opening_received(peer.lane, Opening(BIND.label, "192.0.2.1", 1))  # type: ignore[arg-type]
    assert peer.lane.refused == [RefusalReason.OTHER]


async def test_dropping_says_nothing_and_tells_why(peer: Peer) -> None:
    """It may be resumed."""
    session = await peer.welcomed()
    session.drop(End("of no use"))
    assert peer.lane.closed
    assert [frame_type for frame_type, _ in peer.lane.sent] == [FrameType.HELLO]
    assert await session.over() == End("of no use")


def test_only_fail_carries_a_failure() -> None:
    """One that cannot be read is none."""
    assert failure_of(ConnectionLost("gone")) is None
    assert failure_of(PeerFailed(b"\xff")) is None
    assert failure_of(PeerFailed(TAKEN.SerializeToString())) == Failure(7, "taken")
