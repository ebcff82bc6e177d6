"""A carrier that is closed leaves nothing behind. (Every test checks that no task and no socket is left.)"""

import asyncio
import contextlib
import socket

from portway_carrier.errors import CarrierError
from portway_carrier.values import Outcome, PoolLimits, ServerTls, SpareSizes
from portway_runtime.endpoints import Endpoint
from portway_testkit.links.carrier_link import CarrierMaker, LinkMaker, listener, until


async def dial(address: Endpoint) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (address.host, address.port))
    return sock


async def ended(sock: socket.socket) -> None:
    """Until the other end has closed or reset it."""
    with contextlib.suppress(ConnectionError):
        while await asyncio.get_running_loop().sock_recv(sock, 1 << 16):
            pass
    sock.close()


async def test_closing_ends_everything_at_once(make_link: LinkMaker, server_tls: ServerTls) -> None:
    """Handshakes, dials, visits that run or wait, streams being finished, full lanes: all have ended when close()
    returns, and every peer sees its end."""
    link = await make_link(sizes=SpareSizes(quiet=1, busy=1, lanes=1), pool_limits=PoolLimits(lanes=1))
    loop = asyncio.get_running_loop()
    with listener() as listening:
        link.serve_with(listening.getsockname()[1])
        plain, encrypted = link.visitors(), link.visitors(server_tls)
        running = await dial(plain)
        server, _ = await loop.sock_accept(listening)
        with contextlib.suppress(BlockingIOError):
            while True:
                server.send(b"f" * 65536)
        waiting = await dial(plain)
        await until(lambda: link.pool.counts.waiting == 1)
        shaking_hands = await dial(encrypted)
        await until(lambda: len(link.joined) == 3)
        finishing, ours = socket.socketpair()
        finishing.setblocking(False)
        link.node.finish(link.node.accept(ours, None), b"l" * (8 << 20))
        dialling = link.node.connect(Endpoint("127.0.0.1", listening.getsockname()[1]), link.client_tls)
        await asyncio.gather(link.node.close(), link.client.close())
        for peer in (running, waiting, shaking_hands, finishing, server):
            await ended(peer)
        try:
            await dialling.ready()
            raise AssertionError("it is up")
        except CarrierError:
            pass
        await link.end(3)
        assert {end.outcome for _, end in link.ends} <= {
            Outcome.CUT,
            Outcome.LANE_LOST,
            Outcome.NO_LANE,
            Outcome.VISITOR_LOST,
            Outcome.RESET,
        }


async def test_closing_may_be_repeated(make_carrier: CarrierMaker) -> None:
    """close() of a closed carrier does nothing."""
    carrier = make_carrier()
    await carrier.close()
    await carrier.close()
