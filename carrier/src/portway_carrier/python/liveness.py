"""Liveness: one timer, once a second, for all lanes, streams and pools of a carrier.

It sends PING on silent lanes, ends those whose peer is silent or leaves a RESET unanswered, gives up OPENs without an
answer, and ends connections whose peer died behind a full buffer. A silent lane ends when its time is up and not at the
next full second: the URL of a client in a black hole works again that much earlier.
"""

import time
from typing import Final

from portway_proto.wire.frames import FrameType

from portway_carrier.errors import ConnectionLost, PeerSilent, ProtocolViolation
from portway_carrier.python.core.core import Core, LiveLane
from portway_carrier.python.transport import kernel

# Seconds between two looks at TCP_INFO of each connection with a visit.
_KERNEL_INTERVAL: Final = 5.0
# The least time between two sweeps, as a part of the period: peers that fall silent one after the other are noticed
# by one sweep, not each by its own.
_SHORTEST_SHARE: Final = 0.1


class Liveness:
    """Sweeps over everything in `core`, from now on. Thousands of lanes cost a walk, not thousands of timers."""

    def __init__(self, core: Core) -> None:
        self._core = core
        limits = core.limits
        shortest = min(limits.ping_interval, limits.unacknowledged, limits.open_answer)
        self._period = min(1.0, shortest / 4)
        now = core.loop.time()
        self._due = now + self._period
        self._kernel_interval = min(_KERNEL_INTERVAL, limits.unacknowledged / 4)
        self._kernel_due = now + self._kernel_interval
        self._timer = core.loop.call_at(self._due, self._sweep)

    def close(self) -> None:
        self._timer.cancel()

    def _sweep(self) -> None:
        core = self._core
        now = core.loop.time()
        overdue = now - self._due
        self._schedule(now + self._period)
        for lane in list(core.lanes):
            self._check_lane(lane, now, overdue)
        longest_silence = core.limits.ping_interval * core.limits.silences
        soonest = min(
            (lane.silent_since + longest_silence for lane in core.lanes if lane.unanswered_pings), default=self._due
        )
        if soonest < self._due:
            self._schedule(max(soonest, now + self._period * _SHORTEST_SHARE))
        for pool in list(core.pools):
            pool.sweep(now)
        if now >= self._kernel_due:
            self._kernel_due = now + self._kernel_interval
            # After a long pause, the answer to what has just been sent is on its way, and the last one is long ago.
            if overdue < self._kernel_interval:
                self._check_kernel()

    def _schedule(self, when: float) -> None:
        self._timer.cancel()
        self._due = when
        self._timer = self._core.loop.call_at(when, self._sweep)

    def _check_lane(self, lane: LiveLane, now: float, overdue: float) -> None:
        limits = self._core.limits
        if lane.reset_sent_at is not None and now - lane.reset_sent_at > limits.reset_answer:
            lane.abort(ProtocolViolation("a RESET was not answered"))
            return
        if lane.open_sent_at is not None and now - lane.open_sent_at > limits.open_answer:
            lane.open_unanswered()
        # This process must not take its own pauses for its peers' silence. After a long one (a closed lid, SIGSTOP) a
        # silence begins anew; one of a busy machine does not count, or else a lane could end that was never pinged.
        if not lane.state.idle or overdue > limits.ping_interval:
            lane.silent_since, lane.unanswered_pings = now, 0
            return
        lane.silent_since = min(lane.silent_since + overdue, now)
        silence = now - lane.silent_since
        if silence >= limits.ping_interval * limits.silences:
            lane.abort(PeerSilent(f"nothing was received for {silence:.0f} s"))
        elif silence >= limits.ping_interval * (lane.unanswered_pings + 1):
            lane.unanswered_pings += 1
            lane.send(FrameType.PING, time.monotonic_ns().to_bytes(8, "big"))

    def _check_kernel(self) -> None:
        """End connections that the kernel knows to be dead. Idle lanes are left to PING; a lane with a visit is never
        pinged, and neither it nor a stream notices a reset while its reads are paused."""
        for lane in list(self._core.lanes):
            if not lane.state.idle and lane.transport is not None:
                state = kernel.tcp_state(lane.transport)
                if state is not None and self._is_dead(state):
                    lane.abort(_why_dead(state))
        for stream in list(self._core.streams):
            if stream.transport is not None:
                state = kernel.tcp_state(stream.transport)
                if state is not None and self._is_dead(state):
                    stream.drop()
                    stream.failed(_why_dead(state))

    def _is_dead(self, state: kernel.TcpState) -> bool:
        return state.gone or (state.unacknowledged and state.silent > self._core.limits.unacknowledged)


def _why_dead(state: kernel.TcpState) -> ConnectionLost | PeerSilent:
    if state.gone:
        return ConnectionLost("the peer reset the connection while its reads were paused")
    return PeerSilent(f"the peer acknowledged nothing for {state.silent:.0f} s")
