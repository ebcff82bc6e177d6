"""The messages of a call as its handler gets them: decoded, and the only one of a call within a time limit.

Here: how long, and for how many calls, a message is awaited. A call's headers cost its caller 30 bytes and gRPC 20 KB.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from google.protobuf.message import DecodeError
from grpc import aio
from portway_runtime.clocks import monotonic
from portway_runtime.rates import address_key
from portway_runtime.shares import PrefixShares

from portway_registry.errors import Busy, Exhausted, InvalidRequest, MalformedMessage, MessageLate

K = TypeVar("K", bound=Hashable)

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

    async def of_caller(self, read: Callable[[], Awaitable[Any]], name: str) -> Any:
        """The message of an identified caller's call that has one. `read` is the context's.

        Raises Exhausted, Busy, MalformedMessage, InvalidRequest for none, MessageLate.
        """
        if self._by_caller.get(name, 0) >= AWAITED_OF_CALLER:
            raise Exhausted(_TOO_MANY)
        if self._of_callers >= AWAITED:
            raise Busy(_TOO_MANY)
        self._of_callers += 1
        try:
            with _counted(self._by_caller, name):
                return await _only(read)
        finally:
            self._of_callers -= 1

    async def of_stranger(self, read: Callable[[], Awaitable[Any]], address: str) -> Any:
        """The message of a call whose caller is not identified, from this address. As `of_caller` else."""
        key = address_key(address)
        if self._by_address.get(key, 0) >= AWAITED_OF_ADDRESS:
            raise Exhausted(_TOO_MANY)
        if not self._of_strangers.take(address):
            raise Busy(_TOO_MANY)
        try:
            with _counted(self._by_address, key):
                return await _only(read)
        finally:
            self._of_strangers.give_back(address)


@contextmanager
def _counted(counts: dict[K, int], key: K) -> Iterator[None]:
    counts[key] = counts.get(key, 0) + 1
    try:
        yield
    finally:
        left = counts.pop(key) - 1
        if left:
            counts[key] = left


async def _only(read: Callable[[], Awaitable[Any]]) -> Any:
    try:
        async with asyncio.timeout(MESSAGE_TIME):
            message = await read()
    except TimeoutError:
        raise MessageLate(f"no message within {MESSAGE_TIME:.0f} s of the call's headers") from None
    if message is aio.EOF:
        raise InvalidRequest("the call has no message")
    if message is _MALFORMED:
        raise MalformedMessage
    return message
