"""A client's, or a node's, end of a lane, frame by frame: says what none of ours would say.

Here: the TLS connection, frames both ways, the first frames of a session. Not here: visits' visitors (visitors.py),
clients that behave (portway itself).
"""

import itertools
import socket
import ssl
from collections import deque
from pathlib import Path
from typing import Self

import grpc
from portway_proto.v1.discovery_pb2 import LocateRequest
from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub
from portway_proto.v1.lane_pb2 import Bind, Bound, Failure, Hello, Park, Welcome
from portway_proto.wire.frames import FrameReader, FrameType, encode_frame
from portway_proto.wire.labels import Chain
from portway_proto.wire.limits import LINK_ALPN, MESH_ALPN, PROTOCOL_VERSION

from portway_testkit.cluster import LOOPBACK, Cluster, RunningNode
from portway_testkit.visitors import TIMEOUT, tls_context


def grant_of(cluster: Cluster) -> str:
    """A fresh token's grant, from the registry."""
    environment = cluster.environment()
    credentials = grpc.ssl_channel_credentials(cluster.ca.read_bytes())
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(environment["PORTWAY_REGISTRY"], credentials, options) as channel:
        metadata = (("authorization", f"Bearer {environment['PORTWAY_TOKEN']}"),)
        answer = DiscoveryStub(channel).Locate(LocateRequest(), timeout=TIMEOUT, metadata=metadata)
    return answer.grant.token


class HandLane:
    """`with HandLane(node, ca) as lane:` is connected; nothing was said yet.

    With `identity`, a certificate and its key, it is the lane of another node.
    """

    def __init__(self, node: RunningNode, ca: Path, identity: tuple[Path, Path] | None = None) -> None:
        plain = socket.create_connection((LOOPBACK, node.port), TIMEOUT)
        try:
            context = tls_context(ca, LINK_ALPN if identity is None else MESH_ALPN)
            if identity is not None:
                context.load_cert_chain(*identity)
            self._sock = context.wrap_socket(plain, server_hostname=node.config.server_name)
        except BaseException:
            plain.close()
            raise
        self._reader = FrameReader()
        self._heard: deque[tuple[int, bytes]] = deque()
        self._requests = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()

    def send(self, data: bytes) -> None:
        """Any bytes. Nothing is raised when the node has closed the lane: `ending` tells."""
        try:
            self._sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            pass

    def say(self, frame_type: int, payload: bytes = b"") -> None:
        self.send(encode_frame(frame_type, payload))

    def hear(self) -> tuple[int, bytes]:
        """The next frame that is no PING. Raises EOFError at the lane's end, however it ended."""
        while True:
            while self._heard:
                frame_type, payload = self._heard.popleft()
                if frame_type != FrameType.PING:
                    return frame_type, payload
            try:
                received = self._sock.recv(65_536)
            except (ConnectionResetError, ssl.SSLError) as error:
                raise EOFError from error
            if not received:
                raise EOFError
            self._heard.extend((frame_type, bytes(payload)) for frame_type, payload in self._reader.feed(received))

    def ending(self) -> Failure | None:
        """Listen until the node has closed it: what its FAIL said, if it said one."""
        failure = None
        while True:
            try:
                frame_type, payload = self.hear()
            except EOFError:
                return failure
            failure = Failure.FromString(payload) if frame_type == FrameType.FAIL else None

    def say_hello(self, grant: str, session: Welcome | None = None, *, version: int = PROTOCOL_VERSION) -> None:
        hello = Hello(version=version, grant=grant, client_version="by hand")
        if session is not None:
            hello.session_id, hello.session_secret = session.session_id, session.session_secret
        self.say(FrameType.HELLO, hello.SerializeToString())

    def begin(self, grant: str, session: Welcome | None = None) -> Welcome:
        """Become a control lane: HELLO, WELCOME."""
        self.say_hello(grant, session)
        frame_type, payload = self.hear()
        assert frame_type == FrameType.WELCOME, (frame_type, payload)
        return Welcome.FromString(payload)

    def park(self, session: Welcome, *, version: int = PROTOCOL_VERSION) -> None:
        """Become a data lane of a session."""
        park = Park(version=version, session_id=session.session_id, session_secret=session.session_secret)
        self.say(FrameType.PARK, park.SerializeToString())

    def bind(self, chain: Chain, epoch: int = 1) -> Bound:
        """On a control lane: bind the chain's label."""
        bind = Bind(request=next(self._requests), label=chain.label, epoch=epoch, proof=chain.proof(epoch))
        self.say(FrameType.BIND, bind.SerializeToString())
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
