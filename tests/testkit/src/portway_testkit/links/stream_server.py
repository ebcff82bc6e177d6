"""A server on asyncio's streams that can be closed while connections come in.

That of asyncio.start_server (Python 3.11) loses a connection that it has accepted in the turn in which it is closed:
the socket stays open until it is collected. Here: accepting, and an end that leaves nothing behind.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self

from portway_runtime.tasks import Tasks

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_TURNS = 20  # of the loop, for transports to close their sockets


class StreamServer:
    """`async with StreamServer(handle) as server:` listens on `server.port`.

    `handle` is awaited for each connection, which is aborted when it returns; it is cancelled when the server ends.
    """

    def __init__(
        self, handle: Handler, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self._handle = handle
        self._address = (host, port)
        self._tls = tls
        self._tasks = Tasks("stream server")
        self._listener: socket.socket
        self.port = 0

    async def __aenter__(self) -> Self:
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        self._listener = socket.create_server(self._address, family=family)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        asyncio.get_running_loop().add_reader(self._listener, self._accept)
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        await self._tasks.close()
        for _turn in range(_TURNS):
            await asyncio.sleep(0)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        sock.setblocking(False)
        self._tasks.spawn(self._serve(sock), name="connection", on_cut=sock.close)

    async def _serve(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock, ssl=self._tls)
        except OSError:  # among them what TLS refuses
            return
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            await self._handle(reader, writer)
        finally:
            drop(writer)


def drop(writer: asyncio.StreamWriter) -> None:
    """Close at once; what is still to be written is lost."""
    with suppress(AttributeError):  # asyncio's TLS transport, when it has closed already (Python 3.11)
        writer.transport.abort()
