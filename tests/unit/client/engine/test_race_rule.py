"""portway.engine.race_rule: which node is dialled when; and beside real dials, on a loop with a clock of its own."""

import asyncio
from contextlib import aclosing
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from portway.engine.dialling import RaceRecord
from portway.engine.dialling import race as real_race
from portway.engine.directory import Node
from portway.engine.foreseen_race import DialEnd, foreseen_race
from portway.engine.race_rule import DIAL_TIMEOUT, RACERS, STAGGER, RaceRule
from portway_carrier.errors import ConnectFailed
from portway_carrier.values import ClientTls, Handshake
from portway_proto.wire.limits import LINK_ALPN
from portway_runtime.endpoints import Endpoint
from portway_testkit.fakes.jumping_loop import JumpingLoop

NAMES = "abcdefgh"
# Who was ready, and when in milliseconds.
Finish = list[tuple[str, int]]
# Seconds that a dial takes, and whether it ends with a connection.
Ending = tuple[float, bool]


class _Dial:
    def __init__(self, ending: Ending) -> None:
        self._ending = ending

    async def ready(self) -> Handshake:
        took, connected = self._ending
        await asyncio.sleep(took)
        if not connected:
            raise ConnectFailed("refused")
        return Handshake(LINK_ALPN, None, took)

    def abort(self) -> None:
        pass


class _Carrier:
    def __init__(self, endings: dict[str, Ending]) -> None:
        self._endings = endings

    def connect(self, address: Endpoint, tls: ClientTls, via: object = None) -> _Dial:
        return _Dial(self._endings[address.host])


def run_real(endings: dict[str, Ending], stagger: float) -> Finish:
    async def run() -> Finish:
        nodes = [Node(name, "fra", Endpoint(name, 443), name, "tunnels.test") for name in endings]
        clock = asyncio.get_running_loop().time
        found: Finish = []
        carrier: Any = _Carrier(endings)
        async with aclosing(real_race(carrier, nodes, b"ca", RaceRecord(), stagger)) as ready:
            async for node, _ in ready:
                found.append((node.name, round(clock() * 1000)))
        return found

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(run())


def run_rule(endings: dict[str, Ending], stagger: float) -> Finish:
    def dial(name: str, now: float) -> DialEnd:
        took, connected = endings[name]
        return DialEnd(now + took, connected)

    found: Finish = []
    running = foreseen_race(list(endings), dial, 0.0, stagger)
    try:
        step = next(running)
        while True:
            if step.ready is not None:
                found.append((step.ready, round(step.at * 1000)))
            step = running.send(step.at)
    except StopIteration:
        return found


def test_nodes_are_dialled_at_their_times() -> None:
    """The first at once, the second after the first stagger, the third after STAGGER; a fourth waits for an end."""
    rule = RaceRule("abcd", 10.0, stagger=1.0)
    assert rule.dial_next(10.0) == "a"
    assert rule.next_dial_at == 11.0
    assert rule.dial_next(10.9) is None
    assert rule.dial_next(11.5) == "b"
    assert rule.next_dial_at == 11.5 + STAGGER
    assert rule.dial_next(12.0) == "c"
    assert rule.next_dial_at is None
    assert rule.dial_next(60.0) is None
    rule.ended(60.0, connected=False)
    assert rule.dial_next(60.0) == "d"


def test_after_a_failure_the_next_node_is_dialled_at_once() -> None:
    """A connection that is not used leaves the next dial's time as it was, unless no dial goes on."""
    rule = RaceRule("abc", 0.0, stagger=1.0)
    rule.dial_next(0.0)
    rule.ended(0.5, connected=False)
    assert rule.dial_next(0.5) == "b"
    assert rule.next_dial_at == 0.5 + STAGGER
    rule.ended(0.51, connected=True)
    assert rule.dial_next(0.51) == "c"
    rule.ended(0.6, connected=True)
    assert rule.over


def test_a_race_of_no_nodes_is_over() -> None:
    """Nothing is dialled, and nothing waited for."""
    rule: RaceRule[str] = RaceRule([], 0.0)
    assert rule.over
    assert rule.next_dial_at is None
    assert rule.dial_next(0.0) is None
    assert list(foreseen_race([], lambda node, now: DialEnd(now, connected=True), 0.0)) == []


def test_one_racer_has_no_rival() -> None:
    """However long its dial takes."""
    rule = RaceRule("ab", 0.0, racers=1)
    assert RACERS > 1
    assert rule.dial_next(0.0) == "a"
    assert rule.next_dial_at is None
    rule.ended(9.0, connected=False)
    assert rule.dial_next(9.0) == "b"


def test_a_near_first_candidate_has_no_rival() -> None:
    """Who is ready within the stagger is met by nobody else: the race yields it before another is dialled."""
    dialled = []

    def dial(name: str, now: float) -> DialEnd:
        dialled.append(name)
        return DialEnd(now + STAGGER / 2, connected=True)

    running = foreseen_race(["near", "far"], dial, 0.0)
    step = running.send(next(running).at)
    assert (step.ready, dialled) == ("near", ["near"])


def test_the_silent_cost_their_time_limit_three_at_a_time() -> None:
    """Three who never answer hold up the fourth until the first of them is given up."""
    endings = {**dict.fromkeys("abc", (60.0, True)), "d": (0.01, True)}
    assert run_rule(endings, STAGGER) == [("d", round((DIAL_TIMEOUT + 0.01) * 1000))]


# Endings a prime number of milliseconds apart from each other and from the staggers: no two things happen at once.
_ENDINGS = st.lists(
    st.tuples(st.integers(0, 290).map(lambda n: (n * 13 + 7) / 1000), st.booleans()), min_size=1, max_size=len(NAMES)
)


@given(endings=_ENDINGS, stagger=st.sampled_from([STAGGER, 0.997]))
@settings(max_examples=100)
def test_a_foreseen_race_goes_as_the_real_one(endings: list[Ending], stagger: float) -> None:
    """Whatever each dial takes and comes to, the same nodes are ready at the same moments as in the real race."""
    # A thousandth of a millisecond for each, so that equals have an order in both.
    apart = {name: (took + number * 1e-6, ok) for number, (name, (took, ok)) in enumerate(zip(NAMES, endings))}  # noqa: B905
    assert sorted(run_rule(apart, stagger)) == sorted(run_real(apart, stagger))
