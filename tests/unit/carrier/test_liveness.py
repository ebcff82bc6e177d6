"""portway_carrier.python.liveness: when a lane is pinged, and when its peer is taken for dead."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from portway_carrier.errors import CarrierError, PeerSilent
from portway_carrier.python.liveness import Liveness
from portway_carrier.python.transport import kernel
from portway_carrier.values import Limits
from portway_proto.wire.frames import FrameType


class Loop:
    """A loop whose clock is moved by the test."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.due: dict[object, tuple[float, Callable[[], None]]] = {}
        self.runs = 0

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[[], None]) -> Any:
        handle = SimpleNamespace()
        handle.cancel = lambda: self.due.pop(id(handle), None)
        self.due[id(handle)] = (when, call)
        return handle

    def run(self, seconds: float) -> None:
        """Let `seconds` pass."""
        until = self.now + seconds
        while self.due and (next_due := min(self.due.items(), key=lambda item: item[1][0]))[1][0] <= until:
            key, (when, call) = next_due
            del self.due[key]
            self.now = max(self.now, when)
            self.runs += 1
            call()
        self.now = until


class Lane:
    """A lane as Liveness sees it."""

    def __init__(self, loop: Loop) -> None:
        self.state = SimpleNamespace(idle=True)
        self.reset_sent_at = self.open_sent_at = self.transport = None
        self.silent_since = loop.now
        self.unanswered_pings = 0
        self.asked: list[float] = []
        self.dead: float | None = None
        self._loop = loop

    def send(self, frame_type: FrameType, payload: bytes) -> None:
        assert frame_type is FrameType.PING
        self.asked.append(self._loop.now - self.silent_since)

    def abort(self, error: CarrierError) -> None:
        assert isinstance(error, PeerSilent)
        self.dead = self._loop.now - self.silent_since


class Around:
    """Liveness over lanes of the test's choice."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.lanes: set[Any] = set()
        self.streams: list[Any] = []
        core: Any = SimpleNamespace(loop=self.loop, limits=Limits(), lanes=self.lanes, pools=(), streams=self.streams)
        self.liveness = Liveness(core)

    def lane(self) -> Lane:
        """A lane on which bytes were received just now, and no more unless the test says so."""
        lane = Lane(self.loop)
        abort = lane.abort

        def gone(error: CarrierError) -> None:
            self.lanes.discard(lane)
            abort(error)

        lane.abort = gone  # type: ignore[method-assign]
        self.lanes.add(lane)
        return lane


@pytest.fixture
def around() -> Around:
    return Around()


@pytest.mark.parametrize("after", [0.0, 0.01, 0.5, 0.99])
def test_silence_ends_a_lane_when_it_is_due(around: Around, after: float) -> None:
    """Ten seconds after the last byte, whenever between two sweeps that was."""
    around.loop.run(3 + after)
    lane = around.lane()
    around.loop.run(9.95)
    assert lane.dead is None
    around.loop.run(1)
    assert lane.dead == pytest.approx(10.0, abs=0.11)
    assert len(lane.asked) == 1
    assert 5.0 <= lane.asked[0] <= 6.0


def test_lanes_that_fall_silent_one_after_the_other_share_their_walks(around: Around) -> None:
    """At most ten sweeps per second, however many lanes there are, and one while no lane is silent."""
    around.loop.run(60)
    assert around.loop.runs == 60
    silent = []
    for _ in range(200):
        around.loop.run(0.005)
        silent.append(around.lane())
    before = around.loop.runs
    around.loop.run(12)
    assert all(lane.dead is not None and lane.dead < 10.12 for lane in silent)
    assert around.loop.runs - before < 12 + 20


def test_a_peer_that_answers_lives(around: Around) -> None:
    """One PING is sent in each silence, and the answer ends it."""
    lane = around.lane()
    for _ in range(10):
        around.loop.run(7)
        lane.silent_since, lane.unanswered_pings = around.loop.now, 0
    assert lane.dead is None
    assert len(lane.asked) == 10


def test_a_process_that_slept_takes_nobody_for_dead(around: Around) -> None:
    """It received nothing meanwhile, so silence is counted from when it woke."""
    lane = around.lane()
    around.loop.run(3)
    around.loop.now += 3_600
    around.loop.run(9)
    assert lane.dead is None
    around.loop.run(2)
    assert lane.dead is not None


@pytest.mark.parametrize("pause", [0.5, 2.0, 4.0, 4.9])
@pytest.mark.parametrize("silent", [2.0, 4.8, 5.0, 5.01, 6.0])
def test_a_pause_of_this_process_is_no_silence(around: Around, silent: float, pause: float) -> None:
    """Also a short one, but for the part of it in which no sweep was due; and no lane ends that was not pinged."""
    lane = around.lane()
    around.loop.run(silent)
    around.loop.now += pause
    around.loop.run(max(9.95 - pause, 8.95) - silent)
    assert lane.dead is None
    around.loop.run(1.2)
    assert lane.dead is not None
    assert len(lane.asked) == 1


@pytest.mark.parametrize("pause", [6.0, 40.0])
def test_what_was_sent_after_a_pause_of_this_process_has_time_to_be_acknowledged(
    around: Around, monkeypatch: pytest.MonkeyPatch, pause: float
) -> None:
    """The kernel, which has heard nothing since before the pause, is asked at the next interval; a peer that has not
    acknowledged it by then is dead."""
    told: list[CarrierError] = []
    state = kernel.TcpState(gone=False, unacknowledged=True, silent=40.0, quiet=40.0)
    monkeypatch.setattr(kernel, "tcp_state", lambda transport: state)
    around.loop.run(4.5)
    around.streams.append(SimpleNamespace(transport=object(), drop=lambda: None, failed=told.append))
    around.loop.now += pause
    around.loop.run(4.9)
    assert not told
    around.loop.run(1.1)
    assert [type(error) for error in told] == [PeerSilent]


def test_a_lane_with_a_visit_is_never_asked(around: Around) -> None:
    """A slow visitor's full buffers would look like death; silence is counted from the end of the visit."""
    lane = around.lane()
    lane.state.idle = False
    around.loop.run(100)
    assert (lane.asked, lane.dead) == ([], None)
    lane.state.idle = True
    around.loop.run(9)
    assert lane.dead is None
    around.loop.run(2)
    assert lane.dead is not None
