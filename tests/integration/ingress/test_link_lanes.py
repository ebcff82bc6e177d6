"""Lanes whose client does not keep to the protocol: the lane ends, with a reason where there is one, and nobody else
is disturbed."""

import json
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import portway
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_GRANT,
    FAILURE_CODE_PROTOCOL,
    FAILURE_CODE_SESSION,
    FAILURE_CODE_VERSION,
    FailureCode,
    Unbind,
    Welcome,
)
from portway_proto.wire.frames import FrameType, encode_frame, encode_number
from portway_proto.wire.labels import Chain
from portway_proto.wire.limits import MAX_CONTROL, MAX_DATA, MAX_VISIT_FRAME, PROTOCOL_VERSION
from portway_registry import keys
from portway_registry.grants import new_key
from portway_registry.records import GrantKeyRecord, encode
from portway_registry.store.open import EmbeddedSpec, open_store
from portway_testkit.cluster import Cluster, NodePlan
from portway_testkit.hand_lane import HandLane, grant_of
from portway_testkit.visitors import visit

# `tunnel` is of a client that behaves: that one is served before and after each test.
pytestmark = [pytest.mark.shares_sockets, pytest.mark.usefixtures("tunnel")]

# The first bytes of frames that may not be.
GARBAGE = {
    "zeros": bytes(8),
    "an unknown type": b"\x7f\x00\x00\x00",
    "an old type that is not used": b"\x07\x00\x00\x04\x00\x00\x00\x01",
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
}
OVERSIZED = {
    "a control frame": b"\x13" + (MAX_CONTROL + 1).to_bytes(3),
    "a skipped frame": b"\x80" + (MAX_CONTROL + 1).to_bytes(3),
    "a visit's frame": b"\x05" + (MAX_VISIT_FRAME + 1).to_bytes(3),
    "DATA": b"\x01" + (MAX_DATA + 1).to_bytes(3),
    "a PING": b"\x08\x00\x00\x09",
}
BROKEN = {**GARBAGE, **{f"{name}, oversized": frame for name, frame in OVERSIZED.items()}}
UNKNOWN_BUT_SKIPPED = encode_frame(0x80, b"of a later version") + encode_frame(0xFF, bytes(MAX_CONTROL))


def gone(visitor: ssl.SSLSocket) -> bool:
    """Whether the next that comes is an end, of whatever kind."""
    try:
        return visitor.recv(100) == b""
    except OSError:
        return True


def frames(cases: dict[str, bytes]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("sent", cases.values(), ids=cases.keys())


@pytest.fixture
def lane(cluster: Cluster) -> Iterator[HandLane]:
    """Connected; nothing was said yet."""
    with HandLane(cluster.node, cluster.ca) as lane:
        yield lane


@pytest.fixture
def grant(cluster: Cluster) -> str:
    return grant_of(cluster)


@dataclass(frozen=True, slots=True)
class Attached:
    """A session made by hand: a control lane and one data lane."""

    control: HandLane
    data: HandLane
    welcome: Welcome

    def public(self) -> portway.Tunnel:
        """The public address of a label that is bound now."""
        bound = self.control.bind(Chain())
        return portway.Tunnel(bound.host, bound.port)


@pytest.fixture
def attached(cluster: Cluster, grant: str) -> Iterator[Attached]:
    with HandLane(cluster.node, cluster.ca) as control, HandLane(cluster.node, cluster.ca) as data:
        welcome = control.begin(grant)
        data.park(welcome)
        assert data.answers()
        yield Attached(control, data, welcome)


# Before HELLO or PARK.


@frames(BROKEN)
def test_a_lane_that_begins_with_what_is_no_frame(lane: HandLane, sent: bytes) -> None:
    """It is closed at the frame's header, whatever was to follow."""
    lane.send(sent)
    lane.ending()


@frames(
    {
        "BIND": encode_frame(FrameType.BIND),
        "GOAWAY": encode_frame(FrameType.GOAWAY),
        "WELCOME, the node's own": encode_frame(FrameType.WELCOME),
        "HELLO that is no Hello": encode_frame(FrameType.HELLO, b"\xff" * 20),
        "PARK that is no Park": encode_frame(FrameType.PARK, b"\x0a\xff"),
    }
)
def test_a_lane_that_begins_with_another_frame(lane: HandLane, sent: bytes) -> None:
    """HELLO or PARK comes first: the node says so and closes."""
    lane.send(sent)
    failure = lane.ending()
    assert failure is not None
    assert failure.code == FAILURE_CODE_PROTOCOL
    assert failure.message


@frames(
    {
        "OPEN": encode_frame(FrameType.OPEN, bytes(20)),
        "OPENED": encode_number(FrameType.OPENED, 1),
        "END": encode_number(FrameType.END, 1),
        "DATA": encode_frame(FrameType.DATA, b"hello"),
    }
)
def test_a_visits_frame_before_anything_else(lane: HandLane, sent: bytes) -> None:
    """No visit can be where nobody is known: the lane is closed."""
    lane.send(sent)
    lane.ending()


def test_a_first_frame_that_never_ends(lane: HandLane, grant: str) -> None:
    """A lane on which the first frame has not come whole in time is dropped, even when every byte but one was sent."""
    lane.send(encode_frame(FrameType.HELLO, grant.encode())[:-1])
    assert lane.ending() is None


def test_a_lane_that_says_nothing(lane: HandLane) -> None:
    """The same goes for one that shook hands and was silent since."""
    assert lane.ending() is None


@pytest.mark.parametrize("version", [0, PROTOCOL_VERSION + 1, 2**32 - 1])
@pytest.mark.parametrize("first", ["HELLO", "PARK"])
def test_another_version(lane: HandLane, grant: str, version: int, first: str) -> None:
    """A version that the node does not speak is refused with one that says which it speaks."""
    if first == "HELLO":
        lane.say_hello(grant, version=version)
    else:
        lane.park(Welcome(session_id=bytes(16), session_secret=bytes(32)), version=version)
    failure = lane.ending()
    assert failure is not None
    assert failure.code == FAILURE_CODE_VERSION
    assert f"version {PROTOCOL_VERSION} " in failure.message


def test_types_of_later_versions_are_skipped(lane: HandLane, grant: str) -> None:
    """Frames from 0x80 up are passed over, before HELLO and after it."""
    lane.send(UNKNOWN_BUT_SKIPPED)
    lane.begin(grant)
    lane.send(UNKNOWN_BUT_SKIPPED)
    assert lane.bind(Chain()).host


# Grants.


def refused(lane: HandLane, grant: str, code: "FailureCode.ValueType" = FAILURE_CODE_GRANT) -> str:
    """What the node says of a grant that it must not take."""
    lane.say_hello(grant)
    failure = lane.ending()
    assert failure is not None
    assert failure.code == code
    return failure.message


def header_and_claims(grant: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return jwt.get_unverified_header(grant), jwt.decode(grant, options={"verify_signature": False})


@pytest.mark.parametrize("grant", ["", "x", "a.b.c", "\N{SNOWMAN}" * 100, "." * 5_000])
def test_no_grant_at_all(lane: HandLane, grant: str) -> None:
    """What is no grant is refused as malformed."""
    assert "malformed" in refused(lane, grant)


def test_a_forged_grant(lane: HandLane, grant: str) -> None:
    """The right claims under another key's signature are worth nothing."""
    header, claims = header_and_claims(grant)
    forged = jwt.encode(claims, Ed25519PrivateKey.generate(), algorithm="EdDSA", headers=header)
    assert "signature" in refused(lane, forged)


def test_an_unsigned_grant(lane: HandLane, grant: str) -> None:
    """Nor are they without a signature."""
    header, claims = header_and_claims(grant)
    assert "signature" in refused(lane, jwt.encode(claims, "", algorithm="none", headers=header | {"alg": "none"}))


def test_a_changed_grant(lane: HandLane, grant: str) -> None:
    """A signature does not hold for other claims."""
    head, _, signature = grant.split(".")
    _, claims = header_and_claims(grant)
    raised = jwt.utils.base64url_encode(json.dumps(claims | {"max_tunnels": 10**6}).encode()).decode()
    assert "signature" in refused(lane, f"{head}.{raised}.{signature}")


def test_a_grant_of_another_cluster(lane: HandLane, tmp_path: Path) -> None:
    """A grant that another cluster signed is none here."""
    with Cluster(tmp_path, (NodePlan("fra-1", "fra"),)) as other:
        assert "not accepted" in refused(lane, grant_of(other))


@pytest.fixture
async def known_key(tmp_path: Path) -> GrantKeyRecord:
    """A key that is in the store of a cluster before it first starts."""
    record = new_key("1", active_from_ms=0)
    failures: list[BaseException] = []
    store = open_store(EmbeddedSpec(tmp_path / "registry.db"), on_failure=failures.append)
    assert await store.put(keys.grant_key("1"), encode(record))
    await store.close()
    return record


def test_an_expired_grant(tmp_path: Path, known_key: GrantKeyRecord) -> None:
    """One that ended longer ago than clocks may differ is refused, rightly signed as it is; one within that is not."""
    private = Ed25519PrivateKey.from_private_bytes(known_key.private_key)
    with Cluster(tmp_path, store=f"embedded:{tmp_path / 'registry.db'}") as cluster:
        header, claims = header_and_claims(grant_of(cluster))

        def ended(seconds: float) -> str:
            times = {"iat": claims["iat"] - 7_200, "exp": int(time.time() - seconds)}
            return jwt.encode(claims | times, private, algorithm="EdDSA", headers=header)

        with HandLane(cluster.node, cluster.ca) as lane:
            assert "expired" in refused(lane, ended(16 * 60))
        with HandLane(cluster.node, cluster.ca) as lane:
            lane.begin(ended(14 * 60))


# PARK.


def test_a_wrong_secret_and_an_unknown_session_look_alike(cluster: Cluster, attached: Attached) -> None:
    """PARK with a session's id and not its secret is answered as if there were no such session."""
    welcome = attached.welcome
    answers = []
    for session_id, secret in (
        (welcome.session_id, bytes(32)),
        (welcome.session_id, welcome.session_secret[:-1]),
        (welcome.session_id, b""),
        (bytes(16), welcome.session_secret),
        (b"", b""),
    ):
        with HandLane(cluster.node, cluster.ca) as lane:
            lane.park(Welcome(session_id=session_id, session_secret=secret))
            answers.append(lane.ending())
    assert answers[0] is not None
    assert answers[0].code == FAILURE_CODE_SESSION
    assert answers == [answers[0]] * len(answers)
    assert attached.control.answers()


# A control lane.


@frames(
    {
        **BROKEN,
        "DATA": encode_frame(FrameType.DATA, b"hello"),
        "OPENED of no visit": encode_number(FrameType.OPENED, 1),
        "a second HELLO": encode_frame(FrameType.HELLO),
        "PARK": encode_frame(FrameType.PARK),
        "WANT, the node's own": encode_frame(FrameType.WANT),
        "BIND that is no Bind": encode_frame(FrameType.BIND, b"\xff" * 20),
        "UNBIND that is no Unbind": encode_frame(FrameType.UNBIND, b"\x0a\xff"),
    }
)
def test_a_control_lane_that_breaks_the_protocol(cluster: Cluster, attached: Attached, grant: str, sent: bytes) -> None:
    """It is closed; the session stays for a while, and a client that behaves takes it up again."""
    attached.control.bind(Chain())
    attached.control.send(sent)
    attached.control.ending()
    with HandLane(cluster.node, cluster.ca) as control:
        assert control.begin(grant, attached.welcome).resumed


def test_half_a_frame_and_then_the_end(cluster: Cluster, attached: Attached, grant: str) -> None:
    """A control lane that ends in the middle of a frame is away like any other; the half frame has no effect."""
    address = attached.public()
    unbind = Unbind(label=address.host.partition(".")[0]).SerializeToString()
    attached.control.send(encode_frame(FrameType.UNBIND, unbind)[:-1])
    attached.control.close()
    with HandLane(cluster.node, cluster.ca) as control:
        assert control.begin(grant, attached.welcome).resumed
        with visit(address, cluster.ca):
            assert attached.data.hear()[0] == FrameType.OPEN


# A data lane.

ON_AN_IDLE_LANE = {
    **BROKEN,
    "DATA": encode_frame(FrameType.DATA, b"hello"),
    "OPEN": encode_frame(FrameType.OPEN, bytes(20)),
    "OPENED of no visit": encode_number(FrameType.OPENED, 1),
    "END of no visit": encode_number(FrameType.END, 7),
    "END without a number": encode_frame(FrameType.END),
    "PARK again": encode_frame(FrameType.PARK),
    "HELLO": encode_frame(FrameType.HELLO),
    "BIND": encode_frame(FrameType.BIND),
}


@frames(ON_AN_IDLE_LANE)
def test_an_idle_lane_that_breaks_the_protocol(attached: Attached, sent: bytes) -> None:
    """It is closed, and its session goes on."""
    attached.data.send(sent)
    attached.data.ending()
    assert attached.control.answers()


BEFORE_OPENED = {
    **BROKEN,
    "DATA": encode_frame(FrameType.DATA, b"hello"),
    "END": encode_number(FrameType.END, 1),
    "OPENED of another visit": encode_number(FrameType.OPENED, 2),
    "REFUSED without a reason": encode_number(FrameType.REFUSED, 1),
}
OPENED = encode_number(FrameType.OPENED, 1)
AFTER_OPENED = {
    **BROKEN,
    "OPENED again": OPENED,
    "REFUSED": encode_frame(FrameType.REFUSED, b"\x00\x00\x00\x01\x02"),
    "DATA after END": encode_number(FrameType.END, 1) + encode_frame(FrameType.DATA, b"more"),
    "END of another visit": encode_number(FrameType.END, 2),
    "OPEN": encode_frame(FrameType.OPEN, bytes(20)),
}
WITH_A_VISIT = {f"before OPENED: {name}": sent for name, sent in BEFORE_OPENED.items()} | {
    f"after OPENED: {name}": OPENED + sent for name, sent in AFTER_OPENED.items()
}


@frames(WITH_A_VISIT)
def test_a_lane_that_breaks_the_protocol_in_a_visit(cluster: Cluster, attached: Attached, sent: bytes) -> None:
    """Its visitor is broken off, its session goes on, and the next visitor is served on another lane."""
    address = attached.public()
    with visit(address, cluster.ca) as visitor:
        assert attached.data.hear()[0] == FrameType.OPEN
        attached.data.send(sent)
        attached.data.ending()
        assert gone(visitor)
    with HandLane(cluster.node, cluster.ca) as fresh:
        fresh.park(attached.welcome)
        with visit(address, cluster.ca) as visitor:
            assert fresh.hear()[0] == FrameType.OPEN
            fresh.send(OPENED + encode_frame(FrameType.DATA, b"hello"))
            assert visitor.recv(100) == b"hello"


def test_half_a_frame_of_a_visit(cluster: Cluster, attached: Attached) -> None:
    """What came of DATA before its lane was lost has been passed on; the visitor is broken off then."""
    with visit(attached.public(), cluster.ca) as visitor:
        assert attached.data.hear()[0] == FrameType.OPEN
        attached.data.send(OPENED + encode_frame(FrameType.DATA, b"half of it")[:8])
        assert visitor.recv(100) == b"half"
        attached.data.close()
        assert gone(visitor)
    assert attached.control.answers()


def test_frames_of_a_visit_that_is_over_are_dropped(cluster: Cluster, attached: Attached) -> None:
    """A late RESET, END or OPENED of the visit before does not disturb the lane's next one."""
    address = attached.public()
    lane = attached.data
    with visit(address, cluster.ca):
        assert lane.hear()[0] == FrameType.OPEN
        lane.send(OPENED)
    assert lane.hear()[0] == FrameType.RESET
    lane.say(FrameType.RESET, (1).to_bytes(4))
    for late in (FrameType.RESET, FrameType.END, FrameType.OPENED):
        lane.say(late, (1).to_bytes(4))
    with visit(address, cluster.ca) as visitor:
        assert lane.hear()[0] == FrameType.OPEN
        lane.say(FrameType.RESET, (1).to_bytes(4))
        lane.send(encode_number(FrameType.OPENED, 2) + encode_frame(FrameType.DATA, b"hello"))
        assert visitor.recv(100) == b"hello"
