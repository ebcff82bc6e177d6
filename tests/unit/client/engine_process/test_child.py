"""portway.engine_process.child: what the child holds of the program's tunnels."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import portway
import pytest
from portway.config import resolve
from portway.engine_process.channel import Message
from portway.engine_process.child import QUOTA_WITHIN, RETURN_WITHIN, _Tunnels, come_back
from portway.engine_process.messages import request_to_message
from portway.tunnel import Before, Tunnel, TunnelRequest
from portway_testkit.fakes.clock import ManualClock

REQUEST = TunnelRequest(8000, None, False, False, 0.5, resolve(registry="127.0.0.1:1", token="pw_test_secret"))
BEFORE = Before(bytes(32), Tunnel("label.eu.test", 443))


class Clock(ManualClock):
    """Sleeping advances it."""

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class Sent:
    """In the sender's place."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def send(self, message: Message) -> None:
        self.messages.append(message)


class Engine:
    """In the engine's place: a test decides what becomes of an opening."""

    def __init__(self) -> None:
        self.requests: list[TunnelRequest] = []
        self.openings: list[Future[Any]] = []

    def open(self, request: TunnelRequest) -> Future[Any]:
        self.requests.append(request)
        self.openings.append(Future())
        return self.openings[-1]

    def submit(self, make: Callable[["Trying"], Coroutine[Any, Any, Any]]) -> Future[Any]:
        trying = Trying()
        self.openings.append(Future())
        self.openings[-1].set_result(asyncio.run(make(trying)))
        self.requests += trying.requests
        return self.openings[-1]


class Trying:
    """In the engine's place, on its loop: tries fail with these errors, then one opens."""

    def __init__(self, *errors: portway.Error) -> None:
        self.requests: list[TunnelRequest] = []
        self.errors = list(errors)

    async def open(self, request: TunnelRequest) -> "Held":
        self.requests.append(request)
        if self.errors:
            raise self.errors.pop(0)
        return Held()


class Held:
    kept = BEFORE


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    engine = Engine()
    monkeypatch.setattr("portway.engine.engine_thread.running_engine", lambda: engine)
    return engine


def ask(tunnels: _Tunnels, number: int) -> None:
    tunnels.received({"open": number, "request": request_to_message(REQUEST, None)})


def test_a_refused_tunnel_is_not_held(engine: Engine) -> None:
    """The program tries again for hours, and closes none of them: each has its CA and its error."""
    sent = Sent()
    tunnels = _Tunnels(sent)  # type: ignore[arg-type]
    for number in range(3):
        ask(tunnels, number)
        engine.openings[-1].set_exception(portway.AuthError("revoked"))
    assert [list(message) for message in sent.messages] == [["refused", "error"]] * 3
    assert tunnels._requests == tunnels._openings == {}


def test_a_tunnel_of_an_engine_that_stops_is_not_held(engine: Engine) -> None:
    """Its opening is cancelled."""
    sent = Sent()
    tunnels = _Tunnels(sent)  # type: ignore[arg-type]
    ask(tunnels, 1)
    engine.openings[-1].cancel()
    assert [list(message) for message in sent.messages] == [["refused", "error"]]
    assert tunnels._requests == tunnels._openings == {}


def test_a_lost_tunnel_is_not_held(engine: Engine) -> None:
    """An open one is, until it is lost."""
    sent = Sent()
    tunnels = _Tunnels(sent)  # type: ignore[arg-type]
    ask(tunnels, 1)
    engine.openings[-1].set_result(Held())
    assert list(tunnels._requests) == list(tunnels._openings) == [1]
    tell = engine.requests[-1].tunnel_lost
    assert tell is not None
    tell(portway.TunnelLostError("https://label.eu.test", portway.AuthError("revoked")))
    assert [next(iter(message)) for message in sent.messages] == ["opened", "lost"]
    assert tunnels._requests == tunnels._openings == {}


@pytest.mark.parametrize(("timeout", "expected"), [(0.5, RETURN_WITHIN), (3600.0, 3600.0)])
def test_a_tunnel_that_comes_back_has_time(engine: Engine, timeout: float, expected: float) -> None:
    """Half a second may do for a program that has a session, but the next process has none."""
    tunnels = _Tunnels(Sent())  # type: ignore[arg-type]
    request = request_to_message(replace(REQUEST, timeout=timeout), BEFORE)
    tunnels.received({"open": 1, "request": request})
    assert [one.timeout for one in engine.requests] == [expected]
    assert tunnels._requests[1] is engine.requests[0]  # by which it is withdrawn


AWAY = portway.UnreachableError("no registry")
FULL = portway.QuotaError("no more")


async def test_each_reason_why_tunnels_are_not_back_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """They are tried for days, and all for the same reasons."""
    caplog.set_level(logging.WARNING, "portway")
    reasons: set[str] = set()
    clock = Clock()
    for _ in range(2):
        trying = Trying(AWAY, AWAY, portway.RemoteError("broken"), AWAY)
        await come_back(trying, REQUEST, reasons, clock, clock.sleep)
        assert len(trying.requests) == 5
    assert caplog.messages == ["not attached yet: no registry", "not attached yet: broken"]


async def test_a_quota_is_tried_for_minutes() -> None:
    """The process that was killed may still count. Then the tunnel is lost."""
    clock = Clock()
    trying = Trying(*[FULL] * 20)
    await come_back(trying, REQUEST, set(), clock, clock.sleep)
    assert len(trying.requests) == 21
    began, trying = clock.now, Trying(*[FULL] * 1000)
    with pytest.raises(portway.QuotaError, match="no more"):
        await come_back(trying, REQUEST, set(), clock, clock.sleep)
    assert clock.now - began == pytest.approx(QUOTA_WITHIN, abs=10)


async def test_a_revoked_token_is_final() -> None:
    """No further try can help."""
    trying = Trying(portway.AuthError("revoked"))
    with pytest.raises(portway.AuthError):
        await come_back(trying, REQUEST, set())
    assert len(trying.requests) == 1
