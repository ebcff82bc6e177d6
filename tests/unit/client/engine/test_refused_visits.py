"""portway.engine.refused_visits: what a program's log says of visitors that its servers did not take."""

import logging

import pytest
from portway.engine.refused_visits import TOLD_AGAIN, RefusedVisits
from portway_proto.wire.frames import Opening, RefusalReason
from portway_testkit.fakes.clock import ManualClock

ONE, OTHER = (Opening(label * 16, "192.0.2.1", 1) for label in "ab")
UNREACHABLE = (RefusalReason.UNREACHABLE, "127.0.0.1:8000: Connection refused")
OVERLOADED = (RefusalReason.OVERLOADED, "127.0.0.1:8000: Too many open files")


def test_each_reason_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    """And which tunnel it is, without its whole name, which lets in whoever reads it."""
    told = RefusedVisits()
    told.visit_refused(ONE, *UNREACHABLE)
    told.visit_refused(ONE, *OVERLOADED)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    unreachable, overloaded = (record.message for record in caplog.records)
    assert unreachable.startswith("a visitor of tunnel aaaa… found no server: 127.0.0.1:8000: Connection refused")
    assert "127.0.0.1:8000: Too many open files: raise" in overloaded


def test_many_visitors_are_told_of_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    """Of each tunnel."""
    clock = ManualClock()
    told = RefusedVisits(clock)
    for _ in range(3):
        told.visit_refused(ONE, *UNREACHABLE)
        told.visit_refused(OTHER, *UNREACHABLE)
        clock.now += TOLD_AGAIN / 3
    assert len(caplog.records) == 2
    told.visit_refused(ONE, *UNREACHABLE)
    assert len(caplog.records) == 3


def test_a_tunnel_that_was_closed_just_now_is_nothing_to_tell(caplog: pytest.LogCaptureFixture) -> None:
    """Its visitor was on the way."""
    RefusedVisits().visit_refused(ONE, RefusalReason.NOT_HERE, "no such tunnel here")
    assert not caplog.records
