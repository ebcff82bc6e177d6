"""portway.engine.dialogue: the client's side of the control lane, frame by frame."""

from dataclasses import replace

import pytest
from portway.engine.dialogue import (
    BindRequest,
    Dialogue,
    LanesWanted,
    NodeLeaves,
    SessionCredentials,
    TunnelBound,
    TunnelRefused,
    TunnelUnbound,
)
from portway.engine.failures import Failure
from portway_proto.v1 import lane_pb2
from portway_proto.wire.errors import RemoteProtocolError
from portway_proto.wire.frames import FrameType
from portway_proto.wire.limits import PROTOCOL_VERSION
from portway_proto.wire.statements import SigningKey
from portway_runtime.version import VERSION
from portway_testkit.signers import SessionSigner

SIGNER = SessionSigner(key=SigningKey(bytes(32)))
CLAIM = SIGNER.claim(SigningKey(b"\x01" * 32), node="fra-1", unencrypted=True)
BIND = BindRequest(CLAIM, unencrypted=True, ticket=b"ticket")
HOST = f"{BIND.label}.fra.test"
WELCOME = lane_pb2.Welcome(
    session_id=b"id",
    session_secret=b"secret",
    resumed=True,
    node_time_ms=1500,
    node="fra-1",
    region="fra",
    resume_seconds=60,
    max_lanes=100,
)


@pytest.fixture
def dialogue() -> Dialogue:
    """One that has been welcomed."""
    dialogue = Dialogue("fra.test")
    dialogue.receive(FrameType.WELCOME, WELCOME.SerializeToString())
    return dialogue


def test_hello_begins_a_session() -> None:
    """Version, grant, nothing to resume."""
    frame_type, payload = Dialogue("fra.test").hello("grant", b"signature", None)
    assert frame_type == FrameType.HELLO
    assert lane_pb2.Hello.FromString(payload) == lane_pb2.Hello(
        version=PROTOCOL_VERSION, grant="grant", client_version=VERSION, signature=b"signature"
    )


def test_hello_goes_on_with_a_session() -> None:
    """Its id, and the secret that proves it."""
    hello = lane_pb2.Hello.FromString(
        Dialogue("fra.test").hello("grant", b"signature", SessionCredentials(b"id", b"secret"))[1]
    )
    assert (hello.session_id, hello.session_secret) == (b"id", b"secret")


def test_welcome_tells_all_it_has() -> None:
    """Times in seconds."""
    welcomed = Dialogue("fra.test").receive(FrameType.WELCOME, WELCOME.SerializeToString())
    assert welcomed.credentials == SessionCredentials(b"id", b"secret")  # type: ignore[union-attr]
    assert welcomed.resumed  # type: ignore[union-attr]
    assert (welcomed.resume_seconds, welcomed.max_lanes) == (60.0, 100)  # type: ignore[union-attr]
    assert welcomed.node_time == 1.5  # type: ignore[union-attr]


def test_bind_counts_up_and_carries_its_tunnel(dialogue: Dialogue) -> None:
    """Request numbers begin with 1."""
    first, (frame_type, payload) = dialogue.bind(BIND)
    second, _ = dialogue.bind(BIND)
    assert (first, second, frame_type) == (1, 2, FrameType.BIND)
    bind = lane_pb2.Bind.FromString(payload)
    assert bind == lane_pb2.Bind(request=1, claim=CLAIM.encoded, ticket=b"ticket")


def test_park_shows_the_session_and_its_secret() -> None:
    """It greets on each data lane."""
    frame_type, payload = Dialogue.park(SessionCredentials(b"id", b"secret"))
    assert frame_type == FrameType.PARK
    park = lane_pb2.Park.FromString(payload)
    assert (park.version, park.session_id, park.session_secret) == (PROTOCOL_VERSION, b"id", b"secret")


def test_unbind_and_goaway_are_said() -> None:
    """One names a label, the other needs no reason."""
    assert Dialogue.unbind("label") == (FrameType.UNBIND, lane_pb2.Unbind(label="label").SerializeToString())
    assert Dialogue.goaway() == (FrameType.GOAWAY, b"")


def test_moved_shows_what_was_signed_for_the_next_node() -> None:
    """To the node that is being left."""
    presence = SIGNER.present("fra-1", CLAIM)
    frame_type, payload = Dialogue.moved(CLAIM, presence)
    assert frame_type == FrameType.MOVED
    assert lane_pb2.Moved.FromString(payload) == lane_pb2.Moved(
        label=CLAIM.label, claim=CLAIM.encoded, presence=presence.encoded
    )


@pytest.mark.parametrize("grant", ["", "newer"])
def test_a_presence_may_bring_a_grant(grant: str) -> None:
    """A new one."""
    presence = SIGNER.present("fra-1", CLAIM)
    frame_type, payload = Dialogue.present(presence, grant)
    assert frame_type == FrameType.PRESENCE
    assert lane_pb2.Presence.FromString(payload) == lane_pb2.Presence(statement=presence.encoded, grant=grant)


def test_answers_name_their_requests(dialogue: Dialogue) -> None:
    """In any order."""
    dialogue.bind(BIND)
    dialogue.bind(BIND)
    bound = lane_pb2.Bound(
        request=2, host=HOST, port=443, unencrypted_host="b.test", unencrypted_port=20001, ticket=b"t"
    )
    assert dialogue.receive(FrameType.BOUND, bound.SerializeToString()) == TunnelBound(
        2, HOST, 443, "b.test", 20001, b"t"
    )
    refused = lane_pb2.BindRefused(
        request=1, failure=lane_pb2.Failure(code=lane_pb2.FAILURE_CODE_EPOCH, message="taken"), claim=b"claim"
    )
    assert dialogue.receive(FrameType.BIND_REFUSED, refused.SerializeToString()) == TunnelRefused(
        1, Failure(lane_pb2.FAILURE_CODE_EPOCH, "taken"), b"claim"
    )


def test_what_a_node_says_unasked(dialogue: Dialogue) -> None:
    """A tunnel is over, lanes are wanted, it leaves."""
    failure = lane_pb2.Failure(code=lane_pb2.FAILURE_CODE_EPOCH, message="taken")
    unbound = lane_pb2.Unbound(label="label", failure=failure, claim=b"claim")
    assert dialogue.receive(FrameType.UNBOUND, unbound.SerializeToString()) == TunnelUnbound(
        "label", Failure(lane_pb2.FAILURE_CODE_EPOCH, "taken"), b"claim"
    )
    assert dialogue.receive(FrameType.WANT, lane_pb2.Want(lanes=3).SerializeToString()) == LanesWanted(3)
    goaway = lane_pb2.Goaway(failure=lane_pb2.Failure(code=lane_pb2.FAILURE_CODE_SHUTDOWN))
    assert dialogue.receive(FrameType.GOAWAY, goaway.SerializeToString()) == NodeLeaves(
        Failure(lane_pb2.FAILURE_CODE_SHUTDOWN, "")
    )


def test_nothing_comes_before_welcome() -> None:
    """Whatever it is."""
    for frame_type in (FrameType.BOUND, FrameType.WANT, FrameType.GOAWAY, FrameType.HELLO):
        with pytest.raises(RemoteProtocolError, match="before WELCOME"):
            Dialogue("fra.test").receive(frame_type, b"")


@pytest.mark.parametrize(
    ("frame_type", "payload", "what"),
    [
        (FrameType.WELCOME, WELCOME.SerializeToString(), "WELCOME twice"),
        (FrameType.BOUND, lane_pb2.Bound(request=1, host=HOST, port=443).SerializeToString(), "does not wait"),
        (FrameType.BOUND, lane_pb2.Bound(request=0, host=HOST, port=443).SerializeToString(), "does not wait"),
        (FrameType.BIND_REFUSED, lane_pb2.BindRefused(request=9).SerializeToString(), "does not wait"),
        (FrameType.WANT, b"\xff", "malformed Want"),
        (FrameType.HELLO, b"", "not a node's to send"),
        (FrameType.BIND, b"", "not a node's to send"),
        (FrameType.MOVED, b"", "not a node's to send"),
        (FrameType.PRESENCE, b"", "not a node's to send"),
    ],
)
def test_a_node_that_breaks_the_protocol(dialogue: Dialogue, frame_type: int, payload: bytes, what: str) -> None:
    """Each is an error that says what was wrong."""
    with pytest.raises(RemoteProtocolError, match=what):
        dialogue.receive(frame_type, payload)


@pytest.mark.parametrize(
    "host",
    [
        "",
        f"{BIND.label}.fra.test\n2026 forged",
        f"{BIND.label}.fra.test\x1b[2J",
        f"{BIND.label}.fra.test\x9b2J",
        f"{BIND.label}.fra.test.",
        f"{BIND.label}.fra.evil.test",
        f"{BIND.label}.iad.test",
        f"{BIND.label}.test",
        f"{BIND.label.upper()}.fra.test",
        "aaaaaaaaaaaaaaaa.fra.test",
        f"{BIND.label}@evil.test/.fra.test",
    ],
)
def test_an_address_is_the_tunnel_s_own(dialogue: Dialogue, host: str) -> None:
    """Its label in the zone that a registry has named: a node can choose no other, and nothing to put behind it."""
    dialogue.bind(BIND)
    bound = lane_pb2.Bound(request=1, host=host, port=443)
    with pytest.raises(RemoteProtocolError, match="not this tunnel's") as raised:
        dialogue.receive(FrameType.BOUND, bound.SerializeToString())
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("port", [0, 65_536])
def test_an_address_has_a_port(dialogue: Dialogue, port: int) -> None:
    """From 1 to 65535."""
    dialogue.bind(BIND)
    with pytest.raises(RemoteProtocolError, match="not this tunnel's"):
        dialogue.receive(FrameType.BOUND, lane_pb2.Bound(request=1, host=HOST, port=port).SerializeToString())


@pytest.mark.parametrize(
    ("host", "port"),
    [("fra.test\x1b[2J", 20001), ("fra.test/x", 20001), ("fe80::1%\x1b", 20001), ("", 20001), ("a.test", 65_536)],
)
def test_a_raw_address_has_the_form_of_one(dialogue: Dialogue, host: str, port: int) -> None:
    """The host is the operator's choice, so it need not be in the zone."""
    dialogue.bind(BIND)
    bound = lane_pb2.Bound(request=1, host=HOST, port=443, unencrypted_host=host, unencrypted_port=port)
    with pytest.raises(RemoteProtocolError, match="an unencrypted address that is none"):
        dialogue.receive(FrameType.BOUND, bound.SerializeToString())


def test_a_raw_port_is_asked_for(dialogue: Dialogue) -> None:
    """A program that wants none is given none."""
    dialogue.bind(replace(BIND, unencrypted=False))
    bound = lane_pb2.Bound(request=1, host=HOST, port=443, unencrypted_host="a.test", unencrypted_port=20001)
    with pytest.raises(RemoteProtocolError, match="not asked for"):
        dialogue.receive(FrameType.BOUND, bound.SerializeToString())


def test_an_answer_comes_once(dialogue: Dialogue) -> None:
    """A second one would be to a request that has its answer."""
    dialogue.bind(BIND)
    bound = lane_pb2.Bound(request=1, host=HOST, port=443).SerializeToString()
    dialogue.receive(FrameType.BOUND, bound)
    with pytest.raises(RemoteProtocolError, match="does not wait"):
        dialogue.receive(FrameType.BOUND, bound)


@pytest.mark.parametrize("missing", ["session_id", "session_secret"])
def test_a_welcome_without_a_session(missing: str) -> None:
    """No lane could be parked with it."""
    welcome = lane_pb2.Welcome(session_id=b"id", session_secret=b"secret")
    welcome.ClearField(missing)  # type: ignore[arg-type]
    with pytest.raises(RemoteProtocolError, match="without a session"):
        Dialogue("fra.test").receive(FrameType.WELCOME, welcome.SerializeToString())


def test_secrets_are_not_in_the_repr() -> None:
    """Keys end up in logs and tracebacks."""
    assert "secret" not in repr(SessionCredentials(b"id", b"secret"))
