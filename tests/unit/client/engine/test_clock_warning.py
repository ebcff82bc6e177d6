"""portway.engine.clock_warning: a wrong clock of this machine is told once."""

import time

import pytest
from portway.engine.clock_warning import DIFFERENCE, ClockWarning


@pytest.mark.parametrize(("ahead", "way"), [(2 * DIFFERENCE, "ahead of"), (-2 * DIFFERENCE, "behind")])
def test_a_wrong_clock_is_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, ahead: float, way: str
) -> None:
    """By how much, compared with which node; a node that says no time, or nearly the same, is no reason."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    warning = ClockWarning()
    warning.compare("n0", 0.0)
    warning.compare("n0", time.time() - DIFFERENCE / 2)
    assert caplog.messages == []
    for _ in range(2):
        warning.compare("n1", time.time() - ahead)
    assert caplog.messages == [f"this clock is 600 s {way} that of node n1: set it right"]
