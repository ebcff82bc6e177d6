"""Who is dialled when, and who is ready first: the client's race (portway/engine/race.py) without a clock of its own.

The real one awaits real connections; this one is told by `dial` how each will end, so that millions can be run. A test
holds it against the real one. Not here: what a dial takes (arrivals.py, reconnects.py).
"""

from collections.abc import Callable, Generator, Sequence
from typing import Generic, NamedTuple, TypeVar

from portway.engine.dial import DIAL_TIMEOUT
from portway.engine.dialling import RACERS, STAGGER

N = TypeVar("N")


class Dialled(NamedTuple):
    """When a dial ends, and whether with a connection."""

    ends: float
    connected: bool


class Step(NamedTuple, Generic[N]):
    """`ready` has a connection now; or, when it is None, nothing happens before `at`."""

    at: float
    ready: N | None = None


def silent(now: float) -> Dialled:
    """The dial of one who never answers."""
    return Dialled(now + DIAL_TIMEOUT, connected=False)


def race(
    nodes: Sequence[N], dial: Callable[[N, float], Dialled], now: float, stagger: float = STAGGER
) -> Generator[Step[N], float, None]:
    """As the real race: each step is answered with the time it is then; closed by who has found a node to stay at."""
    waiting = list(nodes)
    dialling: list[tuple[Dialled, N]] = []
    due = now
    while waiting or dialling:
        if waiting and (not dialling or (len(dialling) < RACERS and now >= due)):
            node = waiting.pop(0)
            dialling.append((_in_time(dial(node, now), now), node))
            due = now + stagger
            stagger = STAGGER
        wake = min(dialled.ends for dialled, _ in dialling)
        if waiting and len(dialling) < RACERS:
            wake = min(wake, max(now, due))
        now = yield Step(wake)
        for dialled, node in sorted((one for one in dialling if one[0].ends <= now), key=_end):
            dialling.remove((dialled, node))
            if dialled.connected:
                now = yield Step(now, node)
            else:
                due = now


def _in_time(dialled: Dialled, now: float) -> Dialled:
    return dialled if dialled.ends <= now + DIAL_TIMEOUT else silent(now)


def _end(one: tuple[Dialled, object]) -> float:
    return one[0].ends
