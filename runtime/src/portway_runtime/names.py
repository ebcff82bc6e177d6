"""Looking names up, off the event loop and out of everything else's way.

asyncio's own look-ups share a small pool of threads with everything else of the process, and both loops wait for these
threads when they end: one name that no resolver answers for holds up every other name, and the end of the program. Here
each look-up has a daemon thread of its own, at most one for a name and a bounded number in all, and nothing ever waits
for its end.

Answers are kept for a short time: the system's resolver does not tell for how long they are valid. Literal addresses
are never looked up. Not here: connecting (dialling.py).
"""

import _socket
import asyncio
import errno
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from portway_runtime.bounded import BoundedMap
from portway_runtime.clocks import Monotonic, monotonic
from portway_runtime.os_threads import Event, make_lock, start_thread

# Seconds for which an answer is used. Short beside the TTL of a name that is meant to move (60 s and more), long beside
# the pause between the visits of a busy tunnel. A name whose addresses do not answer is looked up again at once.
ANSWER_LIFE: Final = 10.0
# Seconds for which a name is not looked up again that has no address, or that no resolver answered for.
FAILURE_LIFE: Final = 1.0
# Look-ups at the same time. Each is a thread that waits; names without a resolver hold theirs for 10 to 30 s.
LOOKUPS: Final = 64
_KEPT: Final = 1024  # names whose answers are kept


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address. `scope` is the number of the interface of a link-local IPv6 address, else 0."""

    family: socket.AddressFamily
    host: str
    scope: int = 0

    def with_port(self, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
        """The address as a socket takes it."""
        return (self.host, port) if self.family == socket.AF_INET else (self.host, port, 0, self.scope)


Resolve = Callable[[str], list[Address]]


@dataclass(slots=True)
class _Answer:
    """What was found, until when it is used; while `outcome` is None, `known` is awaited."""

    known: asyncio.Future[None]
    outcome: list[Address] | Exception | None = None
    until: float = 0.0


class Names:
    """Look-ups of one owner, on the running event loop. It needs no end: look-ups in progress are left behind."""

    def __init__(self, *, lookups: int = LOOKUPS, clock: Monotonic = monotonic, resolve: Resolve | None = None) -> None:
        """resolve: looks a name up; it blocks, and raises OSError or UnicodeError."""
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._resolve = resolve or _addresses
        self._free = lookups
        self._answers: BoundedMap[str, _Answer] = BoundedMap(_KEPT)
        self._waiting: deque[tuple[str, _Answer]] = deque()

    async def addresses(self, host: str) -> list[Address]:
        """The addresses of a name or a literal address, at least one, in the order in which they are to be tried:
        families alternate (RFC 8305 §4), the system's preferred one first.

        Raises OSError (socket.gaierror), and UnicodeError for what is no name. Cancelled, the look-up goes on, for the
        next one who asks.
        """
        literal = literal_address(host)
        if literal is not None:
            return [literal]
        answer = self._answers.get(host)
        if answer is None or (answer.outcome is not None and self._clock() >= answer.until):
            answer = self._answers[host] = _Answer(self._loop.create_future())
            self._waiting.append((host, answer))
            self._start_next()
        if answer.outcome is None:
            await asyncio.shield(answer.known)
        outcome = answer.outcome
        assert outcome is not None
        if isinstance(outcome, Exception):
            raise outcome.with_traceback(None)
        return list(outcome)

    def is_looking_up(self, host: str) -> bool:
        """Whether nothing is known of the name yet, because no resolver has answered."""
        answer = self._answers.get(host)
        return answer is not None and answer.outcome is None

    def forget(self, host: str) -> None:
        """Look the name up anew the next time: what was found did no good."""
        answer = self._answers.get(host)
        if answer is not None and answer.outcome is not None:
            del self._answers[host]

    def _start_next(self) -> None:
        while self._free and self._waiting:
            host, answer = self._waiting.popleft()
            self._free -= 1
            try:
                self._start(host, answer)
            except RuntimeError as error:  # the process can have no further thread
                failure = OSError(errno.ENOMEM, f"the name cannot be looked up: {error}")
                self._loop.call_soon(self._found, answer, failure)

    def _start(self, host: str, answer: _Answer) -> None:
        loop, resolve = self._loop, self._resolve

        def look_up() -> None:
            outcome: list[Address] | Exception
            try:
                outcome = alternating(resolve(host))
            except Exception as error:
                outcome = error
            try:
                loop.call_soon_threadsafe(self._found, answer, outcome)
            except RuntimeError:
                pass  # the loop has ended meanwhile

        start_thread(look_up, f"look up {host}"[:100])

    def _found(self, answer: _Answer, outcome: list[Address] | Exception) -> None:
        self._free += 1
        answer.outcome = outcome
        answer.until = self._clock() + (FAILURE_LIFE if isinstance(outcome, Exception) else ANSWER_LIFE)
        if not answer.known.done():
            answer.known.set_result(None)
        self._start_next()


class BlockingNames:
    """Look-ups for threads that may wait, such as those of blocking calls. One at a time for a name, whoever waits for
    it; answers are not kept."""

    def __init__(self, *, resolve: Resolve | None = None) -> None:
        self._resolve = resolve or _addresses
        self._lock = make_lock()
        self._running: dict[str, tuple[Event, list[list[Address] | Exception]]] = {}

    def addresses(self, host: str, within: float) -> list[Address]:
        """As `Names.addresses`, within so many seconds. Raises TimeoutError after them: the look-up goes on."""
        literal = literal_address(host)
        if literal is not None:
            return [literal]
        with self._lock:
            running = self._running.get(host)
            if running is None:
                running = self._running[host] = Event(), []
                self._start(host, *running)
        known, outcomes = running
        if not known.wait(within):
            raise TimeoutError(errno.ETIMEDOUT, f"no resolver has answered for {host} within {within:g} s")
        (outcome,) = outcomes
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _start(self, host: str, known: Event, outcomes: list[list[Address] | Exception]) -> None:
        def look_up() -> None:
            try:
                outcomes.append(alternating(self._resolve(host)))
            except Exception as error:
                outcomes.append(error)
            self._ended(host, known)

        try:
            start_thread(look_up, f"look up {host}"[:100])
        except RuntimeError as error:  # the process can have no further thread
            del self._running[host]
            raise OSError(errno.ENOMEM, f"the name cannot be looked up: {error}") from None

    def _ended(self, host: str, known: Event) -> None:
        with self._lock:
            del self._running[host]
        known.set()


def literal_address(host: str) -> Address | None:
    """The address that `host` is, None for a name. Raises UnicodeError for what is neither."""
    try:
        return _addresses(host, socket.AI_NUMERICHOST)[0]
    except OSError:
        return None


def alternating(addresses: list[Address]) -> list[Address]:
    """The addresses with their families in turn, each family in its order, that of the first address first."""
    if not addresses:
        return []
    first = [each for each in addresses if each.family == addresses[0].family]
    others = [each for each in addresses if each.family != addresses[0].family]
    turns: list[Address] = []
    while first or others:
        turns += [family.pop(0) for family in (first, others) if family]
    return turns


def _addresses(host: str, flags: int = 0) -> list[Address]:
    """The system's answer. Raises OSError and UnicodeError."""
    # Not socket.getaddrinfo, which a program may have replaced by one that needs its own threads.
    found: list[Any] = _socket.getaddrinfo(host, None, socket.AF_UNSPEC, socket.SOCK_STREAM, 0, flags)
    addresses = []
    for family, _, _, _, name in found:
        if family in (socket.AF_INET, socket.AF_INET6):
            host = name[0].partition("%")[0]
            addresses.append(Address(socket.AddressFamily(family), host, name[3] if family == socket.AF_INET6 else 0))
    if not addresses:
        raise socket.gaierror(socket.EAI_NONAME, "no address of a known family")
    return list(dict.fromkeys(addresses))
