"""The course of scripts/chaos: whatever a check finds, the hostile node does not go on lying."""

from types import SimpleNamespace
from typing import Any

import pytest
from portway_lab.chaos import command, consistency
from portway_lab.chaos.plan import HOSTILE, Fault, Kind
from portway_lab.cluster.visits import WrongBytes
from portway_testkit.fakes.clock import ManualClock


@pytest.fixture
def steps() -> list[str]:
    """What was done to the stage."""
    return []


@pytest.fixture
def stage(steps: list[str]) -> Any:
    def done(what: str, fault: Fault) -> None:
        assert (fault.kind, fault.part) == (Kind.LIE, HOSTILE)
        steps.append(what)

    return SimpleNamespace(
        begin=lambda fault: done("begin", fault),
        end=lambda fault: done("end", fault),
        supervise=lambda: None,
        hostile=SimpleNamespace(wait_for=lambda lies, within, supervise: True),
    )


def test_lies_end_when_the_node_does_not_begin_to_lie(stage: Any, steps: list[str]) -> None:
    """It may begin later, when nobody looks."""
    stage.hostile.wait_for = lambda lies, within, supervise: False
    assert command._lie(stage, command._Log()) == [f"{HOSTILE} did not begin to lie"]
    assert steps == ["begin", "end"]


def test_lies_end_when_a_visitor_gets_wrong_bytes(
    stage: Any, steps: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run fails; nothing that is checked afterwards is spoilt by them."""

    def severed(_: Any) -> tuple[int, list[str]]:
        raise WrongBytes("another's")

    monkeypatch.setattr(consistency, "severed", severed)
    with pytest.raises(WrongBytes):
        command._lie(stage, command._Log())
    assert steps == ["begin", "end"]


def test_what_was_severed_is_returned(stage: Any, steps: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """All rounds together, and that the node did not stop."""
    monkeypatch.setattr(command, "_LIES_ALONE", 0.0)
    monkeypatch.setattr(consistency, "severed", lambda _: (1, ["one"]))
    stage.hostile.wait_for = lambda lies, within, supervise: lies
    assert command._lie(stage, command._Log()) == ["one", f"{HOSTILE} did not stop lying"]
    assert steps == ["begin", "end"]


def test_a_node_that_begins_late_lies_as_long(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been started just now."""
    clock, rounds = ManualClock(), list[float]()

    def wait_for(lies: bool, within: float, supervise: object) -> bool:
        clock.now += command._LIES_ALONE + 1.0
        return True

    def severed(_: Any) -> tuple[int, list[str]]:
        rounds.append(clock.now)
        clock.now += command._LIES_ALONE / 2
        return 1, []

    monkeypatch.setattr(command, "time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(consistency, "severed", severed)
    stage.hostile.wait_for = wait_for
    assert command._lie(stage, command._Log()) == []
    assert len(rounds) == 2
