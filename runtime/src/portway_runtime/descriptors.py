"""Whether the process can still open file descriptors.

gRPC and libuv end the process when they cannot open the descriptors they need, so code that starts one of them calls
`demand_descriptors` first.
"""

import errno
import os
from typing import Final

from portway_runtime.errors import NoDescriptors

# errno of an OSError: the process or the machine has no descriptor, or no memory, for another socket.
EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# gRPC opens fewer for one call with its resolver, and an event loop fewer for itself; some are for other threads.
DESCRIPTORS: Final = 16


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
