"""A listening socket whose connections and errors a test has written down."""

import errno
import os
import socket

Accept = tuple[socket.socket, tuple[object, ...]]
PEER = ("192.0.2.7", 4711)


class FakeListening:
    """Always readable; `accept` raises or gives what it was told to, in order, and would block after that."""

    def __init__(self, *script: OSError | Accept) -> None:
        self.script = list(script)
        self.calls = 0
        self._read, self._write = os.pipe()
        os.write(self._write, b"x")

    def accept(self) -> Accept:
        self.calls += 1
        if not self.script:
            raise BlockingIOError
        step = self.script.pop(0)
        if isinstance(step, OSError):
            raise step
        return step

    def fileno(self) -> int:
        return self._read

    def getsockname(self) -> tuple[object, ...]:
        return ("127.0.0.1", 443)

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        raise OSError(errno.ENOPROTOOPT, "Protocol not available")

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes:
        raise OSError(errno.ENOPROTOOPT, "Protocol not available")

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)
