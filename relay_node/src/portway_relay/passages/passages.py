"""Passages: each connection for the registry that came to this node, from the peek until a replica and it are done.

Here: their turns and limits, which replica a connection is passed on to, and the next one when that does not answer.
Not here: which connections these are (ingress/), which replica is near (fronts.py), moving bytes (the carrier).
"""

import asyncio
import secrets
import socket
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

from portway_carrier.contract import Carrier, Passage, PassageEnd, Stream
from portway_carrier.errors import CarrierError
from portway_runtime.clocks import Monotonic, RegistryClock
from portway_runtime.descriptors import unreserved
from portway_runtime.endpoints import Endpoint
from portway_runtime.listening import endpoint_of
from portway_runtime.node_headers import NONCE_SIZE, write_header
from portway_runtime.rates import TokenBucket
from portway_runtime.shares import PrefixQueue, PrefixShares
from portway_runtime.tasks import Tasks

from portway_relay.config import NodeLimits
from portway_relay.passages.checking import FrontCheck
from portway_relay.passages.fronts import Front, Fronts
from portway_relay.passages.unanswered import Unanswered

# Seconds until the next replica is dialled, too: the longest round trip between regions. The nearest is dialled first.
_NEXT_DIAL: Final = 0.3
# Seconds for one of them to be reached.
_REACHED_WITHIN: Final = 5.0
# Seconds for its first byte, when there is another one that could be tried, and when there is not. A client waits 3 s.
_ANSWERED_WITHIN: Final = 1.0
_ANSWERED_AT_LAST: Final = 10.0
# Dials of one connection at a time: the oldest, of which nothing was heard for two of these pauses, ends for a third.
_DIALS: Final = 2
# Share of the free descriptors, of which each takes its own and those of its dials.
_OF_DESCRIPTORS: Final = 4 * (1 + _DIALS)  # a quarter of them
# Bytes that the kernel keeps of what such a connection sends. Nobody reads a stranger's quickly.
_KERNEL_KEEPS: Final = 32 * 1024


class Passages:
    """The passages of a node."""

    def __init__(
        self,
        carrier: Carrier,
        fronts: Fronts,
        check: FrontCheck,
        node: str,
        limits: NodeLimits,
        *,
        last_words: bytes,
        is_memory_scarce: Callable[[], bool],
        clock: Monotonic,
        registry_clock: RegistryClock,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """node: this node's name. last_words: what a connection is ended with that no replica has answered."""
        self._carrier = carrier
        self._fronts = fronts
        self._check = check
        self._unanswered = Unanswered(clock, check.doubt)
        self._node = node
        self._last_words = last_words
        self._is_memory_scarce = is_memory_scarce
        self._registry_clock = registry_clock
        most = min(limits.max_passed, max(1, unreserved() // _OF_DESCRIPTORS))
        self._places = PrefixShares(most, clock)
        self._starts = TokenBucket(limits.passed_per_second, limits.passed_per_second, clock)
        self._queue: PrefixQueue[_Arrival] = PrefixQueue()
        self._next_turn: asyncio.TimerHandle | None = None
        self._tasks = Tasks("passages", on_failure)
        self._dials = Tasks("dials of registries", on_failure)
        self.outcomes: Counter[str] = Counter()
        self.bytes_in = self.bytes_out = 0  # of those that have ended

    @property
    def name(self) -> str:
        """The server name of connections that are passed on; "" while no registry has told it."""
        return self._fronts.name

    @property
    def running(self) -> int:
        """Those in progress, and those that wait for their turn or for a replica."""
        return len(self._queue) + len(self._tasks)

    def begin(self, sock: socket.socket, peer: Endpoint) -> bool:
        """Pass a connection on, in its turn; nothing of it was consumed. False when there is no place for it; else the
        socket is owned from now on."""
        if self._is_memory_scarce() or not self._places.take(peer.host):
            self.outcomes["no_place"] += 1
            return False
        self._queue.push(_Arrival(sock, peer), peer.host)
        self._take_turns()
        return True

    async def over(self) -> None:
        """Wait until none is in progress."""
        while self._queue or self._tasks:
            await self._tasks.over()
            await asyncio.sleep(self._starts.wait if self._queue else 0)

    async def close(self) -> None:
        """Begin no more, and end those that are in progress: callers connect anew, to another node."""
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None
        while self._queue:
            self._queue.pop().drop()
        await self._tasks.close()
        await self._dials.close()
        await self._check.close()

    def _take_turns(self) -> None:
        if self._next_turn is not None:
            return
        while self._queue and self._starts.take():
            one = self._queue.pop()
            passing = self._tasks.spawn(self._pass(one), name="pass on", on_cut=one.drop)
            passing.add_done_callback(partial(self._passed, one.peer.host))
        if self._queue:
            self._next_turn = asyncio.get_running_loop().call_later(self._starts.wait, self._turn)

    def _passed(self, host: str, passing: asyncio.Task[None]) -> None:
        self._places.give_back(host)

    def _turn(self) -> None:
        self._next_turn = None
        self._take_turns()

    async def _pass(self, one: "_Arrival") -> None:
        sock = one.sock
        assert sock is not None
        try:
            at = endpoint_of(sock.getsockname())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _KERNEL_KEEPS)
        except OSError:  # it is gone already
            one.drop()
            self.outcomes["left"] += 1
            return
        one.stream, one.sock = self._carrier.accept(sock, None, peer=one.peer), None
        try:
            await one.stream.ready()
            outcome = await self._find_answer(one, one.stream, at)
        except CarrierError:
            outcome = "left"
        self.outcomes[outcome] += 1

    async def _find_answer(self, one: "_Arrival", visitor: Stream, at: Endpoint) -> str:
        """Pass it on to the first replica that answers, and wait for the end. Returns how it ended."""
        left = self._fronts.in_order(self._unanswered.by(one.peer.host))
        while left:
            front, far = await self._reach(left)
            if far is None:
                break
            left.remove(front)
            header = self._header(front, one.peer, at)
            within = _ANSWERED_WITHIN if left else _ANSWERED_AT_LAST
            one.stream = None  # the passage's, until it hands it back
            end, given_up = await self._passage(visitor, far, header, within, front, one.peer.host)
            one.stream = end.visitor
            if end.answered:
                return "given_up" if given_up else "done"
            if end.visitor is None:
                return "left"
            self._check.doubt(front)
        one.stream = None
        self._carrier.finish(visitor, self._last_words)
        return "unanswered"

    async def _reach(self, candidates: list[Front]) -> tuple[Front, Stream | None]:
        """Dial the candidates, in their order, until one is reached; those that refuse, and those that others took the
        place of, are removed from the list. No stream when none is."""
        dialled: dict[asyncio.Task[bool], tuple[Front, Stream]] = {}
        waiting = list(candidates)
        end = asyncio.get_running_loop().time() + _REACHED_WITHIN
        try:
            while dialled or waiting:
                if waiting:
                    if len(dialled) == _DIALS:
                        silent = next(iter(dialled))
                        front, stream = dialled.pop(silent)
                        silent.cancel()
                        stream.abort()
                        candidates.remove(front)
                        self._fronts.failed(front)
                    front = waiting.pop(0)
                    stream = self._carrier.connect(front.address, None)
                    dialled[self._dials.spawn(_is_reached(stream), name="dial a registry")] = front, stream
                pause = _NEXT_DIAL if waiting else end - asyncio.get_running_loop().time()
                done, _ = await asyncio.wait(dialled, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                in_order = list(dialled)
                for dial in done:
                    front, stream = dialled.pop(dial)
                    if dial.result():
                        for earlier in in_order[: in_order.index(dial)]:
                            if earlier in dialled and not earlier.done():
                                self._fronts.failed(dialled[earlier][0])
                        return front, stream
                    candidates.remove(front)
                    self._fronts.failed(front)
                if not done and not waiting:
                    break
        finally:
            for dial, (_, stream) in dialled.items():
                dial.cancel()
                stream.abort()
        for front, _ in dialled.values():
            self._fronts.failed(front)
        return Front("", Endpoint("", 0)), None

    def _header(self, front: Front, peer: Endpoint, at: Endpoint) -> bytes:
        nonce = secrets.token_bytes(NONCE_SIZE)
        return write_header(self._fronts.key, self._node, front.replica, peer, at, self._registry_clock.now_ms(), nonce)

    async def _passage(
        self, visitor: Stream, far: Stream, header: bytes, within: float, front: Front, caller: str
    ) -> tuple[PassageEnd, bool]:
        """One passage, to its end; and whether its caller gave the replica up."""
        ended: asyncio.Future[tuple[PassageEnd, bool]] = asyncio.get_running_loop().create_future()

        def over(passage: Passage, end: PassageEnd) -> None:
            given_up = self._unanswered.over(caller, passage)
            self.bytes_in += passage.bytes_in
            self.bytes_out += passage.bytes_out
            if end.answered:
                self._fronts.answered(front)
            if not ended.done():
                ended.set_result((end, given_up))

        passage = self._carrier.pass_on(visitor, far, header, within, over)
        self._unanswered.began(caller, front, passage)
        try:
            return await ended
        except asyncio.CancelledError:
            passage.close()
            raise


class _Arrival:
    """A connection: a socket at first, then a stream; neither while it is the carrier's alone."""

    __slots__ = ("peer", "sock", "stream")

    def __init__(self, sock: socket.socket, peer: Endpoint) -> None:
        self.sock: socket.socket | None = sock
        self.peer = peer
        self.stream: Stream | None = None

    def drop(self) -> None:
        """End it, as far as it is not the carrier's."""
        if self.sock is not None:
            self.sock.close()
        if self.stream is not None:
            self.stream.abort()


async def _is_reached(stream: Stream) -> bool:
    try:
        await stream.ready()
    except CarrierError:
        return False
    return True
