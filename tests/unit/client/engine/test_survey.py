"""portway.engine.survey: the nodes of every region are dialled once, within limits, and the race is foreseen."""

import asyncio
from typing import Any

import pytest
from portway.engine import survey as module
from portway.engine.dialling import DialFailed, Dialled
from portway.engine.directory import Expected, Node, RoundTrip
from portway.engine.race_rule import RACERS
from portway.engine.survey import PARALLEL_DIALS, MeasuredNode, Survey, SurveyedNode, ask_survey, measure, pick
from portway_proto.v1.discovery_pb2 import SurveyResponse
from portway_runtime.endpoints import Endpoint
from portway_testkit.fakes.jumping_loop import JumpingLoop


def surveyed(name: str, state: str = "ready") -> SurveyedNode:
    return SurveyedNode(
        Node(name, "fra", Endpoint("192.0.2.1", 443), f"{name}.test", "tunnels.test"), state, Expected(0, False), 0.0, 0
    )


def took(name: str, milliseconds: float, state: str = "ready") -> MeasuredNode:
    return MeasuredNode(surveyed(name, state), milliseconds / 2, milliseconds / 1000)


def failed(name: str, milliseconds: float) -> MeasuredNode:
    return MeasuredNode(surveyed(name), None, milliseconds / 1000, "refused")


@pytest.mark.parametrize(
    ("measured", "name", "after", "why"),
    [
        ([took("a", 10)], "a", 10, "the only one that takes clients"),
        ([took("a", 10), took("b", 1)], "a", 10, "the first of the order, and ready before a second one is tried"),
        ([took("a", 40), took("b", 100)], "a", 40, "the first of the order, and ready before the 1 dialled after it"),
        ([took("a", 90), took("b", 20)], "b", 45, "ready first; a, the first of the order, needs 90 ms"),
        ([took("a", 90), took("b", 90), took("c", 5), took("d", 0)], "c", 55, "ready first; a, the first"),
        ([took("a", 900), took("b", 900), took("c", 900), took("d", 0)], "a", 900, "before the 2 dialled after it"),
        ([failed("a", 3), took("b", 20)], "b", 23, "ready first; a, the first of the order, cannot be reached: ref"),
        ([failed("a", 40), took("b", 20)], "b", 45, "cannot be reached: refused"),
        ([took("x", 1, "draining"), took("a", 10)], "a", 10, "the only one that takes clients"),
        ([*(failed(name, 3000) for name in "abc"), took("d", 10)], "d", 3010, "cannot be reached"),
    ],
)
def test_who_would_win_the_race(measured: list[MeasuredNode], name: str, after: float, why: str) -> None:
    """As the race goes: staggered, three at a time, the next one at once when one has failed."""
    picked = pick(measured)
    assert picked is not None
    assert picked.measured.node.node.name == name
    assert picked.after * 1000 == pytest.approx(after)
    assert why in picked.why
    assert RACERS == 3


@pytest.mark.parametrize("measured", [[], [failed("a", 1), failed("b", 1)], [took("a", 1, "full")]])
def test_nobody_may_win_it(measured: list[MeasuredNode]) -> None:
    """When nobody answers, or those who do take no clients."""
    assert pick(measured) is None


class Stream:
    def __init__(self) -> None:
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


class Dials:
    """In the place of `dial`: nodes whose name begins with `silent` never answer, those with `dead` refuse."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.running = 0
        self.most = 0
        self.cancelled = 0

    async def __call__(self, carrier: object, node: Node, cluster_ca: bytes) -> Any:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0)
            if node.name.startswith("silent"):
                await asyncio.Event().wait()
            if node.name.startswith("dead"):
                raise DialFailed("192.0.2.1:443: nobody listens", "refused")
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        self.streams.append(Stream())
        return Dialled(self.streams[-1], RoundTrip(node.name, 7.0), 0.02)  # type: ignore[arg-type]


@pytest.fixture
def dials(monkeypatch: pytest.MonkeyPatch) -> Dials:
    dials = Dials()
    monkeypatch.setattr(module, "dial", dials)
    return dials


def survey(*names: str) -> Survey:
    return Survey("registry.test:7400", tuple(map(surveyed, names)), len(names), b"ca")


async def test_every_node_is_dialled_once_and_let_go(dials: Dials) -> None:
    """A few at a time; results are in the survey's order."""
    names = [f"n{number}" for number in range(20)]
    names[3] = "dead"
    measured = await measure(None, survey(*names), 10.0)  # type: ignore[arg-type]
    assert [one.node.node.name for one in measured] == names
    assert {one.rtt_ms for one in measured if not one.problem} == {7.0}
    dead = measured[3]
    assert (dead.reached, dead.rtt_ms, dead.problem, dead.short) == (False, None, "nobody listens", "refused")
    assert len(dials.streams) == 19
    assert all(stream.aborted for stream in dials.streams)
    assert dials.most == PARALLEL_DIALS


def test_time_is_bounded(dials: Dials) -> None:
    """Who has not answered by then is given up, and who was not dialled is said not to have been."""
    names = ["n0", *(f"silent{number}" for number in range(PARALLEL_DIALS)), "late"]
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        measured = runner.run(measure(None, survey(*names), 0.05))  # type: ignore[arg-type]
    assert measured[0].rtt_ms == 7.0
    assert {one.problem for one in measured[1:-1]} == {"no answer within 0.05 s"}
    assert {one.short for one in measured[1:-1]} == {"timed out after 0.05 s"}
    assert (measured[-1].problem, measured[-1].short) == ("not dialled within 0.05 s", "no time left to try it")
    assert (dials.running, dials.cancelled) == (0, PARALLEL_DIALS)


async def test_no_nodes_are_no_error(dials: Dials) -> None:
    """There is nothing to dial."""
    assert await measure(None, survey(), 1.0) == ()  # type: ignore[arg-type]


class Answering:
    """In the place of GrpcRegistries: a registry gives this answer."""

    last_answered = "registry.test:7400"

    def __init__(self, answer: SurveyResponse) -> None:
        self._answer = answer

    def ask(self, *_: object) -> SurveyResponse:
        return self._answer


def test_a_survey_keeps_what_a_registry_says() -> None:
    """Whoever prints it makes it printable, each form in its own way."""
    answer = SurveyResponse(client_address="192.0.2.7\x1b", client_country="D\n", client_latitude=50, nodes=3)
    registries: Any = Answering(answer)
    assert ask_survey(registries) == Survey("registry.test:7400", (), 3, b"", "192.0.2.7\x1b", "D\n", (50.0, 0.0))
