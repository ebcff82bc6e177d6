"""The messages of a call as its handler gets them: decoded, and the only one of a call within a time limit.

Here: how long, and for how many calls, a message is awaited. A call's headers cost its caller 30 bytes and gRPC 20 KB.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import DecodeError
from grpc import aio
from portway_runtime.clocks import monotonic
from portway_runtime.rates import address_key
from portway_runtime.shares import PrefixShares

from portway_registry.errors import Busy, Exhausted, InvalidRequest, MalformedMessage, MessageLate

# Seconds. A client sends headers and message together; this is many round trips of a slow line.
MESSAGE_TIME: Final = 5.0
# Calls whose message is awaited: of one identified caller, and of all of them; of one address (IPv6: /64) that calls
# without being identified, and of all of those, in which each prefix has a share. 3,000 hold 60 MB, or 250 MB with
# messages of the largest size that are not whole.
AWAITED_OF_CALLER: Final = 256
AWAITED: Final = 2_000
AWAITED_OF_ADDRESS: Final = 16
AWAITED_OF_STRANGERS: Final = 1_000

_TOO_MANY: Final = "too many calls whose messages have not come: send a call's message with its headers"
# Stands for a message that cannot be decoded. gRPC would log a traceback for what a decoder raises.
_MALFORMED: Final = object()


def marking(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """A decoder as gRPC may be given it: it raises nothing, and Messages finds what it could not decode."""
    if decode is None:
        return None

    def decode_or_mark(message: bytes) -> Any:
        try:
            return decode(message)
        except DecodeError:
            return _MALFORMED

    return decode_or_mark


class Messages:
    """The messages of a stream. Raises MalformedMessage at one that cannot be decoded."""

    def __init__(self, messages: AsyncIterable[Any]) -> None:
        self._messages = messages
        self._iterator: AsyncIterator[Any] | None = None  # of a call that is refused unread none is made

    def __aiter__(self) -> "Messages":
        return self

    async def __anext__(self) -> Any:
        if self._iterator is None:
            self._iterator = aiter(self._messages)
        message = await anext(self._iterator)
        if message is _MALFORMED:
            raise MalformedMessage
        return message


class AwaitedMessages:
    """The calls of one port whose message has not come yet. Strangers take no room from identified callers."""

    def __init__(self) -> None:
        self._by_caller: dict[str, int] = {}
        self._of_callers = 0
        self._by_address: dict[str | bytes, int] = {}
        self._of_strangers = PrefixShares(AWAITED_OF_STRANGERS, monotonic)
        self._deadlines = _Deadlines()

    async def of_caller(self, read: Callable[[], Awaitable[Any]], name: str) -> Any:
        """The message of an identified caller's call that has one. `read` is the context's.

        Raises Exhausted, Busy, MalformedMessage, InvalidRequest for none, MessageLate.
        """
        if self._by_caller.get(name, 0) >= AWAITED_OF_CALLER:
            raise Exhausted(_TOO_MANY)
        if self._of_callers >= AWAITED:
            raise Busy(_TOO_MANY)
        self._of_callers += 1
        self._by_caller[name] = self._by_caller.get(name, 0) + 1
        try:
            return _only(await self._deadlines.keep(read))
        finally:
            self._of_callers -= 1
            _uncount(self._by_caller, name)

    async def of_stranger(self, read: Callable[[], Awaitable[Any]], address: str) -> Any:
        """The message of a call whose caller is not identified, from this address. As `of_caller` else."""
        key = address_key(address)
        if self._by_address.get(key, 0) >= AWAITED_OF_ADDRESS:
            raise Exhausted(_TOO_MANY)
        if not self._of_strangers.take(address):
            raise Busy(_TOO_MANY)
        self._by_address[key] = self._by_address.get(key, 0) + 1
        try:
            return _only(await self._deadlines.keep(read))
        finally:
            self._of_strangers.give_back(address)
            _uncount(self._by_address, key)


@dataclass(slots=True, eq=False)
class _Wait:
    """A task that waits for a message until `due`, by the loop's clock. late: it has been woken."""

    task: "asyncio.Task[Any]"
    due: float
    late: bool = False


class _Deadlines:
    """MESSAGE_TIME for each message, by one timer for all: nearly every message has come with its headers, and a timer
    for each cost a registry more than finding out whose the call is."""

    def __init__(self) -> None:
        self._waits: dict[_Wait, None] = {}  # in the order in which they are due
        self._timer: asyncio.TimerHandle | None = None

    async def keep(self, read: Callable[[], Awaitable[Any]]) -> Any:
        """What is read. Raises MessageLate. Cancelled as asyncio.timeout is."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None, "calls are tasks"
        cancelling = task.cancelling()
        wait = _Wait(task, loop.time() + MESSAGE_TIME)
        self._waits[wait] = None
        if self._timer is None:
            self._timer = loop.call_at(wait.due, self._look)
        try:
            return await read()
        except asyncio.CancelledError:
            if wait.late and task.uncancel() <= cancelling:
                raise MessageLate(f"no message within {MESSAGE_TIME:.0f} s of the call's headers") from None
            raise
        finally:
            del self._waits[wait]

    def _look(self) -> None:
        """Wake those whose time is up; look again when the next one's is."""
        loop = asyncio.get_running_loop()
        self._timer = None
        for wait in self._waits:
            if wait.due > loop.time():
                self._timer = loop.call_at(wait.due, self._look)
                return
            if not wait.late:
                wait.late = True
                wait.task.cancel()


def _uncount(counts: dict[Any, int], key: object) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]


def _only(message: Any) -> Any:
    if message is aio.EOF:
        raise InvalidRequest("the call has no message")
    if message is _MALFORMED:
        raise MalformedMessage
    return message
