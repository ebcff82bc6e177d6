"""portway.engine.punctuality: who is warned that its program computes, and who is not."""

import asyncio
import logging
import threading
import time

import pytest
from portway.engine import punctuality as module
from portway.engine.punctuality import COMPUTES, LATE, LATE_LOOKS, LOOKS, Punctuality, Rule


def test_late_again_and_again_while_the_program_computes() -> None:
    """Half of the looks are enough, in whatever order."""
    rule = Rule()
    looks = [rule.looked(LATE, COMPUTES) for _ in range(LATE_LOOKS)]
    assert looks == [False] * (LATE_LOOKS - 1) + [True]
    mixed = Rule()
    looks = [mixed.looked(LATE if number % 2 else 0.0, 1.0) for number in range(LOOKS)]
    assert looks == [False] * (LOOKS - 1) + [True]


@pytest.mark.parametrize(
    ("late", "computed"),
    [
        (LATE / 2, 1.0),  # it computes where the interpreter is not needed
        (0.05, COMPUTES / 2),  # the machine has no processor for it
        (3600.0, 0.0),  # it was stopped, or the machine slept
    ],
)
def test_late_or_computing_is_not_enough(late: float, computed: float) -> None:
    """However long it lasts."""
    rule = Rule()
    assert not any(rule.looked(late, computed) for _ in range(10 * LOOKS))


def test_what_was_long_ago_does_not_count() -> None:
    """A program that computes for some seconds now and then is left alone."""
    rule = Rule()
    for _ in range(20):
        assert not any(rule.looked(LATE, 1.0) for _ in range(LATE_LOOKS - 1))
        assert not any(rule.looked(0.0, 0.0) for _ in range(LOOKS))


class Steps:
    """A clock that goes on by as much at each reading."""

    def __init__(self, step: float) -> None:
        self.now = 0.0
        self.readings = 0
        self._step = step

    def __call__(self) -> float:
        self.now += self._step
        self.readings += 1
        return self.now


async def look(punctuality: Punctuality, clock: Steps, times: int) -> None:
    """Return after so many looks, or when there are no more."""
    for _ in range(10 * times):
        if clock.readings >= 2 * times:
            break
        await asyncio.sleep(0)
    punctuality.end()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks follow each other; the clocks say how much time has passed."""
    monkeypatch.setattr(module, "INTERVAL", 0.0)


async def test_a_program_that_computes_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """With what to do; afterwards nobody looks any more, nor at the next tunnel."""
    clock = Steps(1.0)
    punctuality = Punctuality(lambda: True, clock, Steps(0.9))
    punctuality.begin()
    punctuality.begin()
    await look(punctuality, clock, 100)
    assert clock.readings == 2 * LATE_LOOKS
    punctuality.begin()
    await look(punctuality, clock, 100)
    assert clock.readings == 2 * LATE_LOOKS
    (record,) = caplog.records
    assert (record.name, record.levelno) == (module.__name__, logging.WARNING)
    for remedy in ("process=True", "PORTWAY_PROCESS=1", "`portway forward`"):
        assert remedy in record.getMessage()


async def test_a_program_that_waits_is_told_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """However late the loop is."""
    clock = Steps(1.0)
    punctuality = Punctuality(lambda: True, clock, Steps(0.1))
    punctuality.begin()
    await look(punctuality, clock, 100)
    assert clock.readings >= 200
    assert not caplog.records


async def test_nobody_looks_without_tunnels() -> None:
    """From the last one on; the next one begins again."""
    clock, open_tunnels = Steps(1.0), [1]
    punctuality = Punctuality(lambda: open_tunnels, clock, Steps(0.1))
    punctuality.begin()
    await asyncio.sleep(0)
    open_tunnels.clear()
    await look(punctuality, clock, 100)
    assert clock.readings < 10
    readings = clock.readings
    open_tunnels.append(1)
    punctuality.begin()
    await look(punctuality, clock, 100)
    assert clock.readings > readings


async def test_other_threads_are_what_counts() -> None:
    """Not what this one has computed."""
    before = module.computed_elsewhere()
    began = time.thread_time()
    while time.thread_time() - began < 0.05:
        pass
    own = module.computed_elsewhere() - before
    thread = threading.Thread(target=compute, args=(0.2,))
    thread.start()
    thread.join()
    assert own < 0.04
    assert module.computed_elsewhere() - before >= 0.15


def compute(seconds: float) -> None:
    began = time.thread_time()
    while time.thread_time() - began < seconds:
        pass
