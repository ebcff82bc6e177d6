"""The messages of a call as its handler gets them: decoded, and the only one of a call within a time limit.

Here: how long, and for how many calls, a message is awaited. A call's headers cost its caller 30 bytes and gRPC 20 KB.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any, Final

from google.protobuf.message import DecodeError
from grpc import aio

from portway_registry.errors import Exhausted, InvalidRequest, MalformedMessage, MessageLate

# Seconds. A client sends headers and message together; this is many round trips of a slow line.
MESSAGE_TIME: Final = 5.0
# Calls whose message is awaited: of one identified caller, of one address that calls without being identified, in all.
# 2,000 of them hold 40 MB, or 170 MB with messages of the largest size that are not whole.
AWAITED_OF_CALLER: Final = 256
AWAITED_OF_ADDRESS: Final = 16
AWAITED: Final = 2_000

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
    """The calls of one port whose message has not come yet."""

    def __init__(self) -> None:
        self._by_key: dict[str, int] = {}
        self._all = 0

    async def only(self, read: Callable[[], Awaitable[Any]], key: str, limit: int) -> Any:
        """The message of a call that has one, of whose `key` at most `limit` calls may wait. `read` is the context's.

        Raises Exhausted, MalformedMessage, InvalidRequest for none, MessageLate.
        """
        awaited = self._by_key.get(key, 0)
        if awaited >= limit or self._all >= AWAITED:
            raise Exhausted("too many calls whose messages have not come: send a call's message with its headers")
        self._by_key[key] = awaited + 1
        self._all += 1
        try:
            async with asyncio.timeout(MESSAGE_TIME):
                message = await read()
        except TimeoutError:
            raise MessageLate(f"no message within {MESSAGE_TIME:.0f} s of the call's headers") from None
        finally:
            self._all -= 1
            left = self._by_key.pop(key) - 1
            if left:
                self._by_key[key] = left
        if message is aio.EOF:
            raise InvalidRequest("the call has no message")
        if message is _MALFORMED:
            raise MalformedMessage
        return message
