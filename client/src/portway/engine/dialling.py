"""Racing nodes: the connection itself is the measurement, so that picking the nearest costs no round trip (DESIGN §8).

Here: who is dialled when, and the order in which connections are ready. Not here: one connection (dial.py), what is
said on them (attach.py).
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Final

from portway_carrier.contract import Carrier, Stream
from portway_runtime.tasks import Tasks

from portway.engine.dial import DialFailed, dial, given_up
from portway.engine.directory import Node, RoundTrip

# Name and address of somebody who was tried.
Attempted = tuple[str, str]

RACERS: Final = 3
# The registry's order is right most of the time: who is first in it and within two round trips of this gets no rival,
# and one that was guessed to be near and is not costs no more than this.
STAGGER: Final = 0.025

NO_ANSWER_YET: Final = "no answer yet"


@dataclass(slots=True)
class RaceRecord:
    """What came of the nodes that were dialled: why each is not the one, and how far it is."""

    attempts: dict[Attempted, str] = field(default_factory=dict)
    round_trips: list[RoundTrip] = field(default_factory=list)


async def race(
    carrier: Carrier,
    nodes: Sequence[Node],
    cluster_ca: bytes,
    course: RaceRecord,
    stagger: float,
    racers: int = RACERS,
) -> AsyncGenerator[tuple[Node, Stream], None]:
    """Connections in the order in which they are ready, each with its node.

    Up to `racers` nodes are dialled at once, the second `stagger` seconds after the first, the others STAGGER after the
    one before; the next one at once when one has failed. With one racer nobody is tried before another has failed.
    Closed, it drops what is still being dialled, which is then known to be no nearer than it has been waited for.
    """
    clock = asyncio.get_running_loop().time
    tasks = Tasks("race")
    waiting = list(nodes)
    dialling: dict[asyncio.Task[Stream | None], tuple[Node, float]] = {}
    ready: list[Stream] = []
    due = clock()
    try:
        while waiting or dialling:
            if waiting and (not dialling or (len(dialling) < racers and clock() >= due)):
                node = waiting.pop(0)
                course.attempts[name_of(node)] = NO_ANSWER_YET
                began = clock()
                task = tasks.spawn(_dial(carrier, node, cluster_ca, course, ready), name=node.name)
                dialling[task] = (node, began)
                due = began + stagger
                stagger = STAGGER
            pause = max(0.0, due - clock()) if waiting and len(dialling) < racers else None
            done, _ = await asyncio.wait(dialling, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                (node, _), stream = dialling.pop(task), task.result()
                if stream is None:
                    due = clock()
                else:
                    ready.remove(stream)
                    yield node, stream
    finally:
        for task, (node, began) in dialling.items():
            if not task.done():
                course.round_trips.append(given_up(node, clock() - began))
        await tasks.close()
        for stream in ready:
            stream.abort()


def name_of(node: Node) -> Attempted:
    return (node.name, str(node.address))


async def _dial(
    carrier: Carrier, node: Node, cluster_ca: bytes, course: RaceRecord, ready: list[Stream]
) -> Stream | None:
    """A connection, in `ready` too until it is taken; None, with the reason in the course."""
    try:
        dialled = await dial(carrier, node, cluster_ca)
    except DialFailed as failed:
        course.attempts[name_of(node)] = str(failed)
        if failed.round_trip is not None:
            course.round_trips.append(failed.round_trip)
        return None
    course.round_trips.append(dialled.round_trip)
    ready.append(dialled.stream)
    return dialled.stream
