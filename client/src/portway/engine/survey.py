"""How far away the nodes of every region are, and which one a tunnel opened now would use.

Here: dialling each node once, and foreseeing the race from what the dials took. Not here: the question to a registry
(grpc_registries.py), the output (netcheck.py).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from portway_carrier.contract import Carrier
from portway_runtime.tasks import Tasks

from portway.engine.dialling import DialFailed, dial, timed_out
from portway.engine.directory import Survey, SurveyedNode
from portway.engine.race_rule import DialEnd, foreseen_race

# Dials at the same time. More would wait for one another's cryptography, which is not to be measured.
PARALLEL_DIALS: Final = 4
READY: Final = "ready"


@dataclass(frozen=True, slots=True)
class MeasuredNode:
    """A node and the result of dialling it.

    rtt_ms: the round trip; None if there is no connection. took: seconds until the dial succeeded or failed, 0 for a
    node that was not dialled for lack of time. problem: why there is no connection; short: the same in a word or two.
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
    """The node that would win the race, when (seconds after the start), and the reason in words."""

    measured: MeasuredNode
    after: float
    why: str


async def measure(carrier: Carrier, survey: Survey, within: float) -> tuple[MeasuredNode, ...]:
    """Dial every node once, in the survey's order, for `within` seconds in all. Cancelled, it leaves no connection."""
    clock = asyncio.get_running_loop().time
    found: dict[str, MeasuredNode] = {}
    began: dict[str, float] = {}
    slots = asyncio.Semaphore(PARALLEL_DIALS)

    async def measure_one(surveyed: SurveyedNode) -> None:
        async with slots:
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
        dials = [tasks.spawn(measure_one(surveyed), name=surveyed.node.name) for surveyed in survey.nodes]
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
            problem = f"not dialled within {within:g} s"
            found[name] = MeasuredNode(surveyed, None, 0.0, problem, "no time left to try it")
    return tuple(found[surveyed.node.name] for surveyed in survey.nodes)


def pick(measured: Sequence[MeasuredNode]) -> Pick | None:
    """The winner of the race between the candidates, if each dial takes what it took; None if none connects."""
    candidates = [one for one in measured if one.candidate]
    dialled = 0

    def dial_again(number: int, now: float) -> DialEnd:
        nonlocal dialled
        dialled += 1
        return DialEnd(now + candidates[number].took, candidates[number].reached)

    racing = foreseen_race(range(len(candidates)), dial_again, 0.0)
    try:
        step = next(racing)
        while step.ready is None:
            step = racing.send(step.at)
    except StopIteration:
        return None
    return Pick(candidates[step.ready], step.at, _why(candidates, step.ready, dialled))


def _why(candidates: Sequence[MeasuredNode], number: int, dialled: int) -> str:
    first = candidates[0]
    if number and first.rtt_ms is None:
        return f"ready first; {first.node.node.name}, the first of the order, cannot be reached: {first.problem}"
    if number:
        return f"ready first; {first.node.node.name}, the first of the order, needs {first.took * 1000:.0f} ms"
    if len(candidates) == 1:
        return "the only one that takes clients"
    if dialled == 1:
        return "the first of the order, and ready before a second one is tried"
    return f"the first of the order, and ready before the {dialled - 1} dialled after it"
