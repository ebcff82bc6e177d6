"""Whether files are still those that were read."""

import os
from pathlib import Path

import pytest
from portway_runtime.file_stamps import stamps_of
from portway_testkit.waiting import eventually


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


@pytest.mark.parametrize("change", ["another mode", "the same time and size"])
def test_what_keeps_a_files_time_is_noticed_too(tmp_path: Path, change: str) -> None:
    """One that could not be read may be readable now; one that is copied over it may be as old."""
    file = tmp_path / "file"
    file.write_text("one")
    stat, before = file.stat(), stamps_of([file])

    def noticed() -> bool:
        """Perhaps not at first: a file system's clock may go on 100 times in a second."""
        if change == "another mode":
            file.chmod(0o640)
        else:
            file.write_text("two")
            os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        return stamps_of([file]) != before

    eventually(noticed)


def test_a_file_that_is_not_there_has_none(tmp_path: Path) -> None:
    """It is noticed when it comes, and the others are told apart meanwhile."""
    here, missing = tmp_path / "here", tmp_path / "missing"
    here.write_text("here")
    before = stamps_of([here, missing])
    assert before[0] is not None
    assert before[1] is None
    missing.write_text("now")
    assert stamps_of([here, missing]) != before
