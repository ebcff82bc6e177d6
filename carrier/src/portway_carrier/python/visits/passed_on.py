"""A passage: what one plain stream receives is written to another one, both ways, unread; until both have ended.

Until the far end's first byte the near end's bytes are kept, so that it can be passed on elsewhere. After it, a visitor
that has left is not waited for.
"""

import asyncio
from typing import Final

from portway_proto.wire.frames import Bytes
from portway_proto.wire.limits import MAX_KEPT

from portway_carrier.contract import PassageEnd, PassageEnded
from portway_carrier.errors import CarrierError
from portway_carrier.python.core.core import Core
from portway_carrier.python.transport.stream import PyStream

# Bytes that wait to be written to one side before the other is not read. What passes on are calls, not files; and
# strangers, whom nobody reads quickly, must not fill memory.
_HIGH_WATER: Final = 32 * 1024
# Seconds of silence of the far end after which a passage whose visitor has ended is over: who waits for an answer keeps
# its side open, and the connections to a far end that hangs would pile up.
_LEFT: Final = 2.0


class PassedOn:
    """The contract's Passage."""

    __slots__ = (
        "_core",
        "_ended",
        "_far",
        "_heard_at",
        "_kept",
        "_kept_size",
        "_near",
        "_over",
        "_silence",
        "_timer",
        "answered",
    )

    def __init__(self, core: Core, near: PyStream, far: PyStream, ended: PassageEnded) -> None:
        self._core = core
        self._near = _End(self, near)
        self._far = _End(self, far)
        self._near.other, self._far.other = self._far, self._near
        self._ended = ended
        self._kept: list[Bytes] = []
        self._kept_size = 0
        self._over = False
        self._heard_at = 0.0  # when the far end has sent last
        self._silence: float | None = None  # when the first of both ended
        self._timer: asyncio.TimerHandle | None = None
        self.answered = False

    @property
    def bytes_in(self) -> int:
        return self._near.received

    @property
    def bytes_out(self) -> int:
        return self._far.received

    @property
    def silence(self) -> float:
        if self._silence is not None:
            return self._silence
        return self._core.loop.time() - self._heard_at if self.answered else 0.0

    def start(self, header: bytes, within: float) -> None:
        near, far = self._near.stream, self._far.stream
        self._near.attach()
        self._far.attach()
        if near.lost is not None or far.lost is not None:
            self.lost(self._near if near.lost is not None else self._far)
            return
        self._timer = self._core.loop.call_later(within, self._silent)
        far.write(header)
        for data in near.take_held():
            self._near.carry(data)
        for data in far.take_held():
            self._far.carry(data)
        for end in (self._near, self._far):
            end.resume_source()
            if end.stream.ended:
                self.half_over(end)

    def close(self) -> None:
        if self._over:
            return
        self._finish(PassageEnd(self.answered))
        for end in (self._near, self._far):
            end.detach()
            end.stream.close()

    def received(self, end: "_End", data: Bytes) -> None:
        """For this module: note what an end has received, which is on its way to the other."""
        if end is self._far:
            self._heard_at = self._core.loop.time()
        if self.answered:
            return
        if end is self._far:
            self.answered = True
            self._kept = []
            self._stop_waiting()
            if self._near.stream.ended:
                self._end_when_silent()
            if not self._far.stream.writes_paused:
                self._near.stream.resume_source()
            return
        self._kept.append(bytes(data))
        self._kept_size += len(data)
        if self._kept_size >= MAX_KEPT:
            end.stream.pause_source()

    def may_read(self, end: "_End") -> bool:
        """For this module: whether an end may be read as far as this decides."""
        return self.answered or end is self._far or self._kept_size < MAX_KEPT

    def half_over(self, end: "_End") -> None:
        """For this module: an end sends no more."""
        if self._over:
            return
        if end is self._far and not self.answered:
            self._hand_back()
            return
        self._note_end(end)
        if end.other.stream.ended:
            self.close()
        else:
            end.other.stream.send_end()
            if end is self._near and self.answered:
                self._end_when_silent()

    def lost(self, end: "_End") -> None:
        """For this module: an end's connection is over."""
        if self._over:
            return
        if end is self._far and not self.answered:
            self._hand_back()
            return
        self._note_end(end)
        self._finish(PassageEnd(self.answered))
        for each in (self._near, self._far):
            each.detach()
        end.other.stream.break_off()

    def _note_end(self, end: "_End") -> None:
        """The first of both that ends says whether the far end was silent then."""
        if self._silence is None:
            self._silence = self.silence if end is self._near else 0.0

    def _end_when_silent(self) -> None:
        """The visitor has ended, and the far end has not: end the passage, or look again when that may be due."""
        self._timer = None
        now = self._core.loop.time()
        if self._near.stream.writes_paused:
            self._heard_at = now  # the far end is not read
        if now - self._heard_at >= _LEFT:
            self.close()
        else:
            self._timer = self._core.loop.call_at(self._heard_at + _LEFT, self._end_when_silent)

    def _silent(self) -> None:
        self._timer = None
        self._hand_back()

    def _hand_back(self) -> None:
        """The far end did not answer: the near one is whole."""
        self._near.detach()
        self._far.detach()
        self._far.stream.abort()
        self._finish(PassageEnd(answered=False, visitor=self._near.stream.hand_back(self._kept)))

    def _finish(self, end: PassageEnd) -> None:
        self._over = True
        self._silence = self._silence or 0.0
        self._stop_waiting()
        self._core.notify(end.visitor.abort if end.visitor is not None else None, self._ended, self, end)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _End:
    """One of both streams: its StreamOwner, and its Partner, which takes what it receives."""

    __slots__ = ("_passage", "other", "received", "stream")

    def __init__(self, passage: PassedOn, stream: PyStream) -> None:
        self._passage = passage
        self.stream = stream
        self.other = self
        self.received = 0

    def attach(self) -> None:
        self.stream.owner = self
        self.stream.partner = self
        if self.stream.transport is not None:
            self.stream.transport.set_write_buffer_limits(high=_HIGH_WATER, low=_HIGH_WATER // 4)

    def detach(self) -> None:
        self.stream.owner = None
        self.stream.partner = None

    # Partner.

    def carry(self, data: Bytes) -> None:
        self.received += len(data)
        self.other.stream.write(data)
        self._passage.received(self, data)

    def carry_read(self, size: int) -> None:
        self.carry(self.stream.core.read_buffer.room[:size])

    def pause_source(self) -> None:
        """This stream takes no more: the other is not read."""
        self.other.stream.pause_source()

    def resume_source(self) -> None:
        if not self.stream.writes_paused and self._passage.may_read(self.other):
            self.other.stream.resume_source()

    # StreamOwner.

    def stream_ready(self) -> None: ...

    def stream_ended(self) -> None:
        self._passage.half_over(self)

    def stream_lost(self, error: CarrierError) -> None:
        self._passage.lost(self)

    def cut(self) -> None:
        self._passage.close()
