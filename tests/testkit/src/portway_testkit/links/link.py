"""A TCP connection that a test can break: bytes dropped, connections cut, new ones refused.

Here: a proxy on loopback, on the test's own loop. Not here: delay (a proxy does not delay handshakes; see
the namespaces of the delay tests).
"""

import asyncio
import socket
import struct
from typing import Self

from portway_testkit.links.stream_server import StreamServer

_CHUNK = 65_536


class Link:
    """Forwards connections to a port of this machine: `async with Link(port) as link:`, then dial `link.port`."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._answers_pass = self._asks_pass = True
        self._refuses = False
        self._server = StreamServer(self._carry)

    @property
    def port(self) -> int:
        return self._server.port

    async def __aenter__(self) -> Self:
        await self._server.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        await self._server.__aexit__()

    def swallow_answers(self) -> None:
        """Drop what the target sends; deliver what is sent to it."""
        self._answers_pass = False

    def swallow(self) -> None:
        """Drop everything in both directions; connections stay open, and new ones are accepted."""
        self._answers_pass = self._asks_pass = False

    def cut(self, *, refuse: bool = False) -> None:
        """Reset all connections; with `refuse` also new ones, until `mend`."""
        self._refuses = refuse
        for writer in self._writers:
            _reset(writer)

    def mend(self) -> None:
        """Deliver everything again. Connections that lost bytes are reset: their ends no longer agree."""
        self._answers_pass = self._asks_pass = True
        self.cut(refuse=False)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            _reset(writer)
            return
        self._writers.add(writer)  # also while the target is dialled
        try:
            answers, target = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            self._writers.discard(writer)
            return
        self._writers.add(target)
        if writer.is_closing():
            _reset(target)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._move(reader, target, answers=False))
                both.create_task(self._move(answers, writer, answers=True))
        except* OSError:
            pass
        finally:
            self._writers -= {writer, target}
            target.transport.abort()

    async def _move(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        while (chunk := await reader.read(_CHUNK)) and not writer.is_closing():
            if self._answers_pass if answers else self._asks_pass:
                writer.write(chunk)
                await writer.drain()
        if not writer.is_closing() and (self._answers_pass if answers else self._asks_pass):
            writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, unless it is closed: without lingering the kernel sends no FIN."""
    sock = writer.get_extra_info("socket")
    if sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
