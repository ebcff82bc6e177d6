"""A client's or a node's end of a lane, frame by frame: sends what Portway's own code would not send.

Here: the TLS connection, frames in both directions, the first frames of a session. Not here: visitors (visitors/),
clients that follow the protocol (portway itself).
"""

import itertools
import ssl
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from portway.tunnel import Tunnel
from portway_proto.v1.lane_pb2 import Bind, Bound, Failure, Hello, Park, Presence, Welcome
from portway_proto.wire.frames import FrameReader, FrameType, encode_frame
from portway_proto.wire.limits import (
    LINK_ALPN,
    MAX_CONTROL,
    MAX_DATA,
    MAX_PING,
    MAX_VISIT_FRAME,
    MESH_ALPN,
    PROTOCOL_VERSION,
)
from portway_proto.wire.statements import Claim, SigningKey

from portway_testkit.clusters.cluster import LOOPBACK, RunningNode
from portway_testkit.clusters.hand_grants import Grants, HandGrant, forged_hello
from portway_testkit.visitors.visiting import TIMEOUT, connect_tls, tls_context

# First bytes of frames that no lane accepts in any state.
BROKEN_FRAMES: Final = {
    "zeros": bytes(8),
    "an unknown type": b"\x7f\x00\x00\x00",
    "a type between those that are used": b"\x07\x00\x00\x04\x00\x00\x00\x01",
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "an oversized control frame": b"\x13" + (MAX_CONTROL + 1).to_bytes(3),
    "an oversized frame to skip": b"\xfe" + (MAX_CONTROL + 1).to_bytes(3),
    "an oversized frame of a visit": b"\x05" + (MAX_VISIT_FRAME + 1).to_bytes(3),
    "oversized DATA": b"\x01" + (MAX_DATA + 1).to_bytes(3),
    "an oversized PING": b"\x08" + (MAX_PING + 1).to_bytes(3),
}


class HandLane:
    """`with HandLane(node, ca) as lane:` is connected; nothing has been sent yet.

    With `identity`, a certificate and its key, it is the lane of another node.
    """

    def __init__(self, node: RunningNode, ca: Path, identity: tuple[Path, Path] | None = None) -> None:
        context = tls_context(ca, LINK_ALPN if identity is None else MESH_ALPN)
        if identity is not None:
            context.load_cert_chain(*identity)
        self._sock = connect_tls(context, (LOOPBACK, node.port), node.config.server_name)
        self._reader = FrameReader()
        self._heard: deque[tuple[int, bytes]] = deque()
        self._requests = itertools.count(1)
        self._grant: HandGrant | None = None
        self._node = node.config.name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()

    def send(self, data: bytes) -> None:
        """Send any bytes. Raises nothing when the node has closed the lane; `ending` finds that out."""
        try:
            self._sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            pass

    def say(self, frame_type: int, payload: bytes = b"") -> None:
        self.send(encode_frame(frame_type, payload))

    def hear(self, *, idle: bool = False) -> tuple[int, bytes]:
        """The next frame, after answering any PING. Raises EOFError when the lane ends in any way. idle: that may take
        long, and a PING is news enough of the node meanwhile."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            while self._heard:
                frame_type, payload = self._heard.popleft()
                if frame_type != FrameType.PING:
                    return frame_type, payload
                self.say(FrameType.PONG, payload)
                if idle:
                    deadline = time.monotonic() + TIMEOUT
            assert time.monotonic() < deadline, "the node says nothing"
            try:
                received = self._sock.recv(65_536)
            except (ConnectionError, ssl.SSLError) as error:  # Python 3.13 may report a reset as a broken pipe
                raise EOFError from error
            if not received:
                raise EOFError
            self._heard.extend((frame_type, bytes(payload)) for frame_type, payload in self._reader.feed(received))

    def ending(self) -> Failure | None:
        """Read until the node has closed the lane. Returns the Failure of its FAIL, if any; fails if it stays open."""
        failure = None
        while True:
            try:
                frame_type, payload = self.hear()
            except EOFError:
                return failure
            failure = Failure.FromString(payload) if frame_type == FrameType.FAIL else None

    @property
    def certificate(self) -> bytes:
        """What the node has shown."""
        certificate = self._sock.getpeercert(binary_form=True)
        assert certificate is not None
        return certificate

    def say_hello(
        self, grant: Grants | HandGrant | str, session: Welcome | None = None, *, version: int = PROTOCOL_VERSION
    ) -> None:
        """Send HELLO with a grant for a session key of its own, that of the session to resume, or any text as grant."""
        self.say(FrameType.HELLO, self.hello(grant, session, version=version).SerializeToString())

    def hello(
        self, grant: Grants | HandGrant | str, session: Welcome | None = None, *, version: int = PROTOCOL_VERSION
    ) -> Hello:
        """What `say_hello` sends, signed for the node that has shown its certificate on this lane."""
        certificate = self.certificate
        if isinstance(grant, str):
            return forged_hello(grant, self._node, certificate, version=version)
        self._grant = grant.of(session) if isinstance(grant, Grants) else grant
        return self._grant.hello(self._node, certificate, session, version=version)

    def begin(self, grant: Grants | HandGrant, session: Welcome | None = None) -> Welcome:
        """Make this a control lane: HELLO, WELCOME."""
        self.say_hello(grant, session)
        frame_type, payload = self.hear()
        assert frame_type == FrameType.WELCOME, (frame_type, payload)
        welcome = Welcome.FromString(payload)
        assert self._grant is not None
        if isinstance(grant, Grants):
            grant.began(welcome, self._grant)
        return welcome

    @property
    def grant(self) -> HandGrant:
        """What the session signs with."""
        assert self._grant is not None, "no HELLO was sent"
        return self._grant

    def park(self, session: Welcome, *, version: int = PROTOCOL_VERSION) -> None:
        """Make this a data lane of a session: PARK."""
        park = Park(version=version, session_id=session.session_id, session_secret=session.session_secret)
        self.say(FrameType.PARK, park.SerializeToString())

    def say_bind(self, key: SigningKey, epoch: int = 1, *, unencrypted: bool = False) -> None:
        """Send PRESENCE and BIND, on a control lane."""
        self.say_claim(self.grant.claim(key, epoch, self._node, unencrypted=unencrypted))

    def say_claim(self, claim: Claim) -> None:
        """Send PRESENCE, which lists it, and BIND with any claim."""
        listed = [one for one in self.grant.signer.held if one.node == self._node]
        presence = self.grant.present(self._node, *dict.fromkeys([*listed, claim]))
        self.say(FrameType.PRESENCE, Presence(statement=presence.encoded).SerializeToString())
        bind = Bind(request=next(self._requests), claim=claim.encoded)
        self.say(FrameType.BIND, bind.SerializeToString())

    def bind(self, key: SigningKey, epoch: int = 1) -> Bound:
        """Bind the key's label, on a control lane."""
        self.say_bind(key, epoch)
        frame_type, payload = self.hear()
        assert frame_type == FrameType.BOUND, (frame_type, payload)
        return Bound.FromString(payload)

    def answers(self) -> bool:
        """Whether the node answers a PING."""
        self.say(FrameType.PING, b"there?")
        try:
            return self.hear() == (FrameType.PONG, b"there?")
        except EOFError:
            return False


@dataclass(frozen=True, slots=True)
class HandSession:
    """A session with its control lane and one data lane."""

    control: HandLane
    data: HandLane
    welcome: Welcome

    def public(self) -> Tunnel:
        """Bind a label; returns its public address."""
        bound = self.control.bind(SigningKey())
        return Tunnel(bound.host, bound.port)
