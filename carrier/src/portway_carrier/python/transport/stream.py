"""A stream: the connection with a visitor or a local server.

Until a visit joins it, the stream holds what its peer sends. From then on each read goes to `partner`, one plain call.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol, cast

from portway_proto.wire.frames import Bytes
from portway_proto.wire.limits import MAX_KEPT
from portway_runtime.endpoints import Endpoint

from portway_carrier.errors import CarrierError, ConnectionLost
from portway_carrier.python.core.core import Core
from portway_carrier.python.transport import kernel
from portway_carrier.python.transport.connection import Connection
from portway_carrier.python.transport.tls_transport import TlsTransport
from portway_carrier.values import Handshake

# Seconds for the peer to close after it was sent the last bytes and the end, which takes it a round trip or two.
FINISH_WAIT = 2.0
# Seconds between two looks at whether the last bytes have arrived.
_DELIVERY_LOOK = 0.02


class Partner(Protocol):
    """Where a stream's bytes go: the lane of its visit, or the visit itself before the lane takes them."""

    def carry(self, data: Bytes) -> None:
        """Send `data`, which is valid only during the call."""
        ...

    def carry_read(self, size: int) -> None:
        """Send the first `size` bytes of the read buffer."""
        ...

    def pause_source(self) -> None: ...

    def resume_source(self) -> None: ...


class StreamOwner(Protocol):
    """What a stream notifies: its visit."""

    def stream_ready(self) -> None:
        """It was established."""
        ...

    def stream_ended(self) -> None:
        """Its peer has ended its direction; it may still take bytes."""
        ...

    def stream_lost(self, error: CarrierError) -> None:
        """It is over, or could not be established."""
        ...

    def cut(self) -> None:
        """End the visit now."""
        ...


class PyStream(Connection):
    """Both the contract's Stream and the asyncio protocol of its socket."""

    __slots__ = (
        "_began",
        "_changed",
        "_connected",
        "_discards",
        "_last_bytes",
        "_timers",
        "_took",
        "_via_proxy",
        "ended",
        "establishing",
        "held",
        "held_size",
        "lost",
        "owner",
        "partner",
        "successor",
    )

    def __init__(self, core: Core, peer: Endpoint, *, tls: bool, via_proxy: bool = False) -> None:
        super().__init__(core, peer, tls=tls)
        self._via_proxy = via_proxy
        self.establishing: asyncio.Task[None] | None = None
        self.owner: StreamOwner | None = None
        self.partner: Partner | None = None
        self.successor: Connection | None = None  # the lane that took the transport over
        self.held: list[Bytes] = []  # received before there was a partner
        self.held_size = 0
        self.ended = False  # end of file was received
        self.lost: CarrierError | None = None
        self._began = core.loop.time()
        self._connected = self._began  # when TLS could begin
        self._took = 0.0  # seconds, from its making until it was established
        self._discards = False  # what is received is dropped
        self._last_bytes: bytes | None = None  # what `finish` was given before the stream was established
        self._changed: asyncio.Future[None] | None = None
        self._timers: tuple[asyncio.TimerHandle, ...] = ()  # those of `finish`
        core.streams.add(self)

    async def ready(self) -> Handshake:
        while self.transport is None and self.lost is None:
            await self._change()
        if self.lost is not None:
            raise self.lost
        assert self.transport is not None
        if self._via_proxy:
            round_trip: float | None = self._began + self._took - self._connected
        else:
            round_trip = kernel.round_trip(self.transport)
        ssl_object = self.transport.get_extra_info("ssl_object")
        if ssl_object is None:
            return Handshake(None, None, self._took, round_trip)
        return Handshake(ssl_object.selected_alpn_protocol(), ssl_object.getpeercert(True), self._took, round_trip)

    async def first_bytes(self, within: float, least: int = 1) -> bytes:
        try:
            async with asyncio.timeout(within):
                while self.held_size < least and not self.ended and self.lost is None:
                    await self._change()
        except TimeoutError:
            pass
        return b"".join(self.held)[:MAX_KEPT]

    def connected(self) -> None:
        """TLS begins now."""
        self._connected = self.core.loop.time()

    def abort(self) -> None:
        self._drop_held()
        if self.transport is not None:
            self._discards = True
            self.drop()
        elif self.lost is None:
            self.failed(ConnectionLost("dropped here before it was established", clean=True))
            if self.establishing is not None:
                self.establishing.cancel()

    def failed(self, error: CarrierError) -> None:
        """It is over, or cannot be established: notify the owner and wake waiters. Its transport may still be closing.
        Idempotent."""
        if self.lost is not None:
            return
        self.lost = error
        self.core.streams.discard(self)
        self._wake()
        owner, self.owner, self.partner = self.owner, None, None
        if owner is not None:
            owner.stream_lost(error)

    # Calls by its visit.

    @property
    def half_closes(self) -> bool:
        """Whether one direction can end while the other goes on."""
        transport = self.transport
        return transport.half_closes if isinstance(transport, TlsTransport) else True

    def send_end(self) -> None:
        """End this side's direction; where the stream cannot half-close, end both."""
        if self.transport is None:
            return
        if not self.half_closes or self.ended:
            self.shut()
            return
        kernel.end_writing(self.transport)
        if self.tls:
            self._await_end()

    def break_off(self) -> None:
        """Deliver what was written, then break the connection, so that what was delivered does not look complete.

        A peer that reads nothing is dropped after Limits.linger. Over TLS a peer that still writes has a moment to read
        what came before: libraries read no more once a write has failed."""
        self._discards = True
        self._drop_held()
        if self.transport is None or self.lost is not None:
            self.abort()
            return
        self.resume_source()
        if isinstance(self.transport, TlsTransport):
            self.transport.cut_off()
        self.linger()
        self._drop_when_delivered()

    def close(self) -> None:
        """Both directions are over: flush, then close."""
        self._discards = True
        self._drop_held()
        self.resume_source()
        self.shut()

    def finish(self, data: bytes) -> None:
        """Write `data`, then end. What the peer still sends is read and dropped: closing with unread bytes would reset
        the connection, and `data` might not arrive."""
        self._discards = True
        self._drop_held()
        if self.lost is not None:
            return
        call_later, linger = self.core.loop.call_later, self.core.limits.linger
        self._timers = self._timers or (call_later(linger, self.abort),)
        if self.transport is None:
            self._last_bytes = data
            return
        self.resume_source()
        self.write(data)
        if not self.tls and not self.ended:
            kernel.end_writing(self.transport)
            self._timers += (call_later(min(FINISH_WAIT, linger), self.shut),)
        else:
            self.shut()

    def pause_source(self) -> None:
        if not self.ended:
            super().pause_source()

    def resume_source(self) -> None:
        if not self.ended:
            super().resume_source()

    def hold(self, data: Bytes) -> None:
        """Keep a copy of `data` until there is a partner. From MAX_KEPT bytes on the stream is not read."""
        self.held.append(bytes(data))
        self.held_size += len(data)
        if self.held_size >= MAX_KEPT:
            self.pause_source()

    def hand_back(self, kept: list[Bytes]) -> "PyStream | None":
        """Leave the visit, which was not taken, and hold `kept`, which was sent on the lane, again. None when the
        stream is over."""
        self.owner = None
        self.partner = None
        if self.lost is not None:
            return None
        self.held = [*kept, *self.held]
        self.held_size = sum(map(len, self.held))
        if self.held_size < MAX_KEPT:
            self.resume_source()
        return self

    def give_to(self, lane: Connection) -> list[Bytes]:
        """Hand the transport over to `lane`. Returns what was held."""
        self.resume_source()
        self.detach()
        self.core.streams.discard(self)
        self.successor = lane
        return self.take_held()

    def take_held(self) -> list[Bytes]:
        held, self.held, self.held_size = self.held, [], 0
        return held

    # asyncio's protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        if self.lost is not None:  # aborted while its handshake ran
            transport.abort()
            return
        self.attach(transport)
        self.establishing = None
        self._took = self.core.loop.time() - self._began
        high = self.core.limits.high_water
        transport.set_write_buffer_limits(high=high, low=high // 4)
        self._wake()
        if self._last_bytes is not None:
            self.finish(self._last_bytes)
        elif self.owner is not None:
            self.owner.stream_ready()

    def buffer_updated(self, nbytes: int) -> None:
        partner = self.partner
        if partner is not None:
            partner.carry_read(nbytes)
        elif not self._discards:
            self.hold(self.core.read_buffer.room[:nbytes])
            self._wake()

    def eof_received(self) -> bool:
        """Where the other direction can go on, it does."""
        half_open = not isinstance(self.transport, TlsTransport) or self.transport.half_open
        if not self.ended:
            self.ended = True
            self._wake()
            if self._discards:
                self.shut()
            elif self.owner is not None:
                self.owner.stream_ended()
            if not half_open:
                self.linger()
                self.failed(ConnectionLost("the peer ended TLS", clean=True))
        return half_open

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None and not self.tls and self.transport is not None:
            self._read_rest(self.transport)
        self.detach()
        if self.successor is not None:
            self.successor.connection_lost(error)
        self.failed(ConnectionLost(f"the connection was lost: {error}" if error else "closed", clean=error is None))

    def pause_writing(self) -> None:
        self.writes_paused = True
        if self.partner is not None:
            self.partner.pause_source()

    def resume_writing(self) -> None:
        self.writes_paused = False
        if self.partner is not None:
            self.partner.resume_source()

    def detach(self) -> None:
        super().detach()
        for timer in self._timers:
            timer.cancel()
        self._timers = ()

    def _read_rest(self, transport: asyncio.Transport) -> None:
        """Pass on what had arrived when the connection was lost."""
        if self.ended or self._discards or self.lost is not None:
            return
        for size in kernel.receive_rest(transport, self.core.read_buffer.room):
            self.buffer_updated(size)

    def _drop_when_delivered(self) -> None:
        if self.transport is None:
            return
        if self._undelivered():
            self._after(_DELIVERY_LOOK, self._drop_when_delivered)
        elif self.tls:
            self._after(FINISH_WAIT, self.drop)
        else:
            self.drop()

    def _await_end(self) -> None:
        """End both directions when a peer that was told of the end of one does nothing for Limits.linger: many do not
        look at their connection until they use it again."""
        self._after(self.core.limits.linger, partial(self._end_if_idle, self._undelivered()))

    def _end_if_idle(self, undelivered_before: int) -> None:
        transport = self.transport
        if transport is None or self.ended:
            return
        state = kernel.tcp_state(transport)
        sends = state is not None and not state.gone and state.quiet < self.core.limits.linger
        takes = 0 < self._undelivered() < undelivered_before
        if sends or takes or self.reads_paused:
            self._await_end()
        else:
            self.ended = True
            self.drop()

    def _undelivered(self) -> int:
        """Bytes that were written and that the peer's kernel does not have."""
        return self.unsent() + (kernel.undelivered(self.transport) if self.transport is not None else 0)

    def _after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call it after so many seconds, in place of what was to be called before, unless the transport ends first."""
        for timer in self._timers:
            timer.cancel()
        self._timers = (self.core.loop.call_later(seconds, call),)

    def _drop_held(self) -> None:
        self.held, self.held_size = [], 0

    async def _change(self) -> None:
        if self._changed is None or self._changed.done():
            self._changed = self.core.loop.create_future()
        await asyncio.shield(self._changed)

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)
