"""A tunnel at a node of the test's choice, with an epoch of its choice, that answers with its own name.

Here: a session with one label and a few data lanes, frame by frame. Not here: local servers (visitors/origins.py), the
real client, which chooses nodes and epochs itself.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from portway_proto.v1.lane_pb2 import BindRefused, Bound, Failure, Goaway, Moved, Unbound
from portway_proto.wire.frames import FrameType, Opening, RefusalReason, decode_open, encode_number, encode_refused
from portway_proto.wire.statements import Claim, Presence, SigningKey

from portway_testkit.clusters.cluster import Cluster, RunningNode
from portway_testkit.clusters.hand_grants import Grants, HandGrant, grants_of
from portway_testkit.links.hand_lane import HandLane
from portway_testkit.waiting import eventually

_LANES = 4
_PATIENCE = 30.0


class HandTunnel:
    """`with HandTunnel(node, ca, grants, key, epoch, name) as tunnel:` is bound, or `refused` says why it is not.

    Each visitor is told the name and, after `expected` bytes of its own, their SHA-256.
    """

    def __init__(
        self,
        node: RunningNode,
        ca: Path,
        grants: Grants | HandGrant,
        key: SigningKey,
        epoch: int,
        name: str,
        *,
        expected: int = 0,
    ) -> None:
        self.name = name
        self.expected = expected
        self.refuses: RefusalReason | None = None
        self.openings: list[Opening] = []
        self.refused: Failure | None = None
        self.unbound: Failure | None = None
        self.owner = b""  # the claim that came with `unbound`
        self._left = False
        self._control = HandLane(node, ca)
        self._lanes: list[HandLane] = []
        self._threads: list[threading.Thread] = []
        session = self._control.begin(grants)
        self._control.say_bind(key, epoch)
        frame_type, payload = self._control.hear()
        if frame_type == FrameType.BIND_REFUSED:
            self.refused = BindRefused.FromString(payload).failure
            return
        assert frame_type == FrameType.BOUND
        self.host = Bound.FromString(payload).host
        for _ in range(_LANES):
            lane = HandLane(node, ca)
            lane.park(session)
            self._lanes.append(lane)
            self._start(self._serve, lane)
        self._start(self._listen, self._control)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Send GOAWAY and wait until everything is closed. May be called again."""
        if self._left:
            return
        self._left = True
        self._control.say(FrameType.GOAWAY, Goaway().SerializeToString())
        for thread in self._threads:
            thread.join(_PATIENCE)
        for lane in (self._control, *self._lanes):
            lane.close()

    @property
    def grant(self) -> HandGrant:
        """What its session signs with."""
        return self._control.grant

    def says_moved(self, claim: Claim, presence: Presence) -> None:
        """Send MOVED for a tunnel. The node has read it when `leave` returns."""
        moved = Moved(label=claim.label, claim=claim.encoded, presence=presence.encoded)
        self._control.say(FrameType.MOVED, moved.SerializeToString())

    def evicted(self) -> Failure:
        """Wait until the node has taken the label away; returns its message."""
        eventually(lambda: self.unbound is not None)
        assert self.unbound is not None
        return self.unbound

    def _start(self, run: Callable[[HandLane], None], lane: HandLane) -> None:
        thread = threading.Thread(target=run, args=(lane,), name=f"tunnel {self.name}")
        self._threads.append(thread)
        thread.start()

    def _listen(self, lane: HandLane) -> None:
        try:
            while True:
                frame_type, payload = lane.hear(idle=True)
                if frame_type == FrameType.UNBOUND:
                    unbound = Unbound.FromString(payload)
                    self.owner, self.unbound = unbound.claim, unbound.failure
        except EOFError:
            pass

    def _serve(self, lane: HandLane) -> None:
        digest, left, number = hashlib.sha256(), 0, 0
        try:
            while True:
                frame_type, payload = lane.hear(idle=True)
                if frame_type == FrameType.OPEN:
                    number, opening = decode_open(payload)
                    self.openings.append(opening)
                    if self.refuses is not None:
                        lane.send(encode_refused(number, self.refuses))
                        number = 0
                        continue
                    lane.send(encode_number(FrameType.OPENED, number))
                    digest, left = hashlib.sha256(), self.expected
                    if not left:
                        self._answer(lane, number, digest.hexdigest())
                elif frame_type == FrameType.DATA and number:
                    digest.update(payload)
                    left -= len(payload)
                    if not left:
                        self._answer(lane, number, digest.hexdigest())
                elif frame_type == FrameType.RETIRE:
                    return
        except EOFError:
            pass

    def _answer(self, lane: HandLane, number: int, digest: str) -> None:
        lane.say(FrameType.DATA, f"{self.name} {digest}\n".encode())
        lane.send(encode_number(FrameType.END, number))


Bind = Callable[..., HandTunnel]


@contextmanager
def binding() -> Iterator[Bind]:
    """Makes tunnels at nodes of the test's choice, of one client in each cluster unless a grant is given; what is left
    of them is closed at the end of the block."""
    with ExitStack() as stack:
        grants: dict[int, Grants] = {}

        def make(
            cluster: Cluster,
            node: str,
            name: str,
            key: SigningKey | None = None,
            epoch: int = 1,
            grant: HandGrant | None = None,
            **how: Any,
        ) -> HandTunnel:
            of = grant or grants.get(id(cluster)) or grants.setdefault(id(cluster), grants_of(cluster))
            tunnel = HandTunnel(cluster.nodes[node], cluster.ca, of, key or SigningKey(), epoch, name, **how)
            return stack.enter_context(tunnel)

        yield make
