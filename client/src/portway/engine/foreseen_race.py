"""The race between candidate nodes, run on dials whose ends are known beforehand: measured ones, or simulated ones.

The rule is RaceRule's (race_rule.py); this gives it the ends of dials in the order of their times.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Generic, NamedTuple, TypeVar

from portway.engine.race_rule import DIAL_TIMEOUT, STAGGER, RaceRule

N = TypeVar("N")


class DialEnd(NamedTuple):
    """When a dial ends, and whether with a connection."""

    at: float
    connected: bool


class RaceStep(NamedTuple, Generic[N]):
    """At the time `at`, `ready` has a connection; with `ready` None, nothing happens before `at`."""

    at: float
    ready: N | None = None


def no_answer(now: float) -> DialEnd:
    """The end of a dial, begun now, that is never answered."""
    return DialEnd(now + DIAL_TIMEOUT, connected=False)


def foreseen_race(
    nodes: Sequence[N], dial: Callable[[N, float], DialEnd], now: float, stagger: float = STAGGER
) -> Generator[RaceStep[N], float, None]:
    """The race as RaceRule has it, when `dial(node, now)` tells how a dial begun now will end.

    Send the time after each step: its `at`, or later if the caller spent time on it. It returns when no node is left;
    close it when a node has won.
    """
    rule = RaceRule(nodes, now, stagger)
    dialling: list[tuple[DialEnd, N]] = []
    while not rule.over:
        node = rule.dial_next(now)
        if node is not None:
            dialling.append((_limited(dial(node, now), now), node))
        wake = min(end.at for end, _ in dialling)
        if rule.next_dial_at is not None:
            wake = min(wake, max(now, rule.next_dial_at))
        now = yield RaceStep(wake)
        for end, node in sorted((one for one in dialling if one[0].at <= now), key=_end_time):
            dialling.remove((end, node))
            rule.ended(now, connected=end.connected)
            if end.connected:
                now = yield RaceStep(now, node)


def _limited(end: DialEnd, began: float) -> DialEnd:
    return end if end.at <= began + DIAL_TIMEOUT else no_answer(began)


def _end_time(one: tuple[DialEnd, object]) -> float:
    return one[0].at
