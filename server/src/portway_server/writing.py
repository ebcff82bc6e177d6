"""Writing what was planned: users, folders with their owners, files that are not there yet.

Here: doing. Not here: what is in the files (settings_files.py).
"""

import grp
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from portway_runtime.secret_files import replace_file

from portway_server.errors import CannotWrite, SetupRefused

_SETTINGS_MODE: Final = 0o640
_PRIVATE: Final = 0o700
_PUBLIC: Final = 0o755
_NO_SHELL: Final = "/usr/sbin/nologin"


@dataclass(frozen=True, slots=True)
class File:
    """A file to write. `group`: the user whose group may read it; None for the user that writes it alone."""

    path: Path
    text: str
    group: str | None


def demand_absent(files: Sequence[File]) -> None:
    """Raise SetupRefused if one of the files is there."""
    there = [str(file.path) for file in files if file.path.exists()]
    if there:
        raise SetupRefused(
            f"this machine is set up already: there is {', '.join(there)}. Edit what is to change and restart, or give "
            "--overwrite to write these files anew"
        )


def demand_root(config_dir: Path) -> None:
    """Raise SetupRefused where separate users cannot be had for want of rights."""
    if os.geteuid() != 0:
        raise SetupRefused(
            f"not run as root: {config_dir}, ports below 1024 and users of their own for the registry and the relay "
            "need it. Run it as root; or, to try things out, give --same-user, folders of yours (--config-dir, "
            "--state-dir) and other ports"
        )


def add_users(names: Sequence[str]) -> list[str]:
    """Make the system users that are missing; those made. Raises CannotWrite."""
    missing = [name for name in names if not _has_user(name)]
    for name in missing:
        tool = shutil.which("useradd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if tool is None:
            raise CannotWrite(f"there is no user {name}, and no useradd to make it: make it, or give --same-user")
        command = [tool, "--system", "--user-group", "--no-create-home", "--home-dir", "/", "--shell", _NO_SHELL, name]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            raise CannotWrite(f"user {name} cannot be made: {made.stderr.strip()}")
    return missing


def write(files: Sequence[File]) -> None:
    """Write all files, each as a whole; folders are made. Whatever the umask, their users can read them. Raises
    CannotWrite."""
    for file in files:
        try:
            _make_public(file.path.parent)
            replace_file(file.path, file.text.encode(), mode=_SETTINGS_MODE)
            if file.group is not None:
                os.chown(file.path, -1, grp.getgrnam(file.group).gr_gid)
                file.path.chmod(_SETTINGS_MODE)
        except OSError as error:
            raise _cannot_write(file.path, error) from error


def make_folder(path: Path, user: str | None) -> None:
    """A folder that only this user, or the caller, can enter, in folders that all can. Raises CannotWrite."""
    try:
        _make_public(path.parent)
        path.mkdir(mode=_PRIVATE, exist_ok=True)
        give(path, user)
    except OSError as error:
        raise _cannot_write(path, error) from error


def give(path: Path, user: str | None) -> None:
    """Make a user the owner of a file, or of a folder and all in it; None changes nothing. Raises OSError, and KeyError
    for a user that does not exist.

    What is in the folder may be that user's already, who may put links in the place of folders meanwhile: each name is
    looked up in an open folder, never by its path.
    """
    if user is None:
        return
    owner = pwd.getpwnam(user)
    ids = owner.pw_uid, owner.pw_gid
    os.chown(path, *ids, follow_symlinks=False)
    if path.is_dir():
        for _, folders, files, inside in os.fwalk(path):
            for name in (*folders, *files):
                with suppress(FileNotFoundError):
                    os.chown(name, *ids, dir_fd=inside, follow_symlinks=False)


@contextmanager
def acting_as(user: str | None) -> Iterator[None]:
    """Use files with a user's rights alone, as in a folder of theirs: a link in it leads to nothing else then. None
    changes nothing. Nothing may be awaited meanwhile. Raises KeyError for a user that does not exist, OSError."""
    if user is None:
        yield
        return
    owner, groups, own = pwd.getpwnam(user), os.getgroups(), (os.getegid(), os.geteuid())
    try:
        os.setgroups([])
        os.setegid(owner.pw_gid)
        os.seteuid(owner.pw_uid)
        yield
    finally:
        os.seteuid(own[1])
        os.setegid(own[0])
        os.setgroups(groups)


def _make_public(path: Path) -> None:
    """Make a folder and those above it that are missing, for all to enter. Raises OSError."""
    for folder in reversed([path, *path.parents]):
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        folder.chmod(_PUBLIC)


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _cannot_write(path: Path, error: OSError) -> CannotWrite:
    return CannotWrite(f"cannot write to {error.filename or path}: {error.strerror}")
