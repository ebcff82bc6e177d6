"""Standard descriptors that whoever started the process had closed (`<&-`, `>&-`, `2>&-`).

The system gives the next file or socket the lowest free number, so a connection would become the process's standard
error, and libuv ends a process that closes such a connection. `/dev/null` takes these numbers first.
"""

import os
import sys
from contextlib import suppress
from typing import Final

_LAST: Final = 2
_STREAMS: Final = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def occupy_standard_descriptors() -> None:
    """Open /dev/null on those of 0, 1 and 2 that are closed. They stay open, and programs that are started from here
    inherit them.

    Descriptors of other threads are not touched. Where there is no /dev/null, or no descriptor left, nothing changes.
    """
    with suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _LAST:
            os.set_inheritable(descriptor, True)
        os.close(descriptor)


def open_standard_streams() -> None:
    """For commands, first of all: as `occupy_standard_descriptors`, and sys.stdin, sys.stdout and sys.stderr, which are
    None when their descriptors were closed, become files on them: what is printed there is dropped."""
    occupy_standard_descriptors()
    for descriptor, (name, mode) in enumerate(_STREAMS):
        if getattr(sys, name) is None:
            with suppress(OSError):
                setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115 - for good


def drop_standard_output() -> None:
    """For a command whose output cannot be written any more (`| head -1`): what is left in the buffer goes to
    /dev/null. Python would try to write it at its end, and say that it could not."""
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
