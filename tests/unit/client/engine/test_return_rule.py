"""portway.engine.return_rule: when a session looks for a nearer node, and when it goes there."""

import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from portway.config import ReturnTimes
from portway.engine.return_rule import (
    LONGEST_PAUSE,
    RIVALS,
    Measured,
    NamedNode,
    ReturnRule,
    clearly_nearer,
)

TIMES = ReturnTimes()
HOUR = 3600.0
Trips = Mapping[str, float]


@dataclass
class Session:
    """A session by the rule, in a world of nodes, each in a region of its own: `trips` are their round trips at a time,
    without those not ready."""

    trips: Callable[[float], Trips]
    rule: ReturnRule
    home: str = ""
    now: float = 1_000.0
    expected: Trips = field(default_factory=dict)
    loads: Trips = field(default_factory=dict)
    looks: list[float] = field(default_factory=list)
    dials: list[str] = field(default_factory=list)
    moves: list[tuple[float, str]] = field(default_factory=list)

    def attach(self, home: str, ms: float | None = None) -> None:
        self.home = home
        if ms is not None:
            self.rule.measured(self.now, home, ms)
        self.rule.attached(self.now, home, home, self.expected.get(home, 0.0))

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.rule.look_at <= until:
            self.now = self.rule.look_at
            self._look()
        self.now = until

    def _look(self) -> None:
        self.looks.append(self.now)
        trips = self.trips(self.now)
        named = [NamedNode(name, name, self.expected.get(name, 0.0), self.loads.get(name, 0.0)) for name in trips]
        rivals = self.rule.to_dial(self.now, named)
        self.dials += rivals
        if not rivals:
            return
        measured = {name: Measured(trips[name], 2 * trips[name] + 3) for name in (self.home, *rivals) if name in trips}
        target = self.rule.dialled(self.now, measured.pop(self.home, None), measured)
        if target is not None:
            self.rule.returning(self.now)
            self.moves.append((self.now, target))
            self.attach(target, trips[target])


def session(
    trips: Trips | Callable[[float], Trips],
    chance: Callable[[], float] = lambda: 0.5,
    *,
    expected: Trips | None = None,
    loads: Trips | None = None,
) -> Session:
    by_time = trips if callable(trips) else lambda _: trips
    return Session(by_time, ReturnRule(TIMES, chance=chance), expected=expected or {}, loads=loads or {})


@pytest.mark.parametrize(
    ("ms", "than", "expected"),
    [
        (72, 223, True),
        (20, 30, True),
        (20.1, 30, False),
        (5, 15, True),
        (5.1, 15, False),
        (0.1, 9, False),
        (67, 100, False),
    ],
)
def test_clearly_nearer_is_by_ten_milliseconds_and_a_third(ms: float, than: float, expected: bool) -> None:
    """Both; less is no reason to move."""
    assert clearly_nearer(ms, than) is expected


def test_a_session_goes_back_once_its_node_has_been_ready_for_a_minute() -> None:
    """At the first look after its flight the near node is starting; at the second it is there, and at the third, at
    least a minute later, still."""
    ready_at = 1_000.0 + 1.2 * TIMES.look
    here = session(lambda now: {"far": 223.0} | ({"near": 72.0} if now >= ready_at else {}))
    here.rule.measured(here.now, "near", 72.0)
    here.attach("far", 223.0)
    here.run(HOUR)
    first, second, third = here.looks[:3]
    assert first < ready_at <= second
    assert third - second >= TIMES.ready
    assert here.moves == [(third, "near")]


def test_clients_of_one_node_are_back_within_minutes_and_not_together() -> None:
    """10,000 that lost it at the same time, a node that takes 20 s to come back: fewer than three in ten return in any
    minute, and the last within ten minutes."""
    chance = random.Random(7).random
    back = []
    for _ in range(10_000):
        here = session(lambda now: {"far": 223.0} | ({"near": 72.0} if now >= 1_020.0 else {}), chance)
        here.attach("far", 223.0)
        here.run(600.0)
        assert [name for _, name in here.moves] == ["near"]
        back.append(here.moves[0][0] - 1_000.0)
    a_minute = max(sum(start <= at < start + 60 for at in back) for start in range(0, 600, 5))
    assert a_minute < 3_000
    assert min(back) >= 20 + TIMES.ready


def test_a_session_at_its_best_node_dials_nobody() -> None:
    """What a registry expects, or what was measured before, says that none is clearly nearer: a look is one Locate,
    ever more rarely."""
    here = session({"near": 20.0, "next": 15.0, "far": 90.0}, expected={"near": 22.0, "next": 14.0, "far": 80.0})
    here.attach("near", 20.0)
    here.run(10 * HOUR)
    assert here.dials == []
    gaps = [after - before for before, after in zip(here.looks, here.looks[1:], strict=False)]
    assert gaps[:5] == [150.0, 300.0, 600.0, 1200.0, 1200.0]
    assert len(here.looks) < 35


def test_an_expectation_that_was_wrong_is_not_tried_again_at_once() -> None:
    """For an hour what was measured counts."""
    here = session({"home": 50.0, "promised": 200.0}, expected={"home": 50.0, "promised": 10.0})
    here.attach("home", 50.0)
    here.run(HOUR)
    assert here.dials == ["promised"]
    here.run(HOUR)
    assert here.dials == ["promised"] * 2
    assert here.moves == []


def test_nodes_of_which_nothing_is_known_are_tried() -> None:
    """As by a client that no registry can locate: at most two in a look, and the nearest of them is found in time."""
    trips = {"home": 180.0} | {f"n{number}": 20.0 + 10 * number for number in range(6)}
    here = session(trips)
    here.attach("home", 180.0)
    here.run(HOUR)
    assert all(here.dials.count(name) <= 3 for name in trips)
    assert here.home in ("n0", "n1")
    assert here.looks
    assert RIVALS == 2


def test_two_measurements_must_agree() -> None:
    """A home that is slow for a moment, or a rival that is quick for one, is no reason to leave."""
    here = session(lambda now: {"home": 200.0 if 1_070.0 < now < 1_080.0 else 30.0, "other": 60.0})
    here.attach("home", 200.0)
    here.run(HOUR)
    assert here.moves == []


def test_a_node_is_not_nearer_because_it_acknowledges_early() -> None:
    """The kernel's round trip can be made short from far away; a TLS handshake cannot."""
    rule = ReturnRule(TIMES, chance=lambda: 0.5)
    rule.measured(0.0, "home", 60.0)
    rule.attached(0.0, "home", "home", 0.0)
    for now in (100.0, 1_000.0, 2_000.0):
        assert rule.to_dial(now, [NamedNode("home", "home"), NamedNode("liar", "liar")]) == ("liar",)
        assert rule.dialled(now, Measured(60.0, 123.0), {"liar": Measured(0.1, 303.0)}) is None


def test_a_region_that_was_near_is_missed_for_an_hour() -> None:
    """By one that is far now, if it is not named; by location nothing is missed."""
    rule = ReturnRule(TIMES, chance=lambda: 0.5)
    rule.measured(0.0, "near", 72.0)
    assert not rule.misses(1.0, ["far"]), "there is nothing to compare with"
    rule.measured(0.0, "far", 223.0)
    rule.attached(0.0, "far-1", "far", 0.0)
    assert rule.misses(1.0, ["far", "other"])
    assert not rule.misses(1.0, ["far", "near"])
    assert not rule.misses(HOUR, ["far"])
    rule.attached(10.0, "near-1", "near", 0.0)
    assert not rule.misses(11.0, ["near"])


def test_load_counts_as_when_a_node_is_picked() -> None:
    """A node that is nearly full is left alone while its load outweighs its nearness; load alone drives nobody away."""
    full = session({"home": 50.0, "near": 30.0}, loads={"near": 25.0})
    full.attach("home", 50.0)
    full.run(HOUR)
    assert full.moves == []
    worth = session({"home": 223.0, "near": 72.0}, loads={"near": 30.0})
    worth.attach("home", 223.0)
    worth.run(HOUR)
    assert [name for _, name in worth.moves] == ["near"]
    loaded = session({"home": 30.0, "other": 28.0}, loads={"home": 30.0})
    loaded.attach("home", 30.0)
    loaded.run(HOUR)
    assert loaded.moves == []


def test_one_that_is_nearer_still_is_waited_for() -> None:
    """The second nearest has been ready for long when the nearest has just come back: the session goes once."""
    here = session(lambda now: {"far": 300.0, "second": 100.0} | ({"nearest": 20.0} if now >= 1_200.0 else {}))
    here.attach("far", 300.0)
    here.rule.look_at = 1_190.0
    here.run(0.0)
    here.run(HOUR)
    assert [name for _, name in here.moves] == ["nearest"]


def test_round_trips_that_take_turns_are_followed_ever_more_rarely() -> None:
    """Two nodes that are nearer in turn, for twelve minutes each: after a day the session has moved a few times, and
    never twice in ten minutes."""
    here = session(lambda now: {"a": 20.0, "b": 80.0} if now // 720 % 2 else {"a": 80.0, "b": 20.0})
    here.attach("a", 80.0)
    here.run(24 * HOUR)
    times = [at for at, _ in here.moves]
    assert 2 <= len(times) <= 24
    assert all(after - before >= TIMES.pause for before, after in itertools.pairwise(times))


def test_a_node_that_dies_when_somebody_returns_is_left_alone_ever_longer() -> None:
    """The pauses double, up to hours."""
    here = session({"far": 223.0, "near": 72.0})
    here.attach("far", 223.0)
    returns: list[float] = []
    while here.now < 1_000.0 + 24 * HOUR:
        here.run(10.0)
        if here.home == "near":
            returns.append(here.moves[-1][0])
            here.attach("far", 223.0)  # it died
    pauses = [after - before for before, after in itertools.pairwise(returns)]
    assert pauses[0] >= TIMES.pause
    assert pauses[1] >= 2 * TIMES.pause
    assert pauses[2] >= 4 * TIMES.pause
    assert pauses[-1] >= LONGEST_PAUSE * TIMES.pause
    assert len(returns) < 12


def test_after_quiet_days_a_return_is_as_soon_as_the_first() -> None:
    """The pause does not stay long for ever."""
    here = session({"far": 223.0, "near": 72.0})
    for _ in range(2):
        here.attach("far", 223.0)
        began = here.now
        here.run(700.0)
        assert here.moves[-1][0] - began <= 600.0
        here.run(24 * HOUR)
    assert len(here.moves) == 2


def test_by_location_what_a_registry_expects_decides() -> None:
    """The nearer node must be reached, a while apart; how long that takes does not count."""
    rule = ReturnRule(TIMES, by_location=True, chance=lambda: 0.5)
    rule.attached(0.0, "far", "r1", 90.0)
    near, far = NamedNode("near", "r2", 12.0), NamedNode("far", "r1", 90.0)
    slow = Measured(400.0, 900.0)
    assert rule.to_dial(100.0, [near, far]) == ("near",)
    assert rule.dialled(100.0, Measured(1.0, 5.0), {}) is None
    assert rule.to_dial(200.0, [near, far]) == ("near",)
    assert rule.dialled(200.0, Measured(1.0, 5.0), {"near": slow}) is None
    assert rule.to_dial(rule.look_at, [near]) == ("near",)
    assert rule.dialled(rule.look_at, None, {"near": slow}) == "near"
    rule.returning(500.0)
    rule.attached(500.0, "near", "r2", 12.0)
    assert rule.to_dial(2_000.0, [near, far, NamedNode("unknown", "r3")]) == ()


def test_a_region_s_minute_does_not_begin_anew_with_each_of_its_nodes() -> None:
    """A registry names two nodes of a region, others each time. Only one of a region is dialled."""
    rule = ReturnRule(TIMES, chance=lambda: 0.5)
    rule.measured(0.0, "far", 223.0)
    rule.attached(0.0, "far-1", "far", 0.0)
    far, quick, slow = NamedNode("far-1", "far"), Measured(72.0, 147.0), Measured(223.0, 449.0)
    sibling = NamedNode("far-2", "far")
    assert rule.to_dial(100.0, [sibling, *(NamedNode(f"near-{n}", "near") for n in (1, 2)), far]) == ("near-1",)
    assert rule.dialled(100.0, slow, {"near-1": quick}) is None
    assert rule.look_at == 100.0 + TIMES.ready + 0.5 * TIMES.spread
    assert rule.to_dial(rule.look_at, [*(NamedNode(f"near-{n}", "near") for n in (3, 4)), far]) == ("near-3",)
    assert rule.dialled(rule.look_at, slow, {"near-3": quick}) == "near-3"


def test_a_node_of_its_own_region_is_dialled_if_a_registry_expects_it_to_be_nearer() -> None:
    """Where a region has several places; without an expectation all of its nodes are equals."""
    rule = ReturnRule(TIMES, chance=lambda: 0.5)
    rule.measured(0.0, "far", 223.0)
    rule.attached(0.0, "far-1", "far", 0.0)
    assert rule.to_dial(100.0, [NamedNode("far-2", "far")]) == ()
    assert rule.to_dial(200.0, [NamedNode("far-3", "far", 72.0)]) == ("far-3",)


def test_a_node_that_is_not_named_any_more_begins_anew() -> None:
    """No other of its region is: it was full, drained or gone, and its minute begins when it is named again."""
    here = session(lambda now: {"far": 223.0} | ({} if 1_100.0 < now < 1_400.0 else {"near": 72.0}))
    here.attach("far", 223.0)
    here.run(HOUR)
    ((at, _),) = here.moves
    assert at >= 1_400.0 + TIMES.ready


_WORLDS = st.lists(
    st.tuples(st.floats(60, 3_000), st.dictionaries(st.sampled_from("abcd"), st.floats(1, 300))),
    min_size=1,
    max_size=12,
)


@given(world=_WORLDS, seed=st.integers(0, 1 << 32))
@settings(max_examples=60)
def test_whatever_happens_returns_are_rare_and_pay(world: list[tuple[float, Trips]], seed: int) -> None:
    """Nodes come and go and change their distances: each return is to a node that is clearly nearer at that moment,
    and no two are closer together than the pause."""

    def trips(now: float) -> Trips:
        at = 1_000.0
        for seconds, phase in world:
            at += seconds
            if now < at:
                return {"home": 150.0, **phase}
        return {"home": 150.0}

    here = session(trips, random.Random(seed).random)
    here.attach("home", 150.0)
    for _ in range(60):
        before, home = len(here.moves), here.home
        here.run(300.0)
        for at, target in here.moves[before:]:
            assert clearly_nearer(trips(at)[target], trips(at)[home])
            home = target
        if here.home not in trips(here.now):
            here.attach("home", 150.0)
    times = [at for at, _ in here.moves]
    assert all(after - before >= TIMES.pause for before, after in itertools.pairwise(times))
