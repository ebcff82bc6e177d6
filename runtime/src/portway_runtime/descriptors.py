"""What a process may still open. A library that cannot open what it needs may end the process: gRPC and libuv do when
they are started. Who starts one looks here first.
"""

import errno
import os
from typing import Final

# Of an OSError: this process, or the machine, can open no more now.
EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# Of gRPC and its resolver for one call, or of an event loop; and some that others may open meanwhile.
DESCRIPTORS: Final = 16


class NoDescriptors(Exception):
    """This process can open no more now; the message says what to raise."""


def demand_descriptors() -> None:
    """Raise NoDescriptors unless DESCRIPTORS can be opened now."""
    opened: list[int] = []
    try:
        while len(opened) < DESCRIPTORS:
            opened.extend(os.pipe())
    except OSError as error:
        raise NoDescriptors(f"{error.strerror}: raise this process's limit (ulimit -n)") from None
    finally:
        for descriptor in opened:
            os.close(descriptor)
