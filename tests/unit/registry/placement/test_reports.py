"""What clients report of round trips: how much of it is looked at, and what becomes of it."""

import ipaddress
import math
from collections.abc import Sequence

import pytest
from portway_geo.position import Position, distance_km, light_round_trip_ms
from portway_proto.v1.discovery_pb2 import RoundTrip
from portway_registry.placement.placed_nodes import PlacedNode
from portway_registry.placement.reports import (
    LONGEST_MS,
    MAX_IN_A_REPORT,
    POSITION_ERROR_KM,
    REPORT_BURST,
    REPORTS_PER_SECOND,
    Reports,
    is_plausible,
)
from portway_registry.placement.round_trips import Expected, Measurement

FRANKFURT, SYDNEY = Position(50, 9), Position(-34, 151)
NODES = {one.name: one for one in (PlacedNode("fra-1", "fra", FRANKFURT), PlacedNode("syd-1", "syd", SYDNEY))}
CLIENT = ipaddress.ip_address("192.0.2.7")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Stage:
    def __init__(self) -> None:
        self.clock = Clock()
        self.reports = Reports(NODES.get, self.clock)

    def report(self, token: str, *trips: RoundTrip, address: str = "192.0.2.7") -> None:
        self.reports.report(ipaddress.ip_address(address), token, FRANKFURT, trips)

    def known(self) -> dict[str, float]:
        """Milliseconds by region."""
        return {region: one.ms for (region, _), one in self.reports.learned(CLIENT).places.items()}


def trip(node: str, ms: float, *, at_least: bool = False) -> RoundTrip:
    return RoundTrip(node=node, ms=ms, at_least=at_least)


def test_several_tokens_of_one_network_teach_it() -> None:
    """Whichever of its addresses they come from."""
    stage = Stage()
    for number in range(3):
        stage.report(f"token{number}", trip("fra-1", 12), address=f"192.0.2.{number}")
    assert stage.reports.learned(CLIENT).places == {("fra", FRANKFURT): Expected(12, True)}
    assert +stage.reports.outcomes == {"believed": 3}


def test_what_cannot_be_is_passed_over_and_the_rest_is_not() -> None:
    """Unknown nodes, values faster than light, nonsense: counted, and nothing is raised."""
    stage = Stage()
    nonsense = [trip("mars-1", 5), trip("", 5), trip("syd-1", 20), trip("fra-1", math.nan), trip("fra-1", -1)]
    for number in range(3):
        stage.report(f"token{number}", *nonsense, trip("fra-1", 12))
    assert stage.known() == {"fra": 12}
    assert +stage.reports.outcomes == {"unknown_node": 6, "impossible": 9, "believed": 3}


def test_a_report_that_is_too_long_is_cut() -> None:
    """What comes after is not looked at."""
    stage = Stage()
    long: Sequence[RoundTrip] = [trip("fra-1", 5)] * MAX_IN_A_REPORT + [trip("syd-1", 250)] * 1000
    for number in range(3):
        stage.report(f"token{number}", *long)
    assert stage.known() == {"fra": 5}
    assert +stage.reports.outcomes == {"believed": 3 * MAX_IN_A_REPORT, "too_many": 3000}


def test_a_token_that_reports_too_often_is_not_heard_for_a_while() -> None:
    """Others are; and it is again, later."""
    stage = Stage()
    for _ in range(int(REPORT_BURST) + 5):
        stage.report("loud", trip("fra-1", 12))
    assert +stage.reports.outcomes == {"believed": REPORT_BURST, "too_often": 5}
    for number in range(2):
        stage.report(f"token{number}", trip("fra-1", 12))
    assert stage.known() == {"fra": 12}
    stage.clock.now += 1 / REPORTS_PER_SECOND
    stage.report("loud", trip("fra-1", 12))
    assert stage.reports.outcomes["believed"] == REPORT_BURST + 3


def test_an_empty_report_is_nothing() -> None:
    """No prefix is remembered for it."""
    stage = Stage()
    stage.report("token")
    stage.report("token", trip("mars-1", 5))
    assert len(stage.reports.round_trips) == 0


@pytest.mark.parametrize("ms", [0.0, -1.0, math.nan, math.inf, LONGEST_MS + 1])
def test_what_no_round_trip_can_be_is_not_believed(ms: float) -> None:
    """Wherever the client is, also of a node that was given up."""
    for client in (FRANKFURT, None):
        for at_least in (False, True):
            assert not is_plausible(Measurement(NODES["fra-1"], ms, at_least), client)


def test_nothing_is_faster_than_light() -> None:
    """From where GeoIP puts the client, to within what it knows; where it does not, nothing can be said."""
    sydney = PlacedNode("syd-1", "syd", SYDNEY)
    km = distance_km(FRANKFURT, SYDNEY)
    least = light_round_trip_ms(km - POSITION_ERROR_KM)
    assert 160 < least < 170
    assert not is_plausible(Measurement(sydney, least - 0.1), FRANKFURT)
    assert is_plausible(Measurement(sydney, least + 0.1), FRANKFURT)
    assert is_plausible(Measurement(sydney, 1), None)
    assert is_plausible(Measurement(PlacedNode("syd-1", "syd", None), 1), FRANKFURT)
    assert is_plausible(Measurement(NODES["fra-1"], 0.02), FRANKFURT)
    assert is_plausible(Measurement(sydney, 1, at_least=True), FRANKFURT)
