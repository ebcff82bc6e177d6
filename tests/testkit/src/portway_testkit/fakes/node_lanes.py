"""What stands in for the carrier below a node's sessions: lanes and pools that record, a visit that can be cut.

Here: the fakes, which move no byte. Not here: the sessions over them (node_sessions.py).
"""

from dataclasses import dataclass, field
from typing import TypeVar

from google.protobuf.message import Message
from portway_carrier.contract import FrameBudget, Lane
from portway_carrier.values import PoolCounts, PoolLimits
from portway_proto.v1.lane_pb2 import BindRefused, Bound, Failure, Goaway, Unbound, Welcome
from portway_proto.wire.frames import FrameType, Opening, RefusalReason
from portway_runtime.endpoints import Endpoint

M = TypeVar("M", bound=Message)

PEER = Endpoint("192.0.2.9", 40_000)
_ANSWERS: dict[int, type[Message]] = {
    FrameType.WELCOME: Welcome,
    FrameType.BOUND: Bound,
    FrameType.BIND_REFUSED: BindRefused,
    FrameType.UNBOUND: Unbound,
    FrameType.GOAWAY: Goaway,
}


@dataclass(eq=False)
class FakeLane:
    """Records what the node does with a lane. `said` are the messages that it sent, parsed."""

    said: list[Message] = field(default_factory=list)
    failed: Failure | None = None
    refused: RefusalReason | None = None
    closed: bool = False
    aborted: bool = False
    budget: FrameBudget | None = None
    peer: Endpoint = PEER

    def send(self, frame_type: int, payload: bytes = b"") -> None:
        if not self.closed:
            self.said.append(_ANSWERS[frame_type].FromString(payload))

    def charge_to(self, budget: FrameBudget) -> None:
        self.budget = budget

    def refuse(self, reason: RefusalReason, message: str = "") -> None:
        self.refused = reason

    def fail(self, payload: bytes) -> None:
        if not self.closed:
            self.failed = Failure.FromString(payload)
        self.closed = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def take(self, kind: type[M]) -> M:
        """Remove and return the oldest message, which must be of this kind."""
        answer = self.said.pop(0)
        assert isinstance(answer, kind), f"expected {kind.__name__}: {answer}"
        return answer


@dataclass(eq=False)
class FakePool:
    """A session's pool as its owner uses it."""

    limits: PoolLimits
    lanes: list[Lane] = field(default_factory=list)
    control: Lane | None = None
    retired: bool = False
    closed: bool = False
    busy: int = 0

    @property
    def counts(self) -> PoolCounts:
        return PoolCounts(len(self.lanes), self.busy, 0)

    def park(self, lane: Lane) -> None:
        self.lanes.append(lane)

    def want(self, lanes: int) -> None:
        raise AssertionError("a node's pool does not dial")

    def attach_control(self, control: Lane | None) -> None:
        self.control = control

    def retire(self) -> None:
        self.retired = True

    def close(self) -> None:
        self.closed = True


class FakeCarrier:
    """Makes pools and records them."""

    def __init__(self) -> None:
        self.pools: list[FakePool] = []

    def pool(self, control: Lane | None, limits: PoolLimits) -> FakePool:
        self.pools.append(FakePool(limits))
        return self.pools[-1]


@dataclass(eq=False)
class FakeVisit:
    """A visit that can be cut."""

    opening: Opening = field(default_factory=lambda: Opening("a" * 16, "192.0.2.1", 1))
    bytes_in: int = 0
    bytes_out: int = 0
    buffered: int = 0
    unreached_for: float | None = None
    is_cut: bool = False

    def close(self) -> None: ...

    def take_back(self) -> None: ...

    def cut(self) -> None:
        self.is_cut = True
