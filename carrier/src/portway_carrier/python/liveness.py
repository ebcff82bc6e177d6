"""What looks after lanes and streams once a second: PING, silence, RESETs without an answer, peers that died behind a
full buffer (DESIGN §4, "Life").

Silence ends a lane when it is due and not up to a second later: a client in a black hole has its URL back that much
earlier.
"""

import time
from typing import TYPE_CHECKING, Final

from portway_proto.wire.frames import FrameType

from portway_carrier.errors import ConnectionLost, PeerSilent, ProtocolViolation
from portway_carrier.python.lanes.lane import PyLane
from portway_carrier.python.transport import kernel

if TYPE_CHECKING:
    from portway_carrier.python.carrier import PythonCarrier

# The kernel is asked this often what it knows of connections with a visit.
_KERNEL_INTERVAL: Final = 5.0
# Of the period: peers that fall silent one after the other are noticed together, not each by a walk of its own.
_SHORTEST_SHARE: Final = 0.1


class Sweep:
    """One timer for everything a carrier owns; thousands of lanes cost a walk, not thousands of timers."""

    def __init__(self, carrier: "PythonCarrier") -> None:
        self._carrier = carrier
        # A process that was stopped (a laptop's lid, SIGSTOP) must not take its own sleep for the peers' silence.
        limits = carrier.limits
        shortest = min(limits.ping_interval, limits.unacknowledged, limits.open_answer)
        self._period = min(1.0, shortest / 4)
        now = carrier.loop.time()
        self._due = now + self._period
        self._kernel_interval = min(_KERNEL_INTERVAL, carrier.limits.unacknowledged / 4)
        self._kernel_at = now + self._kernel_interval
        self._timer = carrier.loop.call_at(self._due, self._run)

    def close(self) -> None:
        self._timer.cancel()

    def _run(self) -> None:
        now = self._carrier.loop.time()
        late = now - self._due
        self._again_at(now + self._period)
        if late > self._carrier.limits.ping_interval:
            for lane in self._carrier.lanes:
                lane.quiet_since, lane.pings = now, 0
        for lane in list(self._carrier.lanes):
            self._look_at_lane(lane, now)
        silent_for = self._carrier.limits.ping_interval * self._carrier.limits.silences
        soonest = min((lane.quiet_since + silent_for for lane in self._carrier.lanes if lane.pings), default=self._due)
        if soonest < self._due:
            self._again_at(max(soonest, now + self._period * _SHORTEST_SHARE))
        for pool in list(self._carrier.pools):
            pool.sweep(now)
        if now >= self._kernel_at:
            self._kernel_at = now + self._kernel_interval
            self._ask_kernel()

    def _again_at(self, when: float) -> None:
        self._timer.cancel()
        self._due = when
        self._timer = self._carrier.loop.call_at(when, self._run)

    def _look_at_lane(self, lane: PyLane, now: float) -> None:
        limits = self._carrier.limits
        if lane.reset_at is not None and now - lane.reset_at > limits.reset_answer:
            lane.abort(ProtocolViolation("a RESET was not answered"))
            return
        if lane.asked_at is not None and now - lane.asked_at > limits.open_answer and lane.visit is not None:
            lane.visit.lane_unanswered()
        if not lane.state.idle:
            lane.quiet_since, lane.pings = now, 0
            return
        quiet = now - lane.quiet_since
        if quiet >= limits.ping_interval * limits.silences:
            lane.abort(PeerSilent(f"nothing was heard for {quiet:.0f} s"))
        elif quiet >= limits.ping_interval * (lane.pings + 1):
            lane.pings += 1
            lane.send(FrameType.PING, time.monotonic_ns().to_bytes(8, "big"))

    def _ask_kernel(self) -> None:
        """Of idle lanes PING finds out; whoever has a visit is never asked anything, and may be paused besides."""
        for lane in list(self._carrier.lanes):
            if not lane.state.idle and lane.transport is not None:
                state = kernel.tcp_state(lane.transport)
                if state is not None and self._dead(state):
                    lane.abort(self._why(state))
        for stream in list(self._carrier.streams):
            if stream.transport is not None:
                state = kernel.tcp_state(stream.transport)
                if state is not None and self._dead(state):
                    stream.drop()
                    stream.failed(self._why(state))

    def _dead(self, state: kernel.TcpState) -> bool:
        return state.gone or (state.unacknowledged and state.silent > self._carrier.limits.unacknowledged)

    def _why(self, state: kernel.TcpState) -> ConnectionLost | PeerSilent:
        if state.gone:
            return ConnectionLost("the peer reset the connection while it was not read")
        return PeerSilent(f"the peer acknowledged nothing for {state.silent:.0f} s")
