"""What clients have measured: what it comes to, how long it is kept, and what is not believed."""

import ipaddress
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from portway_geo.position import Position
from portway_registry.placement.placed_nodes import PlacedNode
from portway_registry.placement.round_trips import (
    HALF_LIFE,
    LIFETIME,
    MAX_SUBJECTS,
    MAX_TOKENS,
    NOTHING,
    QUORUM,
    Expected,
    Measurement,
    RoundTrips,
    prefix_of,
)

FRANKFURT, LONDON, SYDNEY = Position(50, 9), Position(51, 0), Position(-34, 151)
HERE, ELSEWHERE = b"\xc0\x00\x02", b"\xc6\x33\x64"


def node(name: str, position: Position | None = FRANKFURT) -> PlacedNode:
    """In the region that its name begins with."""
    return PlacedNode(name, name.partition("-")[0], position)


FRA = node("fra-1")


def reported_by(*values: float, subject: PlacedNode = FRA, at_least: bool = False, now: float = 0.0) -> RoundTrips:
    """Each value by a token of its own, from one prefix."""
    trips = RoundTrips()
    for number, ms in enumerate(values):
        trips.report(HERE, f"token{number}", [Measurement(subject, ms, at_least)], now)
    return trips


def place(trips: RoundTrips, subject: PlacedNode = FRA, now: float = 0.0) -> Expected | None:
    return trips.learned(HERE, now).places.get(subject.place)


@pytest.mark.parametrize(
    ("address", "prefix"),
    [
        ("192.0.2.7", b"\xc0\x00\x02"),
        ("192.0.2.255", b"\xc0\x00\x02"),
        ("2001:db8:1:2::3", b"\x20\x01\x0d\xb8\x00\x01"),
        ("2001:db8:1:ffff::", b"\x20\x01\x0d\xb8\x00\x01"),
    ],
)
def test_clients_of_one_network_share_a_prefix(address: str, prefix: bytes) -> None:
    """Of 24 bits for IPv4 and 48 for IPv6."""
    assert prefix_of(ipaddress.ip_address(address)) == prefix


def test_several_tokens_decide_and_fewer_do_not() -> None:
    """However often one of them reports."""
    assert place(reported_by(10, 20)) is None
    trips = reported_by(10, 20)
    for _ in range(50):
        trips.report(HERE, "token0", [Measurement(FRA, 1)], 0.0)
    assert place(trips) is None
    assert place(reported_by(10, 30, 20)) == Expected(20, True)
    assert QUORUM == 3


def test_a_token_that_lies_moves_it_no_farther_than_to_an_honest_value() -> None:
    """Whichever way it lies, beside however many honest ones."""
    honest = [30.0, 31.0, 32.0]
    for lie in (0.1, 1400.0):
        for number in (2, 3):
            found = place(reported_by(*honest[:number], lie))
            assert found is not None
            assert 30 <= found.ms <= 32


def test_prefixes_are_apart() -> None:
    """What one network's clients say is nothing to another's."""
    assert reported_by(10, 10, 10).learned(ELSEWHERE, 0.0) is NOTHING


def test_a_token_s_newer_values_weigh_more() -> None:
    """At once one counts half; after a while the one before hardly counts."""
    trips = reported_by(100, 100, 100)
    for number in range(3):
        trips.report(HERE, f"token{number}", [Measurement(FRA, 20)], 0.0)
    assert place(trips) == Expected(60, True)
    later = 4 * HALF_LIFE
    for number in range(3):
        trips.report(HERE, f"token{number}", [Measurement(FRA, 20)], later)
    found = place(trips, now=later)
    assert found is not None
    assert found.ms == pytest.approx(20, abs=2)


def test_what_is_old_is_forgotten() -> None:
    """Token by token, and the prefix with the last of them."""
    trips = reported_by(10, 10)
    trips.report(HERE, "later", [Measurement(FRA, 10)], 100.0)
    assert place(trips, now=LIFETIME - 1) == Expected(10, True)
    assert place(trips, now=LIFETIME) is None
    assert trips.samples == 2  # the place and the node, by the one that was later
    assert trips.learned(HERE, LIFETIME + 100) is NOTHING
    assert (len(trips), trips.samples) == (0, 0)


def test_a_place_is_known_by_any_of_its_nodes() -> None:
    """Three nodes measured by one token each tell about all that are there."""
    trips = RoundTrips()
    for number in range(3):
        trips.report(HERE, f"token{number}", [Measurement(node(f"fra-{number}"), 10 + number)], 0.0)
    learned = trips.learned(HERE, 0.0)
    assert learned.places == {FRA.place: Expected(11, True)}
    assert learned.nodes == {}


def test_a_node_that_is_not_like_its_place_is_kept_apart() -> None:
    """Its neighbours stay equals of one another, though they were measured a little apart."""
    trips = RoundTrips()
    for number in range(5):
        race = [Measurement(node("fra-1"), 10), Measurement(node("fra-2"), 11), Measurement(node("fra-3"), 90)]
        trips.report(HERE, f"token{number}", race, 0.0)
    learned = trips.learned(HERE, 0.0)
    assert learned.places == {FRA.place: Expected(10, True)}
    assert learned.nodes == {"fra-3": Expected(90, True)}


def test_who_was_given_up_is_known_to_be_no_nearer() -> None:
    """A bound is a bound, and makes no estimate shorter."""
    found = place(reported_by(40, 45, 50, at_least=True))
    assert found == Expected(45, False)
    assert found.beside(10) == 45
    assert found.beside(80) == 80
    assert Expected(45, True).beside(80) == 45


def test_a_bound_takes_the_place_of_a_value_that_it_contradicts_alone() -> None:
    """A race that was over before this node could have answered says nothing of it."""
    trips = reported_by(40, 40, 40)
    for number in range(3):
        trips.report(HERE, f"token{number}", [Measurement(FRA, 15, True)], 10.0)
    assert place(trips, now=10.0) == Expected(40, True)
    for number in range(3):
        trips.report(HERE, f"token{number}", [Measurement(FRA, 70, True)], 20.0)
    assert place(trips, now=20.0) == Expected(70, False)
    for number in range(3):
        trips.report(HERE, f"token{number}", [Measurement(FRA, 65)], 30.0)
    assert place(trips, now=30.0) == Expected(65, True)


def test_a_lower_bound_that_comes_later_keeps_a_higher_one_until_it_is_old() -> None:
    """And does not keep it alive."""
    trips = reported_by(70, 70, 70, at_least=True)
    for number in range(3):
        trips.report(HERE, f"token{number}", [Measurement(FRA, 15, True)], 10.0)
    assert place(trips, now=10.0) == Expected(70, False)
    for number in range(3):
        trips.report(HERE, f"token{number}", [Measurement(FRA, 15, True)], HALF_LIFE)
    assert place(trips, now=HALF_LIFE) == Expected(15, False)


def test_the_race_of_two_neighbours_tells_of_their_place_by_the_one_that_won() -> None:
    """The other was given up, and might have been as near."""
    trips = RoundTrips()
    for number in range(3):
        race = [Measurement(node("fra-1"), 40, at_least=True), Measurement(node("fra-2"), 10)]
        trips.report(HERE, f"token{number}", race, 0.0)
    learned = trips.learned(HERE, 0.0)
    assert learned.places == {FRA.place: Expected(10, True)}
    assert learned.nodes == {"fra-1": Expected(40, False)}


def test_a_node_that_was_moved_is_another_one() -> None:
    """What was known of it where it was is not said of it where it is."""
    trips = reported_by(10, 10, 10, subject=node("fra-1"))
    moved = PlacedNode("fra-1", "fra", SYDNEY)
    trips.report(HERE, "token0", [Measurement(moved, 250)], 0.0)
    assert trips.learned(HERE, 0.0).nodes == {}


def test_tokens_and_subjects_of_a_prefix_are_bounded() -> None:
    """The least recently reported make room."""
    trips = reported_by(*range(1, MAX_TOKENS + 4))
    assert trips.samples == 2 * MAX_TOKENS
    assert place(trips) == Expected(3 + (MAX_TOKENS + 1) / 2, True)
    for number in range(MAX_SUBJECTS):
        trips.report(HERE, "token", [Measurement(node(f"r{number}-1"), 5)], 0.0)
    assert trips.samples == MAX_SUBJECTS
    assert place(trips) is None


def test_everything_is_bounded() -> None:
    """The prefix that was least recently reported or looked up makes room."""
    trips = RoundTrips(max_samples=60)
    first, second = (bytes([0, 0, number]) for number in (0, 1))
    for number in range(10):
        for token in ("a", "b", "c"):
            trips.report(bytes([0, 0, number]), token, [Measurement(FRA, 5)], 0.0)
    assert (trips.samples, len(trips)) == (60, 10)
    assert trips.learned(first, 0.0)
    trips.report(ELSEWHERE, "a", [Measurement(FRA, 5)], 0.0)
    assert trips.samples <= 60
    assert trips.learned(first, 0.0)
    assert not trips.learned(second, 0.0)


reports = st.lists(
    st.tuples(
        st.integers(0, 5),  # prefix
        st.integers(0, 12),  # token
        st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.floats(0.1, 1000), st.booleans()), max_size=4),
        st.floats(0, LIFETIME / 2),  # later
    ),
    max_size=60,
)


@settings(max_examples=100)
@given(reports, st.integers(4, 60))
def test_the_count_of_what_is_kept_is_right_whatever_is_reported(reported: list, most: int) -> None:  # type: ignore[type-arg]
    """And within its limit; every conclusion lies within what was said."""
    trips, now = RoundTrips(most), 0.0
    places = [FRANKFURT, LONDON, SYDNEY, None]
    for prefix, token, measured, later in reported:
        now += later
        race = [Measurement(node(f"r{name}-1", places[at]), ms, bound) for name, at, ms, bound in measured]
        trips.report(bytes([prefix] * 3), str(token), race, now)
        kept = sum(len(subject.samples) for one in trips._prefixes.values() for subject in one._subjects.values())
        assert trips.samples == kept <= max(most, 0)
        learned = trips.learned(bytes([random.randrange(6)] * 3), now)
        assert all(0.1 <= one.ms <= 1000 for one in (*learned.places.values(), *learned.nodes.values()))
