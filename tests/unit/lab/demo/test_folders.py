"""Whose a demo's folder is, and what stays of it."""

import os
import tempfile
import time
from pathlib import Path

import pytest
from portway_lab.demo import folders

_HOURS = 7200


@pytest.fixture(autouse=True)
def _own_temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def _made_long_ago(folder: Path) -> None:
    then = time.time() - _HOURS
    os.utime(folder, (then, then))


def test_what_a_killed_demo_left_is_swept() -> None:
    """An old folder that nobody holds goes when the next demo starts."""
    left = folders.make_folder()
    (left / "registry.log").write_text("the end")
    _made_long_ago(left)
    folders.make_folder()
    assert not left.exists()


def test_a_folder_in_use_is_never_swept() -> None:
    """However old a demo is, its folder stays while it runs."""
    folder = folders.make_folder()
    with folders.owned_folder(folder, keep_logs=False):
        _made_long_ago(folder)
        folders.make_folder()
        assert folder.exists()
    assert not folder.exists()


def test_a_demo_that_has_just_ended_keeps_its_logs() -> None:
    """A fresh folder is not swept: somebody may be reading it."""
    left = folders.make_folder()
    folders.make_folder()
    assert left.exists()


def test_logs_stay_without_the_secrets() -> None:
    """Where logs are kept, keys, tokens and the database are not."""
    folder = folders.make_folder()
    with folders.owned_folder(folder, keep_logs=True):
        (folder / "pki").mkdir()
        (folder / "pki" / "ca.key").write_text("secret")
        (folder / "admin-token").write_text("secret")
        (folder / "registry.log").write_text("a line")
    assert [path.name for path in folder.iterdir()] == ["registry.log"]


def test_after_a_failure_everything_stays() -> None:
    """A demo that failed leaves its folder as it was, for whoever looks into it."""
    folder = folders.make_folder()

    def fail_in_use() -> None:
        with folders.owned_folder(folder, keep_logs=False):
            (folder / "registry.db").write_text("state")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_in_use()
    assert (folder / "registry.db").exists()
