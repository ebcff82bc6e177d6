"""How far the nodes of every region are from here, and which one a tunnel would be opened at.

Here: whom to dial, and the race as it would go. Not here: what a registry is asked (registries.py), how it is shown
(netcheck.py).
"""

import asyncio
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from portway_carrier.contract import Carrier
from portway_runtime.tasks import Tasks

from portway.engine.dial import DialFailed, dial, timed_out
from portway.engine.dialling import RACERS, STAGGER
from portway.engine.directory import Survey, SurveyedNode

# Dialled at once. More would wait for one another's cryptography, and that is not what is to be measured.
ABREAST: Final = 4
READY: Final = "ready"


@dataclass(frozen=True, slots=True)
class MeasuredNode:
    """A node and what a connection to it came to. `took` is in seconds, also of one that failed.

    Without a round trip `problem` says why, and `short` in a word or two; a node that was not dialled for want of time
    took none.
    """

    node: SurveyedNode
    rtt_ms: float | None
    took: float
    problem: str = ""
    short: str = ""

    @property
    def reached(self) -> bool:
        return self.rtt_ms is not None

    @property
    def candidate(self) -> bool:
        """Whether a registry would name it to a client."""
        return self.node.state == READY


@dataclass(frozen=True, slots=True)
class Pick:
    """Whom the race would be won by, when, in seconds from its start, and why for people."""

    measured: MeasuredNode
    after: float
    why: str


async def measure(carrier: Carrier, survey: Survey, within: float) -> tuple[MeasuredNode, ...]:
    """Dial every node once, in the survey's order, for `within` seconds in all. Cancelled, it leaves no connection."""
    clock = asyncio.get_running_loop().time
    found: dict[str, MeasuredNode] = {}
    began: dict[str, float] = {}
    abreast = asyncio.Semaphore(ABREAST)

    async def one(surveyed: SurveyedNode) -> None:
        async with abreast:
            name = surveyed.node.name
            began[name] = clock()
            try:
                dialled = await dial(carrier, surveyed.node, survey.cluster_ca)
            except DialFailed as failed:
                problem = str(failed).removeprefix(f"{surveyed.node.address}: ")
                found[name] = MeasuredNode(surveyed, None, clock() - began[name], problem, failed.short)
            else:
                dialled.stream.abort()
                found[name] = MeasuredNode(surveyed, dialled.round_trip.ms, dialled.took)

    tasks = Tasks("survey")
    try:
        dials = [tasks.spawn(one(surveyed), name=surveyed.node.name) for surveyed in survey.nodes]
        if dials:
            await asyncio.wait(dials, timeout=within)
    finally:
        await tasks.close()
    now = clock()
    for surveyed in survey.nodes:
        name = surveyed.node.name
        if name in began and name not in found:
            took = now - began[name]
            found[name] = MeasuredNode(surveyed, None, took, f"no answer within {within:g} s", timed_out(took))
        elif name not in found:
            found[name] = MeasuredNode(
                surveyed, None, 0.0, f"not dialled within {within:g} s", "no time left to try it"
            )
    return tuple(found[surveyed.node.name] for surveyed in survey.nodes)


def pick(measured: Sequence[MeasuredNode]) -> Pick | None:
    """The race of the candidates, as it would go with what each of them took; None when nobody would win it."""
    candidates = [one for one in measured if one.candidate]
    dialling: list[tuple[float, int]] = []  # when it is ready or has failed, and who
    at, due, following = 0.0, 0.0, 0
    while dialling or following < len(candidates):
        if following < len(candidates) and (not dialling or (len(dialling) < RACERS and at >= due)):
            heapq.heappush(dialling, (at + candidates[following].took, following))
            due, following = at + STAGGER, following + 1
        over = dialling[0][0]
        if over > due and following < len(candidates) and len(dialling) < RACERS:
            at = due
            continue
        at, number = heapq.heappop(dialling)
        if candidates[number].rtt_ms is not None:
            return Pick(candidates[number], at, _why(candidates, number, following))
        due = at
    return None


def _why(candidates: Sequence[MeasuredNode], number: int, dialled: int) -> str:
    first = candidates[0]
    if number and first.rtt_ms is None:
        return f"ready first; {first.node.node.name}, the first of the order, is not to be reached: {first.problem}"
    if number:
        needs = f"needs {first.took * 1000:.0f} ms"
        return f"ready first; {first.node.node.name}, the first of the order, {needs}"
    if len(candidates) == 1:
        return "the only one that takes clients"
    if dialled == 1:
        return "the first of the order, and ready before a second one is tried"
    return f"the first of the order, and ready before the {dialled - 1} dialled after it"
