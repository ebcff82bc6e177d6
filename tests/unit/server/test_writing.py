"""What root gives to a user whose program may have been broken into."""

import os
from pathlib import Path
from typing import Any

import pytest
from portway_server import writing

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")

NOBODY = 65_534


def test_all_in_a_folder_is_given(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "file").touch()
    (tmp_path / "current").symlink_to("deep")
    writing.give(tmp_path, "nobody")
    assert {one.lstat().st_uid for one in (tmp_path, *tmp_path.rglob("*"))} == {NOBODY}
    writing.give(tmp_path / "deep" / "er" / "file", None)
    assert (tmp_path / "deep" / "er" / "file").stat().st_uid == NOBODY


@pytest.mark.parametrize("swapped_before", [1, 2, 3])
def test_a_folder_that_becomes_a_link_meanwhile_gives_away_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swapped_before: int
) -> None:
    """The folder is its user's, who may put a link in the place of what was found a moment ago."""
    theirs, system = tmp_path / "theirs", tmp_path / "etc"
    for folder in (theirs / "zones", system):
        folder.mkdir(parents=True)
        (folder / "shadow").touch()
    calls, chown = 0, os.chown

    def swapping(*args: Any, **options: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == swapped_before:
            (theirs / "zones").rename(theirs / "before")
            (theirs / "zones").symlink_to(system)
        chown(*args, **options)

    monkeypatch.setattr(os, "chown", swapping)
    writing.give(theirs, "nobody")
    monkeypatch.undo()
    assert calls
    assert (system / "shadow").stat().st_uid == 0
