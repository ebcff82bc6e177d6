"""Visitors that are joined to an opener's dialling pool, and how their visits end."""

import asyncio
import socket
from typing import Final

from portway_carrier.contract import Carrier, Pool, Stream, Visit, VisitEnd
from portway_carrier.values import Outcome, ServerTls

from portway_testkit.links.carrier_link import OPENING, listener

# Longer than any test may take: a visitor that ends earlier has not waited for it.
WAIT: Final = 60.0


class Visitors:
    """Joins visitors to a pool; how each visit ended is in `ends`."""

    def __init__(self, carrier: Carrier, pool: Pool) -> None:
        self.pool = pool
        self.sockets: list[socket.socket] = []  # their ends, in order
        self.ends: asyncio.Queue[VisitEnd] = asyncio.Queue()
        self.carrier = carrier
        self._listening = listener()

    async def come(self, count: int = 1) -> list[Visit]:
        return [self.join(await self.stream()) for _ in range(count)]

    def join(self, stream: Stream) -> Visit:
        return self.carrier.join(stream, self.pool, OPENING, lambda _, end: self.ends.put_nowait(end))

    async def stream(self, tls: ServerTls | None = None) -> Stream:
        """A visitor that is not joined yet."""
        loop = asyncio.get_running_loop()
        near = socket.socket()
        near.setblocking(False)
        self.sockets.append(near)
        await loop.sock_connect(near, self._listening.getsockname())
        far, _ = await loop.sock_accept(self._listening)
        return self.carrier.accept(far, tls)

    async def turned_away(self, count: int = 1) -> None:
        for _ in range(count):
            end = await self.ends.get()
            assert end.outcome is Outcome.NO_LANE
            assert end.visitor is not None
            end.visitor.abort()

    def close(self) -> None:
        for sock in (self._listening, *self.sockets):
            sock.close()
