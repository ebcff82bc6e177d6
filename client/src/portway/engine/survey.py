"""How far away the nodes of every region are, and which one a tunnel opened now would use.

Here: asking a registry for all nodes, dialling each once, and foreseeing the race, and what is nearer than its winner,
from what the dials took. Not here:
calls to registries as such (grpc_registries.py), the output (netcheck.py). Imported by `portway netcheck` alone.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from portway_carrier.contract import Carrier
from portway_proto.v1.discovery_pb2 import Candidate, SurveyRequest
from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub
from portway_proto.v1.types_pb2 import NODE_STATE_READY, NodeState
from portway_runtime.tasks import Tasks

from portway.config import ReturnTimes
from portway.engine.dialling import DialFailed, dial, timed_out
from portway.engine.directory import Expected, Node, ask_on_thread
from portway.engine.foreseen_race import DialEnd, foreseen_race
from portway.engine.grpc_registries import CALL_TIMEOUT, GrpcRegistries, expected_of, well_formed
from portway.engine.return_rule import Measured, NamedNode, ReturnRule
from portway.errors import UnreachableError

# Dials at the same time. More would wait for one another's cryptography, which is not to be measured.
PARALLEL_DIALS: Final = 4
READY: Final = "ready"


@dataclass(frozen=True, slots=True)
class SurveyedNode:
    """A node as a registry describes it to people. `state` is "ready", "full", "cordoned" or "draining"."""

    node: Node
    state: str
    expected: Expected
    distance_km: float
    load_ms: int


@dataclass(frozen=True, slots=True)
class Survey:
    """The nodes of every region, those that take clients first, in the order to try them; and where this client is.

    total: all nodes of the cluster; fewer may be listed. position: latitude and longitude, None if GeoIP has none.
    """

    registry: str
    nodes: tuple[SurveyedNode, ...]
    total: int
    cluster_ca: bytes = field(repr=False)
    address: str = ""
    country: str = ""
    position: tuple[float, float] | None = None


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


async def take_survey(
    carrier: Carrier, registries: GrpcRegistries, within: float
) -> tuple[Survey, tuple[MeasuredNode, ...]]:
    """The nodes of every region as a registry describes them, and how far away each is. Takes up to `within` seconds.
    Raises Error."""
    clock = asyncio.get_running_loop().time
    until = clock() + within
    try:
        async with asyncio.timeout_at(until):
            survey = await ask_on_thread(lambda: ask_survey(registries))
    except TimeoutError:
        raise UnreachableError(f"no registry answered within {within:g} s: raise --timeout") from None
    return survey, await measure(carrier, survey, max(0.0, until - clock()))


def ask_survey(registries: GrpcRegistries) -> Survey:
    """Ask for the nodes of every region. Blocks. Raises as GrpcRegistries.locate."""
    request = SurveyRequest()
    answer = registries.ask(
        "no registry could say where the relay nodes are",
        lambda channel, metadata: DiscoveryStub(channel).Survey(request, timeout=CALL_TIMEOUT, metadata=metadata),
    )
    nodes = tuple(
        SurveyedNode(registries.node_of(one), _state(one), expected_of(one), one.distance_km, one.load_ms)
        for one in well_formed(answer.candidates)
    )
    position = (answer.client_latitude, answer.client_longitude)
    return Survey(
        registries.last_answered,
        nodes,
        answer.nodes,
        answer.cluster_ca,
        answer.client_address,
        answer.client_country,
        position if position != (0, 0) else None,
    )


def _state(candidate: Candidate) -> str:
    node = candidate.node
    if node.state != NODE_STATE_READY:
        return NodeState.Name(node.state).removeprefix("NODE_STATE_").lower()
    return READY if not 0 < node.max_sessions <= node.sessions else "full"


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


def pick_later(measured: Sequence[MeasuredNode], picked: Pick, returns: ReturnTimes | None) -> MeasuredNode | None:
    """The node that a tunnel with these times would go to after the race, as ReturnRule has it, if distances stay as
    they were measured; None if it would stay."""
    if returns is None:
        return None
    candidates = {one.node.node.name: one for one in measured if one.candidate}
    found = {name: Measured(one.rtt_ms, one.took * 1000) for name, one in candidates.items() if one.rtt_ms is not None}
    named = [
        NamedNode(name, one.node.node.region, one.node.expected.ms, one.node.load_ms)
        for name, one in candidates.items()
    ]
    home = picked.measured.node
    rule = ReturnRule(returns, chance=lambda: 0.5)
    rule.measured(0.0, home.node.region, found[home.node.name].ms)
    rule.attached(0.0, home.node.name, home.node.region, home.expected.ms)
    for _ in candidates:  # each look but the last measures another region, or finds one that is nearer
        for _ in range(2):
            now = rule.look_at
            rivals = rule.to_dial(now, named)
            if not rivals:
                return None
            target = rule.dialled(now, found[home.node.name], {name: found[name] for name in rivals if name in found})
            if target is not None:
                return candidates[target]
    return None


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
