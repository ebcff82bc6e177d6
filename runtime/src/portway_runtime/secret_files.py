"""Files written as a whole or not at all: a reader, or a crash, never sees half of one.

Errors are OSError as the system gives them; callers say which setting named the file.
"""

import os
import secrets
from pathlib import Path
from typing import Final

OWNER_ONLY: Final = 0o600


def replace_file(path: Path, content: bytes, *, mode: int = OWNER_ONLY, durable: bool = True) -> None:
    """Write `content` to `path`, replacing what is there. `durable`: on disk before this returns."""
    draft = _write_draft(path, content, mode, durable=durable)
    try:
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def create_file(path: Path, content: bytes, *, mode: int = OWNER_ONLY) -> bool:
    """Write `content` to a new file at `path`; False, with nothing changed, when one is there already."""
    draft = _write_draft(path, content, mode, durable=True)
    try:
        os.link(draft, path)  # unlike a rename it fails where a file is
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True


def _write_draft(path: Path, content: bytes, mode: int, *, durable: bool) -> Path:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
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
    return draft
