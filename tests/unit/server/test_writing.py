"""What root gives to a user whose program may have been broken into."""

import grp
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


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_the_users_reach_what_is_written_for_them_whatever_root_s_umask(tmp_path: Path, umask: int) -> None:
    """Hardened systems have 027 or 077: the registry and the relay could not read their settings, nor enter their
    folders. Nobody else can either way."""
    tmp_path.chmod(0o755)
    settings, state = tmp_path / "etc" / "portway" / "relay.toml", tmp_path / "var" / "portway" / "portway-relay"
    group = grp.getgrgid(os.getgid()).gr_name
    before = os.umask(umask)
    try:
        writing.write([writing.File(settings, "x", group)])
        writing.make_folder(state, "nobody")
    finally:
        os.umask(before)
    assert {one.stat().st_mode & 0o777 for one in (settings.parent, settings.parent.parent)} == {0o755}
    assert {one.stat().st_mode & 0o777 for one in (state.parent, state.parent.parent)} == {0o755}
    assert settings.stat().st_mode & 0o777 == 0o640
    assert state.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir(mode=0o700)
    writing.write([writing.File(tmp_path / "etc" / "portway" / "server.toml", "x", None)])
    assert (tmp_path / "etc").stat().st_mode & 0o777 == 0o700
