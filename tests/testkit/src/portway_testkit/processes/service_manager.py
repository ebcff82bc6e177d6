"""A service manager's side of sd_notify(3): the socket that NOTIFY_SOCKET names, and what it was told."""

import shutil
import socket
import tempfile
from typing import Final, Self

_LARGEST: Final = 4096


class FakeServiceManager:
    """`with FakeServiceManager() as manager:` listens at `manager.address`: a path, or an abstract name that begins
    with @. By default it makes a short path, because one of a test may be longer than a socket's may be."""

    def __init__(self, address: str = "") -> None:
        self._folder = "" if address else tempfile.mkdtemp(prefix="pw-")
        self.address = address or f"{self._folder}/notify"
        self.told: list[list[str]] = []

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{self.address[1:]}" if self.address.startswith("@") else self.address)
        self._socket.setblocking(False)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        if self._folder:
            shutil.rmtree(self._folder)

    def states(self) -> list[str]:
        """The first line of each datagram so far; all lines are in `told`."""
        while True:
            try:
                self.told.append(self._socket.recv(_LARGEST).decode().splitlines())
            except BlockingIOError:
                return [lines[0] for lines in self.told]
