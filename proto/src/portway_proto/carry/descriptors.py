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


def demand_descriptors() -> None:
    """Raise OSError unless so many can be opened now."""
    opened: list[int] = []
    try:
        while len(opened) < DESCRIPTORS:
            opened.extend(os.pipe())
    finally:
        for descriptor in opened:
            os.close(descriptor)
