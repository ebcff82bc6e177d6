"""portway.engine.tunnel_handle: one tunnel from the caller's thread: waiting, giving up, closing, forks."""

import asyncio
import os
from concurrent.futures import Future
from typing import Any

import pytest
from portway.config import Settings
from portway.engine import tunnel_handle as module
from portway.engine.tunnel_handle import TunnelHandle
from portway.errors import QuotaError, RemoteError, TunnelLostError
from portway.tunnel import Tunnel, TunnelRequest

TUNNEL = Tunnel("a.test", 443)


class FakeHeld:
    """What the engine's `open` returns."""

    def __init__(self) -> None:
        self.public = TUNNEL
        self.lost: TunnelLostError | None = None


class FakeEngine:
    """Notes the calls of a handle. `opening` is the future of what it opens; closing is done at once, or never."""

    def __init__(self) -> None:
        self.opening: Future[Any] = Future()
        self.released: list[object] = []
        self.withdrawn: list[object] = []
        self.ended = False
        self.stuck = False

    def open(self, request: TunnelRequest) -> Future[Any]:
        return self.opening

    def release(self, held: object) -> Future[None] | None:
        if self.ended:
            return None
        self.released.append(held)
        done: Future[None] = Future()
        if not self.stuck:
            done.set_result(None)
        return done

    def withdraw(self, request: object) -> None:
        self.withdrawn.append(request)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def request_of_8000(settings: Settings) -> TunnelRequest:
    return TunnelRequest(8000, None, False, False, 10.0, settings)


@pytest.fixture
def handle(engine: FakeEngine, request_of_8000: TunnelRequest) -> TunnelHandle[Any]:
    return TunnelHandle(engine, request_of_8000)


async def test_both_ways_of_waiting_give_the_public_tunnel(engine: FakeEngine, handle: TunnelHandle[Any]) -> None:
    """On a thread, and on an event loop."""
    engine.opening.set_result(FakeHeld())
    assert handle.result() is TUNNEL
    assert await handle.wait() is TUNNEL


async def test_an_error_of_the_engine_is_the_caller_s(engine: FakeEngine, handle: TunnelHandle[Any]) -> None:
    """Unchanged."""
    error = QuotaError("no more")
    engine.opening.set_exception(error)
    with pytest.raises(QuotaError) as raised:
        handle.result()
    assert raised.value is error
    with pytest.raises(QuotaError) as raised:
        await handle.wait()
    assert raised.value is error


async def test_an_engine_that_stops_is_an_error_that_says_what_to_do(
    engine: FakeEngine, handle: TunnelHandle[Any]
) -> None:
    """It cancels the opening; the caller was not cancelled."""
    engine.opening.cancel()
    engine.opening.set_running_or_notify_cancel()
    with pytest.raises(RemoteError, match="open it again"):
        handle.result()
    with pytest.raises(RemoteError, match="open it again"):
        await handle.wait()


async def test_a_caller_that_is_cancelled_stays_cancelled(handle: TunnelHandle[Any]) -> None:
    """That is not an error of the engine's."""
    waiting = asyncio.ensure_future(handle.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_withdrawing_cancels_the_opening_and_closes_what_it_made(
    engine: FakeEngine, handle: TunnelHandle[Any], request_of_8000: TunnelRequest
) -> None:
    """The opening may have ended just before."""
    handle.withdraw()
    assert engine.opening.cancelled()
    assert engine.withdrawn == [request_of_8000]


async def test_closing_releases_the_tunnel_and_tells_its_loss(engine: FakeEngine, handle: TunnelHandle[Any]) -> None:
    """In both ways of waiting."""
    held = FakeHeld()
    engine.opening.set_result(held)
    assert handle.close() is None
    held.lost = TunnelLostError(TUNNEL.url, RemoteError("why"))
    assert await handle.wait_closed() is held.lost
    assert engine.released == [held, held]


async def test_an_engine_that_has_ended_has_no_tunnel_to_close(engine: FakeEngine, handle: TunnelHandle[Any]) -> None:
    """Its loss is told nevertheless."""
    held = FakeHeld()
    held.lost = TunnelLostError(TUNNEL.url, RemoteError("why"))
    engine.opening.set_result(held)
    engine.ended = True
    assert handle.close() is held.lost
    assert await handle.wait_closed() is held.lost


async def test_a_stuck_engine_does_not_hang_the_program(
    engine: FakeEngine, handle: TunnelHandle[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Closing waits for a limited time."""
    monkeypatch.setattr(module, "CLOSE_TIMEOUT", 0.01)
    engine.opening.set_result(FakeHeld())
    engine.stuck = True
    assert handle.close() is None
    assert "took too long" in caplog.text
    assert await handle.wait_closed() is None


async def test_in_a_forked_child_closing_does_nothing(
    engine: FakeEngine, handle: TunnelHandle[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tunnel is the parent's."""
    engine.opening.set_result(FakeHeld())
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    assert not handle.ours
    handle.withdraw()
    assert handle.close() is None
    assert await handle.wait_closed() is None
    assert engine.released == engine.withdrawn == []
