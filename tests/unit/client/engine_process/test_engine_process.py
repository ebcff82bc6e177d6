"""portway.engine_process.engine_process: when a child counts as stuck."""

from typing import Any

import pytest
from portway.config import resolve
from portway.engine_process import engine_process as module
from portway.engine_process.engine_process import ANSWER_WITHIN, EngineProcess, ProcessTunnel
from portway.tunnel import TunnelRequest

REQUEST = TunnelRequest(8000, None, False, False, 0.5, resolve(registry="127.0.0.1:1", token="pw_test_secret"))


class Child:
    """In the child's place."""

    ready = True

    def __init__(self) -> None:
        self.kills = 0

    def kill(self) -> None:
        self.kills += 1


@pytest.mark.parametrize("answered", [True, False])
def test_an_answer_that_waits_to_be_read_is_one(monkeypatch: pytest.MonkeyPatch, answered: bool) -> None:
    """The program was stopped (Ctrl-Z) while a tunnel was being opened: when it goes on all time limits are over at
    once, and the child, which has answered, is not stuck."""
    tunnel, child, waits = ProcessTunnel(1, REQUEST), Child(), list[float]()

    class LateEvent:
        """Time passes at once; the other thread reads during the second wait."""

        done = False

        def set(self) -> None:
            self.done = True

        def wait(self, timeout: float) -> bool:
            waits.append(timeout)
            if answered and len(waits) == 2:
                tunnel.opening.set_result(tunnel)
            return self.done

    monkeypatch.setattr(module, "Event", LateEvent)
    unused: Any = None
    EngineProcess._expect_answer(unused, tunnel, child)  # type: ignore[arg-type]
    assert waits == [REQUEST.timeout, ANSWER_WITHIN]
    assert child.kills == (0 if answered else 1)
