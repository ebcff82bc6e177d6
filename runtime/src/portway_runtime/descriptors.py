"""How many file descriptors the process can still open, and how many of them are reserved for its own work.

gRPC and libuv end the process when they cannot open the descriptors they need, so code that starts one of them calls
`demand_descriptors` first.
"""

import errno
import os
import resource
import sys
from contextlib import suppress
from typing import Final

from portway_runtime.errors import NoDescriptors

# errno of an OSError: the process or the machine has no descriptor, or no memory, for another socket.
EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# gRPC opens fewer for one call with its resolver, and an event loop fewer for itself; some are for other threads.
DESCRIPTORS: Final = 16
# Descriptors that connections from outside do not use: the process dials, reads certificates and opens files. A quarter
# of the limit where that is less.
_RESERVED: Final = 64


def raise_limit() -> None:
    """Raise this process's limit of descriptors as far as its user may, unless a sandbox forbids it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def demand_descriptors() -> None:
    """Raise NoDescriptors unless DESCRIPTORS descriptors can be opened now."""
    opened: list[int] = []
    try:
        while len(opened) < DESCRIPTORS:
            opened.extend(os.pipe())
    except OSError as error:
        raise NoDescriptors(f"{error.strerror}: raise this process's limit (ulimit -n)") from None
    finally:
        for descriptor in opened:
            os.close(descriptor)


def first_reserved() -> int:
    """The number of the first reserved descriptor; descriptors are given out from the lowest number up."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit - min(_RESERVED, limit // 4)


def lowest_free(any_open: int) -> int:
    """The number of the descriptor that would be opened next. Raises OSError when there is none."""
    lowest = os.dup(any_open)
    os.close(lowest)
    return lowest


def unreserved() -> int:
    """How many descriptors connections from outside may have now."""
    any_open = os.open(os.devnull, os.O_RDONLY)
    try:
        return max(0, first_reserved() - lowest_free(any_open))
    finally:
        os.close(any_open)


def usage() -> tuple[int, int]:
    """How many descriptors the process has in use, and how many it may have; 0 for what is not known or has no limit.

    In use counts as everything below the first free one.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 0 if limit == resource.RLIM_INFINITY else limit
    try:
        lowest = os.open(os.devnull, os.O_RDONLY)
    except OSError:  # there is none left
        return limit, limit
    os.close(lowest)
    return lowest, limit
