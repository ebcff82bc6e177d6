"""portway.engine_process.child: what the child holds of the program's tunnels."""

from concurrent.futures import Future
from typing import Any

import portway
import pytest
from portway.config import resolve
from portway.engine_process.channel import Message
from portway.engine_process.child import _Tunnels
from portway.engine_process.messages import request_to_message
from portway.tunnel import Before, Tunnel, TunnelRequest

REQUEST = TunnelRequest(8000, None, False, False, 0.5, resolve(registry="127.0.0.1:1", token="pw_test_secret"))
BEFORE = Before(bytes(32), Tunnel("label.eu.test", 443))


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
