"""Racing nodes: the connection itself is the measurement, so that picking the nearest costs no round trip (DESIGN §8).

Here: who is dialled when, and the order in which connections are ready. Not here: what is said on them (attach.py).
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Final

from portway_proto.carry.contract import Carrier, ClientTls, Stream
from portway_proto.carry.errors import CarrierError
from portway_proto.carry.tasks import Tasks
from portway_proto.wire.limits import LINK_ALPN

from portway.engine.discovery import Node
from portway.forks import unforked

# Name and address of somebody who was tried.
Attempted = tuple[str, str]

RACERS: Final = 3
# The registry's order is right most of the time: who is first in it and within two round trips of this gets no rival,
# and one that was guessed to be near and is not costs no more than this.
STAGGER: Final = 0.025
# A SYN lost once is repeated after 1 s; a node that needs longer than this to connect is no good one.
DIAL_TIMEOUT: Final = 3.0

NO_ANSWER_YET: Final = "no answer yet"


async def race(
    carrier: Carrier, nodes: Sequence[Node], cluster_ca: bytes, attempts: dict[Attempted, str], stagger: float
) -> AsyncGenerator[tuple[Node, Stream], None]:
    """Connections in the order in which they are ready, each with its node.

    Up to RACERS nodes are dialled at once, the second `stagger` seconds after the first, the others STAGGER after the
    one before; the next one at once when one has failed. `attempts` says of each node that was dialled why it is not
    the one. Closed, it drops what is still being dialled.
    """
    clock = asyncio.get_running_loop().time
    tasks = Tasks("race")
    waiting = list(nodes)
    dialling: dict[asyncio.Task[Stream | None], Node] = {}
    ready: list[Stream] = []
    due = clock()
    try:
        while waiting or dialling:
            if waiting and (not dialling or (len(dialling) < RACERS and clock() >= due)):
                node = waiting.pop(0)
                attempts[name_of(node)] = NO_ANSWER_YET
                dialling[tasks.spawn(_dial(carrier, node, cluster_ca, attempts, ready), name=node.name)] = node
                due = clock() + stagger
                stagger = STAGGER
            pause = max(0.0, due - clock()) if waiting and len(dialling) < RACERS else None
            done, _ = await asyncio.wait(dialling, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                node, stream = dialling.pop(task), task.result()
                if stream is None:
                    due = clock()
                else:
                    ready.remove(stream)
                    yield node, stream
    finally:
        await tasks.close()
        for stream in ready:
            stream.abort()


def name_of(node: Node) -> Attempted:
    return (node.name, str(node.address))


async def _dial(
    carrier: Carrier, node: Node, cluster_ca: bytes, attempts: dict[Attempted, str], ready: list[Stream]
) -> Stream | None:
    """A connection that speaks lanes, in `ready` too until it is taken; None, with the reason in `attempts`."""
    name = name_of(node)
    try:
        with unforked:  # the first one sets the TLS library up
            stream = carrier.connect(node.address, ClientTls(cluster_ca, node.server_name, LINK_ALPN))
    except CarrierError as error:
        attempts[name] = str(error)
        return None
    try:
        async with asyncio.timeout(DIAL_TIMEOUT):
            handshake = await stream.ready()
    except CarrierError as error:
        attempts[name] = str(error)
        return None
    except TimeoutError:
        stream.abort()
        attempts[name] = f"no connection within {DIAL_TIMEOUT:g} s"
        return None
    except BaseException:
        stream.abort()
        raise
    if handshake.alpn != LINK_ALPN:
        stream.abort()
        attempts[name] = "it is no relay node, or not of this protocol version"
        return None
    ready.append(stream)
    return stream
