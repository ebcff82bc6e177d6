"""portway_carrier.python.core.core: callbacks to the carrier's caller, and counters."""

import asyncio
import logging
from dataclasses import dataclass

import pytest
from portway_carrier.python.core.core import Core
from portway_carrier.values import Counters, Limits


@dataclass(eq=False)
class Visit:
    """A visit as the counters see it."""

    bytes_in: int = 0
    bytes_out: int = 0


async def test_a_callback_runs_after_the_call_that_caused_it() -> None:
    """With its arguments, on a later turn of the loop."""
    core, calls = Core(Limits()), list[tuple[int, int]]()
    core.notify(None, lambda one, two: calls.append((one, two)), 1, two=2)
    assert not calls
    await asyncio.sleep(0)
    assert calls == [(1, 2)]


async def test_a_callback_that_raises_closes_what_it_concerns(caplog: pytest.LogCaptureFixture) -> None:
    """And is logged; the loop goes on."""

    def fail() -> None:
        raise RuntimeError("of the caller")

    core, closed = Core(Limits()), list[bool]()
    with caplog.at_level(logging.ERROR):
        core.notify(lambda: closed.append(True), fail)
        core.notify(None, fail)
        await asyncio.sleep(0)
    assert closed == [True]
    assert [record.message for record in caplog.records] == ["a callback failed"] * 2


async def test_bytes_are_counted_while_a_visit_runs_and_once_after_it() -> None:
    """Its end may be reported more than once."""
    core, visit = Core(Limits()), Visit()
    core.visit_started(visit)
    visit.bytes_in, visit.bytes_out = 3, 5
    assert core.counters() == Counters(bytes_in=3, bytes_out=5, visits_started=1)
    core.visit_ended(visit)
    core.visit_ended(visit)
    assert core.counters() == Counters(bytes_in=3, bytes_out=5, visits_started=1, visits_ended=1)
