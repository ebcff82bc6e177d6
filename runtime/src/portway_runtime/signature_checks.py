"""Checking signatures off the event loop, many at a time.

Here: one thread that checks what has gathered, so that the loop goes on meanwhile: Ed25519 is checked with the
interpreter's lock released. Not here: what is signed (portway_proto.wire.statements), how many checks a sender is
allowed.
"""

import asyncio
import logging
from collections.abc import Hashable
from typing import Final, Protocol

from portway_runtime.fair_queue import FairQueue
from portway_runtime.threads import single_thread

logger = logging.getLogger(__name__)

# Signatures for one turn of the thread: some 10 ms, after which what has come in meanwhile is taken up.
_PER_TURN: Final = 128


class Checkable(Protocol):
    """Something that is signed."""

    def is_genuine(self) -> bool:
        """Whether its signature is right."""
        ...


class SignatureChecks:
    """Checks one of each sender in turn, and of one sender in the order in which they were asked for: many of one keep
    no other waiting. Needs a running loop."""

    def __init__(self) -> None:
        """Start the thread. Raises NoThread."""
        self._thread = single_thread("portway signatures")
        self._loop = asyncio.get_running_loop()
        self._waiting: FairQueue[tuple[Checkable, asyncio.Future[bool]]] = FairQueue()
        self._running = False

    def __len__(self) -> int:
        """Signatures that wait for the thread."""
        return len(self._waiting)

    def check(self, signed: Checkable, sender: Hashable = None) -> "asyncio.Future[bool]":
        """A future of whether it is genuine. All that have no `sender` share the turns of one."""
        answer: asyncio.Future[bool] = self._loop.create_future()
        self._waiting.put(sender, (signed, answer))
        if not self._running:
            self._running = True
            self._loop.call_soon(self._start)  # what else is asked for in this turn of the loop goes along
        return answer

    def close(self) -> None:
        """Stop; checks that have not begun are cancelled."""
        for _, answer in self._waiting.take(len(self._waiting)):
            answer.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        batch = [(signed, answer) for signed, answer in self._waiting.take(_PER_TURN) if not answer.done()]
        if not batch:
            self._running = bool(self._waiting)
            if self._running:
                self._loop.call_soon(self._start)
            return
        self._thread.submit(self._check, batch)

    def _check(self, batch: list[tuple[Checkable, "asyncio.Future[bool]"]]) -> None:
        """On the thread."""
        results = [_is_genuine(signed) for signed, _ in batch]
        try:
            self._loop.call_soon_threadsafe(self._settle, batch, results)
        except RuntimeError:
            pass  # the loop was closed meanwhile

    def _settle(self, batch: list[tuple[Checkable, "asyncio.Future[bool]"]], results: list[bool]) -> None:
        for (_, answer), genuine in zip(batch, results, strict=True):
            if not answer.done():
                answer.set_result(genuine)
        self._start()


def _is_genuine(signed: Checkable) -> bool:
    """What cannot be checked for an error of ours is not genuine, and keeps nothing else from being checked."""
    try:
        return signed.is_genuine()
    except Exception:
        logger.exception("a signature could not be checked")
        return False
