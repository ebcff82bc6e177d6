"""Whether files are still those that were read."""

from pathlib import Path

from portway_runtime.file_stamps import stamps_of


def test_a_file_that_is_left_alone_keeps_its_stamp(tmp_path: Path) -> None:
    """However often it is looked at."""
    file = tmp_path / "file"
    file.write_text("as it was")
    assert stamps_of([file]) == stamps_of([file])


def test_a_file_that_is_written_or_replaced_has_another_stamp(tmp_path: Path) -> None:
    """Also where the new one is as long as the old."""
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_text("one")
    before = stamps_of([file])
    file.write_text("longer")
    written = stamps_of([file])
    other.write_text("as long")
    other.replace(file)
    assert len({before, written, stamps_of([file])}) == 3


def test_a_file_that_is_not_there_has_none(tmp_path: Path) -> None:
    """It is noticed when it comes, and the others are told apart meanwhile."""
    here, missing = tmp_path / "here", tmp_path / "missing"
    here.write_text("here")
    before = stamps_of([here, missing])
    assert before[0] is not None
    assert before[1] is None
    missing.write_text("now")
    assert stamps_of([here, missing]) != before
