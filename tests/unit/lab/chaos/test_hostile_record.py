"""What the hostile node of scripts/chaos notes of itself, and what follows for a visitor that got its answer."""

import math
import time
from pathlib import Path

import pytest
from portway_lab.chaos.hostile_record import HostileRecord, RecordWriter

HOSTILE, HONEST = "fra-3", "iad"
PLACED, OTHER = "placed", "other"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "record"


def test_it_may_answer_only_while_it_lies(path: Path) -> None:
    """A visit that was over before, or began after, must not have its answer; one that the lies overlap may."""
    record, writer = HostileRecord(path, HOSTILE), RecordWriter(path)
    writer.placed(PLACED)
    before = time.monotonic()
    assert not record.may_answer(PLACED, HONEST, 0.0, before)
    writer.lies()
    during = time.monotonic()
    assert not record.may_answer(PLACED, HONEST, 0.0, before)
    assert record.may_answer(PLACED, HONEST, before, during)
    assert record.may_answer(PLACED, HONEST, during, math.inf)
    writer.honest()
    after = time.monotonic()
    assert record.may_answer(PLACED, HONEST, before, after)
    assert not record.may_answer(PLACED, HONEST, after, math.inf)


def test_it_may_answer_whoever_came_to_it_and_for_what_was_placed_there(path: Path) -> None:
    """At another node, for a tunnel that its client has never placed there, it may not."""
    record, writer = HostileRecord(path, HOSTILE), RecordWriter(path)
    writer.placed(PLACED)
    writer.lies()
    now = time.monotonic()
    assert record.may_answer(OTHER, HOSTILE, now, now)
    assert record.may_answer(PLACED, HONEST, now, now)
    assert not record.may_answer(OTHER, HONEST, now, now)
    assert (record.was_placed(PLACED), record.was_placed(OTHER)) == (True, False)


def test_a_process_that_starts_is_honest(path: Path) -> None:
    """It was killed while it lied; what was placed at it stays noted."""
    record, first = HostileRecord(path, HOSTILE), RecordWriter(path)
    first.lies()
    first.placed(PLACED)
    assert record.wait_for(lies=True, within=0.0, supervise=lambda: None)
    second = RecordWriter(path)
    assert record.wait_for(lies=False, within=0.0, supervise=lambda: None)
    assert not record.wait_for(lies=True, within=0.0, supervise=lambda: None)
    assert record.was_placed(PLACED)
    second.told("gone", 3)
    second.told("gone", 4)
    assert record.told() == {"gone": 7}


def test_a_line_that_is_not_complete_yet_is_read_later(path: Path) -> None:
    """The writer is another process."""
    record = HostileRecord(path, HOSTILE)
    assert not record.was_placed(PLACED), "there is no file yet"
    path.write_text(f"1.0 placed {PLACED[:3]}")
    assert not record.was_placed(PLACED)
    path.write_text(f"1.0 placed {PLACED}\n")
    assert record.was_placed(PLACED)
