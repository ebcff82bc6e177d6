"""One connection to a node: dialled, checked, measured.

What is measured is one round trip, as the kernel saw it, TCP's own handshake first: neither the name that is looked up,
nor cryptography, nor a program that keeps the interpreter busy is in it. Where the kernel does not tell, it is half of
what connection and TLS took together, for they are two round trips. A node that was given up, or did not answer in
time, is no nearer than half of what it was waited for.

Here: what a connection must be like, and what it says of the distance. Not here: who is dialled when (race.py).
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from portway_carrier.contract import Carrier, Stream
from portway_carrier.errors import CarrierError, ConnectFailed, HandshakeFailed
from portway_carrier.values import ClientTls
from portway_proto.wire.limits import LINK_ALPN

from portway.engine.directory import Node, RoundTrip
from portway.fork_guard import fork_guard

# A SYN lost once is repeated after 1 s; a node that needs longer than this to connect is no good one.
DIAL_TIMEOUT: Final = 3.0
# TCP's handshake and that of TLS 1.3.
_ROUND_TRIPS: Final = 2


class DialFailed(Exception):
    """Why there is no connection, and in `short` the same in a word or two. `round_trip` is known when the node did not
    answer in time."""

    def __init__(self, reason: str, short: str, round_trip: RoundTrip | None = None) -> None:
        super().__init__(reason)
        self.short = short
        self.round_trip = round_trip


@dataclass(frozen=True, slots=True)
class Dialled:
    """A connection that speaks lanes. `took` is in seconds, from dialling to the end of the TLS handshake."""

    stream: Stream
    round_trip: RoundTrip
    took: float


async def dial(carrier: Carrier, node: Node, cluster_ca: bytes) -> Dialled:
    """Connect. Raises DialFailed. Cancelled, it leaves nothing behind."""
    try:
        with fork_guard:  # the first one sets the TLS library up
            stream = carrier.connect(node.address, ClientTls(cluster_ca, node.server_name, LINK_ALPN))
    except CarrierError as error:
        raise DialFailed(str(error), _in_short(error)) from None
    try:
        async with asyncio.timeout(DIAL_TIMEOUT):
            handshake = await stream.ready()
    except CarrierError as error:
        raise DialFailed(str(error), _in_short(error)) from None
    except TimeoutError:
        stream.abort()
        reason = f"no connection within {DIAL_TIMEOUT:g} s"
        raise DialFailed(reason, timed_out(DIAL_TIMEOUT), given_up(node, DIAL_TIMEOUT)) from None
    except BaseException:
        stream.abort()
        raise
    if handshake.alpn != LINK_ALPN:
        stream.abort()
        raise DialFailed("it is no relay node, or not of this protocol version", "no relay node")
    seconds = handshake.took / _ROUND_TRIPS if handshake.round_trip is None else handshake.round_trip
    return Dialled(stream, RoundTrip(node.name, seconds * 1000), handshake.took)


def timed_out(after: float) -> str:
    """In short, of a node that did not answer in so many seconds."""
    return f"timed out after {after:.2g} s"


def _in_short(error: CarrierError) -> str:
    match error:
        case ConnectFailed(refused=True):
            return "refused"
        case ConnectFailed():
            return "unreachable"
        case HandshakeFailed(untrusted=True):
            return "wrong certificate"
        case HandshakeFailed():
            return "TLS failed"
    return "failed"


def given_up(node: Node, after: float) -> RoundTrip:
    """What is known of a node that had no connection `after` seconds."""
    return RoundTrip(node.name, after * 1000 / _ROUND_TRIPS, at_least=True)
