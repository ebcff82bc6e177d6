"""A port of the registry, its front, before a server on a Unix socket, which stands for gRPC."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from portway_registry.net.admission import Limits
from portway_registry.net.connection import Connection
from portway_registry.net.front import Front
from portway_registry.net.node_headers import NodeHeaders
from portway_runtime.balancers import Network
from portway_runtime.clocks import monotonic
from portway_runtime.endpoints import Endpoint
from portway_runtime.listening import open_sockets

from portway_testkit.links.carrier_link import until
from portway_testkit.visitors.hellos import real_hello

HELLO = real_hello("localhost", ["h2"])
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Opened:
    """A front, its address, and the names that the server behind it has seen."""

    def __init__(self, front: Front, port: int) -> None:
        self.front = front
        self.port = port
        self.names: list[str] = []

    async def connect(self, host: str = "127.0.0.1") -> Wire:
        return await asyncio.open_connection(host, self.port)

    async def connection(self) -> Connection:
        """That of the newest name, once there is one."""
        await until(lambda: bool(self.names))
        found = self.front.find(self.names[-1])
        assert found is not None
        return found


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


@asynccontextmanager
async def opened(
    serve: Serve = echo,
    host: str = "127.0.0.1",
    limits: Limits | None = None,
    headers: NodeHeaders | None = None,
    balancers: Sequence[Network] = (),
) -> AsyncIterator[Opened]:
    """A front before a server that serves each connection by `serve`, until the block ends."""
    front = Front("listen", limits or Limits.of(16), monotonic, headers, balancers)
    sockets = open_sockets(Endpoint(host, 0))
    found = Opened(front, sockets[0].getsockname()[1])

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.names.append(f"unix-abstract:{writer.get_extra_info('peername')[1:].decode()}")
        try:
            await serve(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "inner")
        server = await asyncio.start_unix_server(handle, path)
        front.serve(sockets, path)
        try:
            yield found
        finally:
            await front.close()
            server.close()
            await server.wait_closed()
            await asyncio.sleep(0)


async def closed(wire: Wire) -> None:
    """Return once the front has ended this connection."""
    try:
        while await wire[0].read(65_536):
            pass
    except ConnectionError:
        pass
    wire[1].close()
