"""The only message of a call, and how long it is awaited."""

import asyncio
from collections.abc import Awaitable

import pytest
from portway_registry.errors import MessageLate
from portway_registry.services import messages
from portway_registry.services.messages import AwaitedMessages


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MESSAGE_TIME", 0.05)


def never() -> Awaitable[str]:
    return asyncio.get_running_loop().create_future()


async def at_once() -> str:
    return "message"


async def test_each_call_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is due later than another ends later; neither ends because of the other, nor one that has its
    message."""
    loop = asyncio.get_running_loop()
    awaited, began = AwaitedMessages(), loop.time()

    async def ends() -> float:
        with pytest.raises(MessageLate):
            await awaited.of_caller(never, "token1")
        return loop.time() - began

    ends_at = []
    for within in (0.02, 0.02, 0.1):
        monkeypatch.setattr(messages, "MESSAGE_TIME", within)
        ends_at.append(asyncio.ensure_future(ends()))
        await asyncio.sleep(0)
    assert await awaited.of_caller(at_once, "token1") == "message"
    first, second, third = [await one for one in ends_at]
    assert min(first, second) >= 0.02
    assert third >= 0.1


async def test_calls_that_get_their_messages_leave_nothing(soon: None) -> None:
    """Neither a place among those that wait, nor a timer that goes on; and the next call is timed as the first."""
    loop = asyncio.get_running_loop()
    awaited = AwaitedMessages()
    for _ in range(3):
        assert await awaited.of_stranger(at_once, "192.0.2.1") == "message"
        began = loop.time()
        with pytest.raises(MessageLate):
            await awaited.of_stranger(never, "192.0.2.1")
        assert loop.time() - began >= 0.05


async def test_a_call_that_is_cancelled_is_not_late(soon: None) -> None:
    """Its caller has gone."""
    awaited = AwaitedMessages()
    call = asyncio.ensure_future(awaited.of_caller(never, "token1"))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await awaited.of_caller(at_once, "token1") == "message"
