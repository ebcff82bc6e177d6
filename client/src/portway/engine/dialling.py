"""Dialling nodes: one connection, checked and measured, and several in a race.

The connection itself is the measurement, so picking the nearest node costs no extra round trip. The round trip is the
one that the kernel measured, first in TCP's own handshake: it includes neither the name's resolution nor cryptography
nor the delay of a program that keeps the interpreter busy. Where the kernel does not report it, it is half of the time
that TCP and TLS took together, which is two round trips. A node that was abandoned, or did not answer in time, is at
least half as far away as the time it was given. Through a proxy it is the time of the TLS handshake with the node; how
much of a dial that has not ended is the proxy's, such as its look-ups, is not known, so it tells nothing.

Here: what a connection must be like, and racing real dials. Not here: which node is dialled when (race_rule.py), what
is said on a connection (search.py).
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Final

from portway_carrier.contract import Carrier, Stream
from portway_carrier.errors import CarrierError, ConnectFailed, HandshakeFailed
from portway_carrier.values import ClientTls
from portway_proto.wire.limits import LINK_ALPN
from portway_runtime.tasks import Tasks

from portway.engine.directory import Node, RoundTrip
from portway.engine.race_rule import DIAL_TIMEOUT, RACERS, RaceRule
from portway.fork_guard import fork_guard

# TCP's handshake and that of TLS 1.3.
_ROUND_TRIPS: Final = 2

# Name and address of a node or a registry that was tried.
Attempted = tuple[str, str]

NO_ANSWER_YET: Final = "no answer yet"


class DialFailed(Exception):
    """Why there is no connection; `short` is the same in a word or two.

    `round_trip` is a lower bound, known only when the node did not answer in time.
    """

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
    """Connect to a node. Raises DialFailed. Cancelled, it leaves no connection behind."""
    try:
        with fork_guard:  # the first connection initialises the TLS library
            stream = carrier.connect(node.address, ClientTls(cluster_ca, node.server_name, LINK_ALPN), node.via)
    except CarrierError as error:
        raise DialFailed(str(error), _in_short(error)) from None
    try:
        async with asyncio.timeout(DIAL_TIMEOUT):
            handshake = await stream.ready()
    except CarrierError as error:
        raise DialFailed(str(error), _in_short(error)) from None
    except TimeoutError:
        stream.abort()
        way = f", through {node.via}" if node.via is not None else ""
        reason = f"no connection within {DIAL_TIMEOUT:g} s{way}"
        raise DialFailed(reason, timed_out(DIAL_TIMEOUT), at_least(node, DIAL_TIMEOUT)) from None
    except BaseException:
        stream.abort()
        raise
    if handshake.alpn != LINK_ALPN:
        stream.abort()
        raise DialFailed("it is not a relay node, or not of this protocol version", "no relay node")
    seconds = handshake.took / _ROUND_TRIPS if handshake.round_trip is None else handshake.round_trip
    return Dialled(stream, RoundTrip(node.name, seconds * 1000), handshake.took)


def at_least(node: Node, waited: float) -> RoundTrip | None:
    """The lower bound for a node that had no connection after `waited` seconds; None when there is none."""
    if node.via is not None:
        return None
    return RoundTrip(node.name, waited * 1000 / _ROUND_TRIPS, at_least=True)


def timed_out(after: float) -> str:
    """The short reason for a node that did not answer within `after` seconds."""
    return f"timed out after {after:.2g} s"


def _in_short(error: CarrierError) -> str:
    match error:
        case ConnectFailed(refused=True):
            return "refused"
        case ConnectFailed(proxy=True):
            return "no way through the proxy"
        case ConnectFailed():
            return "unreachable"
        case HandshakeFailed(untrusted=True):
            return "wrong certificate"
        case HandshakeFailed():
            return "TLS failed"
    return "failed"


@dataclass(slots=True)
class RaceRecord:
    """What a race found out: why each node that was dialled is not used, and the round trips that it measured."""

    attempts: dict[Attempted, str] = field(default_factory=dict)
    round_trips: list[RoundTrip] = field(default_factory=list)


async def race(
    carrier: Carrier, nodes: Sequence[Node], cluster_ca: bytes, record: RaceRecord, stagger: float, racers: int = RACERS
) -> AsyncGenerator[tuple[Node, Stream], None]:
    """Connections in the order in which they are ready, each with its node. RaceRule explains `stagger` and `racers`.

    Close it when one of them is used: it drops the dials that are still going on, and records how long each was waited
    for as a lower bound.
    """
    clock = asyncio.get_running_loop().time
    tasks = Tasks("race")
    rule = RaceRule(nodes, clock(), stagger, racers)
    dialling: dict[asyncio.Task[Stream | None], tuple[Node, float]] = {}
    ready: list[Stream] = []
    try:
        while not rule.over:
            now = clock()
            node = rule.dial_next(now)
            if node is not None:
                record.attempts[name_of(node)] = NO_ANSWER_YET
                task = tasks.spawn(_dial(carrier, node, cluster_ca, record, ready), name=node.name)
                dialling[task] = (node, now)
            next_at = rule.next_dial_at
            pause = None if next_at is None else max(0.0, next_at - clock())
            done, _ = await asyncio.wait(dialling, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                (node, _), stream = dialling.pop(task), task.result()
                rule.ended(clock(), connected=stream is not None)
                if stream is not None:
                    ready.remove(stream)
                    yield node, stream
    finally:
        for task, (node, began) in dialling.items():
            if not task.done() and (bound := at_least(node, clock() - began)) is not None:
                record.round_trips.append(bound)
        await tasks.close()
        for stream in ready:
            stream.abort()


def name_of(node: Node) -> Attempted:
    """What a node is listed by among the attempts."""
    return (node.name, str(node.address))


async def _dial(
    carrier: Carrier, node: Node, cluster_ca: bytes, record: RaceRecord, ready: list[Stream]
) -> Stream | None:
    """A connection, which is also in `ready` until it is used; None after a failure, whose reason is recorded."""
    try:
        dialled = await dial(carrier, node, cluster_ca)
    except DialFailed as failed:
        record.attempts[name_of(node)] = str(failed)
        if failed.round_trip is not None:
            record.round_trips.append(failed.round_trip)
        return None
    record.round_trips.append(dialled.round_trip)
    ready.append(dialled.stream)
    return dialled.stream
