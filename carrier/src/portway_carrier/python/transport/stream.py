"""A stream: the connection with a visitor or a local server, and what it holds before it is joined."""

import asyncio
from typing import TYPE_CHECKING, Protocol, cast

from portway_proto.wire.frames import Bytes
from portway_proto.wire.limits import MAX_KEPT
from portway_runtime.endpoints import Endpoint

from portway_carrier.errors import CarrierError, ConnectionLost
from portway_carrier.python.transport import kernel
from portway_carrier.python.transport.connection import Connection
from portway_carrier.values import Handshake

if TYPE_CHECKING:
    from portway_carrier.python.carrier import PythonCarrier

# A peer that has our last bytes closes within a round trip or two; one that does not is dropped.
FINISH_WAIT = 2.0


class Partner(Protocol):
    """Where a stream's bytes go: the lane of its visit."""

    def carry(self, data: Bytes) -> None:
        """These; they are valid during the call alone."""
        ...

    def carry_read(self, size: int) -> None:
        """The first `size` bytes of the read buffer."""
        ...

    def pause_source(self) -> None: ...

    def resume_source(self) -> None: ...


class StreamOwner(Protocol):
    """Who is told of a stream's turning points: its visit."""

    def stream_ready(self) -> None: ...

    def stream_ended(self) -> None:
        """It sends no more; it may still take bytes."""
        ...

    def stream_lost(self, error: CarrierError) -> None: ...

    def cut(self) -> None: ...


class PyStream(Connection):
    """Both the contract's Stream and the asyncio protocol of its socket."""

    __slots__ = (
        "_began",
        "_changed",
        "_discards",
        "_last",
        "_timers",
        "_took",
        "ended",
        "heir",
        "held",
        "held_size",
        "lost",
        "opening",
        "owner",
        "partner",
    )

    def __init__(self, carrier: "PythonCarrier", peer: Endpoint, *, tls: bool) -> None:
        super().__init__(carrier, peer, tls=tls)
        self.opening: asyncio.Task[None] | None = None  # brings it up
        self.owner: StreamOwner | None = None
        self.partner: Partner | None = None
        self.heir: Connection | None = None  # the lane that took its transport over
        self.held: list[Bytes] = []  # what came before there was a partner
        self.held_size = 0
        self.ended = False  # end of file was received
        self.lost: CarrierError | None = None
        self._began = carrier.loop.time()
        self._took = 0.0
        self._discards = False
        self._last: bytes | None = None  # to be written and finished with as soon as it is up
        self._changed: asyncio.Future[None] | None = None
        self._timers: tuple[asyncio.TimerHandle, ...] = ()  # of finish
        carrier.streams.add(self)

    async def ready(self) -> Handshake:
        while self.transport is None and self.lost is None:
            await self._change()
        if self.lost is not None:
            raise self.lost
        assert self.transport is not None
        round_trip = kernel.round_trip(self.transport)
        ssl_object = self.transport.get_extra_info("ssl_object")
        if ssl_object is None:
            return Handshake(None, None, self._took, round_trip)
        return Handshake(ssl_object.selected_alpn_protocol(), ssl_object.getpeercert(True), self._took, round_trip)

    async def first_bytes(self, within: float) -> bytes:
        try:
            async with asyncio.timeout(within):
                while not self.held and not self.ended and self.lost is None:
                    await self._change()
        except TimeoutError:
            pass
        return b"".join(self.held)[:MAX_KEPT]

    def abort(self) -> None:
        self._drop_held()
        if self.transport is not None:
            self._discards = True
            self.drop()
        elif self.lost is None:
            self.failed(ConnectionLost("dropped here before it was up", clean=True))
            if self.opening is not None:
                self.opening.cancel()

    def failed(self, error: CarrierError) -> None:
        """It will never be up, or it is over: tell who waits. Its transport may still be closing."""
        if self.lost is not None:
            return
        self.lost = error
        self.carrier.streams.discard(self)
        self._wake()
        owner, self.owner, self.partner = self.owner, None, None
        if owner is not None:
            owner.stream_lost(error)

    # What its visit asks of it.

    @property
    def half_closes(self) -> bool:
        """Whether one direction can end alone."""
        return not self.tls

    def send_end(self) -> None:
        """Nothing more will be sent: end this direction, or all of it where it cannot be ended alone."""
        if self.transport is None:
            return
        if self.half_closes and not self.ended:
            self.transport.write_eof()
        else:
            self.shut()

    def close(self) -> None:
        """Both directions are over: let what waits leave, then close."""
        self._discards = True
        self._drop_held()
        self.resume_source()
        self.shut()

    def finish(self, data: bytes) -> None:
        """These bytes, then the end; what the peer still sends is read and dropped, so that they arrive."""
        self._discards = True
        self._drop_held()
        if self.lost is not None:
            return
        later, linger = self.carrier.loop.call_later, self.carrier.limits.linger
        self._timers = self._timers or (later(linger, self.abort),)
        if self.transport is None:
            self._last = data
            return
        self.resume_source()
        self.write(data)
        if self.half_closes and not self.ended:
            self.transport.write_eof()
            self._timers += (later(min(FINISH_WAIT, linger), self.shut),)
        else:
            self.shut()

    def pause_source(self) -> None:
        if not self.ended:
            super().pause_source()

    def resume_source(self) -> None:
        if not self.ended:
            super().resume_source()

    def hold(self, data: Bytes) -> None:
        """Keep bytes until there is a partner. More than MAX_KEPT and what one read brings is left to the kernel."""
        self.held.append(bytes(data))
        self.held_size += len(data)
        if self.held_size >= MAX_KEPT:
            self.pause_source()

    def hand_back(self, kept: list[Bytes]) -> "PyStream | None":
        """Its visit was not taken: hold again what had been sent. None when it is gone."""
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
        """Its transport is the lane's from now on, and so is what it has held."""
        self.resume_source()
        self.detach()
        self.carrier.streams.discard(self)
        self.heir = lane
        return self.take_held()

    def take_held(self) -> list[Bytes]:
        held, self.held, self.held_size = self.held, [], 0
        return held

    # asyncio's protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        if self.lost is not None:  # aborted while its handshake ran
            transport.abort()
            return
        self.attach(transport)
        self.opening = None
        self._took = self.carrier.loop.time() - self._began
        high = self.carrier.limits.high_water
        transport.set_write_buffer_limits(high=high, low=high // 4)
        self._wake()
        if self._last is not None:
            self.finish(self._last)
        elif self.owner is not None:
            self.owner.stream_ready()

    def buffer_updated(self, nbytes: int) -> None:
        partner = self.partner
        if partner is not None:
            partner.carry_read(nbytes)
        elif not self._discards:
            self.hold(self.carrier.read_buffer.room[:nbytes])
            self._wake()

    def eof_received(self) -> bool:
        """Plain TCP stays open for the other direction. A TLS transport closes itself now, both directions of it."""
        if not self.ended:
            self.ended = True
            self._wake()
            if self._discards:
                self.shut()
            elif self.owner is not None:
                self.owner.stream_ended()
            if self.tls:
                self.linger()
                self.failed(ConnectionLost("it ended TLS", clean=True))
        return not self.tls

    def connection_lost(self, error: Exception | None) -> None:
        self.detach()
        if self.heir is not None:
            self.heir.connection_lost(error)
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

    def _drop_held(self) -> None:
        self.held, self.held_size = [], 0

    async def _change(self) -> None:
        if self._changed is None or self._changed.done():
            self._changed = self.carrier.loop.create_future()
        await asyncio.shield(self._changed)

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)
