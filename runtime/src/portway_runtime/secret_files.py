"""Files that are written atomically and that only their owner can read: tokens, keys, state.

A reader, or a crash, finds the old content or the new one. Errors are OSError as the system gives them; callers add
which setting named the file.
"""

import errno
import os
import secrets
from pathlib import Path
from typing import Final

OWNER_ONLY: Final = 0o600
# What `link` fails with on file systems without hard links, such as those of USB sticks and some network shares.
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


def replace_file(path: Path, content: bytes, *, mode: int = OWNER_ONLY, durable: bool = True) -> None:
    """Write `content` to `path`, replacing the file that is there. On an error the old file stays.

    Only one process at a time may replace the same file.

    mode: permissions of the new file, less the process's umask.
    durable: flush the content to disk before it replaces the old file.
    """
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)  # left by a process that was killed while it wrote
    _write_draft(draft, content, mode, durable=durable)
    try:
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def create_file(path: Path, content: bytes, *, mode: int = OWNER_ONLY) -> bool:
    """Write `content` to a new file at `path`, flushed to disk. If the path exists, change nothing and return False.

    On a file system without hard links a reader, or a crash, may find a part of the content.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # two processes may create it at once
    _write_draft(draft, content, mode, durable=True)
    try:
        os.link(draft, path)  # unlike a rename it fails where a file is
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _write_new(path, content, mode)
    finally:
        draft.unlink()
    return True


def _write_new(path: Path, content: bytes, mode: int) -> bool:
    try:
        _write_draft(path, content, mode, durable=True)
    except FileExistsError:
        return False
    return True


def _write_draft(draft: Path, content: bytes, mode: int, *, durable: bool) -> None:
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
    except OSError:
        draft.unlink(missing_ok=True)
        raise
