"""Secret files: whole or not at all, and for their owner's eyes."""

import errno
import os
import stat
from pathlib import Path

import pytest
from portway_runtime.secret_files import create_file, replace_file


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_replaced(tmp_path: Path, durable: bool) -> None:
    """Its content and its mode are the new ones, and nothing else is left in the folder."""
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o644)
    replace_file(path, b"new", durable=durable)
    assert (path.read_bytes(), _mode(path)) == (b"new", 0o600)
    assert list(tmp_path.iterdir()) == [path]


def test_a_draft_that_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    """Drafts do not pile up beside the file, and none of them blocks the next write."""
    path = tmp_path / "secret"
    (tmp_path / ".secret.draft").write_text("half")
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_mode_may_be_given(tmp_path: Path) -> None:
    """What others may read is the caller's choice."""
    replace_file(tmp_path / "ready", b"", mode=0o640)
    assert create_file(tmp_path / "made", b"", mode=0o640)
    assert [_mode(tmp_path / name) for name in ("ready", "made")] == [0o640, 0o640]


def test_a_file_is_created_only_where_none_is(tmp_path: Path) -> None:
    """The one that is there keeps its content."""
    path = tmp_path / "token"
    assert create_file(path, b"first")
    assert not create_file(path, b"second")
    assert (path.read_bytes(), _mode(path)) == (b"first", 0o600)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_is_created_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """A CA may be kept on a USB stick; what is there is not replaced, nor written through a link."""

    def no_link(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", no_link)
    path, dangling = tmp_path / "ca.key", tmp_path / "ca.crt"
    dangling.symlink_to(tmp_path / "elsewhere")
    assert create_file(path, b"first")
    assert not create_file(path, b"second")
    assert not create_file(dangling, b"first")
    assert (path.read_bytes(), _mode(path)) == (b"first", 0o600)
    assert set(tmp_path.iterdir()) == {path, dangling}


def test_a_dangling_link_counts_as_a_file(tmp_path: Path) -> None:
    """A secret is never written through a link that somebody has put there."""
    path = tmp_path / "token"
    path.symlink_to(tmp_path / "elsewhere")
    assert not create_file(path, b"secret")
    assert not (tmp_path / "elsewhere").exists()


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is the caller's error; neither half a file nor a draft stays."""
    path = tmp_path / "secret"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", _no_space)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, b"new")
    with pytest.raises(OSError, match="No space left"):
        create_file(tmp_path / "other", b"new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_replaced_leaves_no_draft(tmp_path: Path) -> None:
    """A folder of that name stays."""
    path = tmp_path / "secret"
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        replace_file(path, b"new")
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """Folders are the caller's."""
    with pytest.raises(FileNotFoundError):
        create_file(tmp_path / "missing" / "secret", b"")
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "missing" / "secret", b"")
