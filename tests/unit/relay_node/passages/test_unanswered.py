"""Which callers are led past which replicas."""

from dataclasses import dataclass
from typing import cast

import pytest
from portway_carrier.contract import Passage
from portway_relay.passages import unanswered as unanswered_module
from portway_relay.passages.fronts import Front
from portway_relay.passages.unanswered import Unanswered
from portway_runtime.endpoints import Endpoint
from portway_testkit.fakes.clock import ManualClock

SILENT = unanswered_module._SILENT
ONE, OTHER = Front("r-1", Endpoint("192.0.2.1", 7400)), Front("r-2", Endpoint("192.0.2.2", 7400))
CALLER = "198.51.100.1"


@dataclass(eq=False)
class Silent:
    """A passage, as far as it matters here."""

    silence: float


class Stage:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.doubted: list[Front] = []
        self.unanswered = Unanswered(self.clock, self.doubted.append)

    def passage(self, silence: float, front: Front = ONE, address: str = CALLER) -> Passage:
        passage = cast(Passage, Silent(silence))
        self.unanswered.began(address, front, passage)
        return passage

    def ended(self, address: str, front: Front, silence: float) -> bool:
        """A passage began, and is over."""
        return self.unanswered.over(address, self.passage(silence, front, address))


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_each_caller_has_its_own(stage: Stage) -> None:
    """An IPv4 address, or a /64; an answer in time says nothing against a replica."""
    unanswered = stage.unanswered
    assert not stage.ended(CALLER, ONE, SILENT - 0.1)
    assert not unanswered.by(CALLER)
    assert stage.ended(CALLER, ONE, SILENT)
    assert stage.ended("2001:db8:0:1::1", OTHER, SILENT)
    assert set(unanswered.by(CALLER)) == {ONE}
    assert not unanswered.by("198.51.100.2")
    assert set(unanswered.by("2001:db8:0:1::ffff")) == {OTHER}
    assert not unanswered.by("2001:db8:0:2::1")
    assert stage.doubted == [ONE, OTHER]


def test_who_comes_again_while_its_first_connection_waits_was_not_answered(stage: Stage) -> None:
    """Neither one that is answered nor one that has been open for long says so."""
    answered = stage.passage(0.1)
    assert not stage.unanswered.by(CALLER)
    stage.unanswered.over(CALLER, answered)
    watching = stage.passage(60.0)
    stage.clock.now += 60
    assert not stage.unanswered.by(CALLER)
    waiting = stage.passage(SILENT)
    assert not stage.unanswered.by("198.51.100.2")
    assert set(stage.unanswered.by(CALLER)) == {ONE}
    for passage in (watching, waiting):
        stage.unanswered.over(CALLER, passage)
    assert not stage.unanswered._running


def test_it_is_forgotten_in_minutes(stage: Stage) -> None:
    """Each replica by its own time."""
    stage.ended(CALLER, ONE, SILENT)
    stage.clock.now += 200
    stage.ended(CALLER, OTHER, SILENT)
    by = stage.unanswered.by(CALLER)
    assert by[OTHER] - by[ONE] == 200
    stage.clock.now += 100
    assert set(stage.unanswered.by(CALLER)) == {OTHER}
    stage.clock.now += 200
    assert not stage.unanswered.by(CALLER)
