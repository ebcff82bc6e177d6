"""A small mesh simulated as a whole: what must hold whatever the figures are."""

import dataclasses
import json
import random
from pathlib import Path

import pytest
from portway_geo.table import read_table
from portway_lab.simulation.clients import Located, draw_prefixes, misplaced_share
from portway_lab.simulation.command import Plan, Result, main, simulate
from portway_lab.simulation.figures import Nearness
from portway_lab.simulation.geography import choose_regions, places_of
from portway_lab.simulation.homecoming import looks_of_a_session

PLAN = Plan(nodes=60, regions=12, tunnels=3_000, replicas=3, seed=7, fill=None, kill=None, strategy="latency")


@pytest.fixture(scope="module")
def result() -> Result:
    return simulate(PLAN)


def test_the_same_seed_gives_the_same_figures(result: Result) -> None:
    """What is simulated can be repeated, to the last digit; what is measured holds random ids of random lengths."""
    again = simulate(PLAN)
    for part in ("placed", "load", "newcomer", "moved", "returned", "peer_lists"):
        assert getattr(again, part) == getattr(result, part)
    assert again.worst_second.events == result.worst_second.events


def test_every_client_has_a_node(result: Result) -> None:
    """With room for all nobody is refused, and the nodes' counts add up."""
    assert (result.placed.sessions, result.placed.refused) == (PLAN.tunnels, 0)
    assert result.load.mean * PLAN.nodes == pytest.approx(PLAN.tunnels)


def test_nobody_is_better_off_than_with_the_best_node(result: Result) -> None:
    """Round trips over the best are never negative, and clients in their place are nearer than those that are not."""

    def check(one: Nearness) -> None:
        assert 0.0 <= one.over_best_ms.p50 <= one.over_best_ms.p90 <= one.over_best_ms.worst
        assert 1.0 <= one.ratio.p50 <= one.ratio.worst

    placed = result.placed
    for one in (placed.first_candidate, placed.after_race, *placed.by_location.values()):
        check(one)
    assert sum(one.share for one in placed.by_location.values()) == pytest.approx(1.0)
    right, wrong = placed.by_location[Located.WELL.value], placed.by_location[Located.ELSEWHERE.value]
    assert right.over_best_ms.p50 < wrong.over_best_ms.p50


def test_a_dead_region_s_clients_come_back_elsewhere(result: Result) -> None:
    """All of them, none to the region that is silent, none before it can have noticed."""
    moved = result.moved
    assert moved.not_back == 0
    assert moved.sessions > 0
    assert moved.region not in moved.landed
    assert sum(moved.landed.values()) == pytest.approx(1.0)
    assert 5.0 < moved.back_seconds.p50 <= moved.back_seconds.worst


def test_clients_of_a_region_that_is_ready_again_come_back(result: Result) -> None:
    """Nearly all to which it is clearly nearer, within ten minutes mostly, not together, and none in circles."""
    returned = result.returned
    assert returned.away > 20
    assert returned.still_away <= 0.05 * returned.away
    assert 60 < returned.back_seconds.p50 < returned.back_seconds.p90 < 600
    assert returned.most_a_minute < 0.4
    assert returned.more_than_once < 0.02
    assert returned.after_ms.p50 < returned.away_ms.p50
    assert returned.resting_looks <= returned.clients / 1000
    assert returned.resting_dials <= returned.clients / 1000


def test_without_learning_clients_come_back_by_location() -> None:
    """As the registry's distances have it."""
    returned = simulate(dataclasses.replace(PLAN, strategy="geoip")).returned
    assert returned.moved > 0
    assert returned.more_than_once == 0


def test_the_registry_carries_more_while_a_region_dies(result: Result) -> None:
    """Looks for nearer nodes go on as before, and make renewals unnecessary; what moves comes on top of it."""
    steady, worst = result.steady, result.worst_second
    assert worst.renewals == steady.renewals == 0
    assert worst.locates >= steady.locates == pytest.approx(PLAN.tunnels / 3600 * (1 + looks_of_a_session(3600.0)))
    assert worst.store_transactions > steady.store_transactions
    assert worst.events > steady.events
    assert result.peer_lists.total_bytes == result.peer_lists.rounds * result.peer_lists.one_list_bytes * (
        PLAN.nodes + 1
    )


def test_a_mesh_that_is_nearly_full_still_takes_everybody() -> None:
    """At nine tenths of all sessions nobody is refused: load moves clients to regions with room."""
    result = simulate(dataclasses.replace(PLAN, fill=0.9))
    assert result.placed.refused == 0
    assert result.load.most <= dataclasses.replace(PLAN, fill=0.9).max_sessions
    assert result.load.region_fill.worst <= 1.0


def test_a_region_is_killed_by_name() -> None:
    """--kill names it, and one that is not there is said with those that are."""
    with pytest.raises(ValueError, match="no region 'xx9'; there are"):
        simulate(dataclasses.replace(PLAN, kill="xx9"))


def test_too_many_regions_are_refused() -> None:
    """Two nodes a region are the least."""
    with pytest.raises(ValueError, match="name fewer regions"):
        simulate(dataclasses.replace(PLAN, nodes=20))


def test_the_command_prints_tables_and_writes_everything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`scripts/simulate --quick --json FILE` ends within seconds, with the same figures in both."""
    target = tmp_path / "figures.json"
    monkeypatch.setattr("sys.argv", ["simulate", "--quick", "--tunnels", "2000", "--json", str(target)])
    assert main() == 0
    printed, written = capsys.readouterr().out, json.loads(target.read_text())
    assert f"When {written['moved']['region']} falls silent" in printed
    assert written["plan"]["tunnels"] == written["placed"]["sessions"] == 2000


def test_regions_are_at_the_heaviest_places_and_apart() -> None:
    """Their demand adds up to all there is."""
    regions = choose_regions(places_of(read_table()), 30)
    assert sum(region.demand for region in regions) == pytest.approx(1.0)
    assert len({region.name for region in regions}) == len({region.position for region in regions}) == 30


def test_geoip_errs_as_often_as_is_said() -> None:
    """The shares of prefixes that are misplaced, elsewhere or not located are those of assumptions.py."""
    places = places_of(read_table())
    prefixes = draw_prefixes(places, 400_000, random.Random(1))
    shares = {located: sum(one.located is located for one in prefixes) / len(prefixes) for located in Located}
    assert shares[Located.NOT] == pytest.approx(0.01, abs=0.005)
    assert shares[Located.ELSEWHERE] == pytest.approx(0.02, abs=0.005)
    assert misplaced_share("DE") < shares[Located.MISPLACED] < misplaced_share("IN") < misplaced_share("KE")
    assert all((one.guess is None) == (one.located is Located.NOT) for one in prefixes)


def test_learning_does_no_harm(result: Result) -> None:
    """With the round trips that others reported clients are about as near as by distance alone, and not farther."""
    untaught = simulate(dataclasses.replace(PLAN, strategy="geoip"))
    assert result.placed.later_half.at_best > untaught.placed.later_half.at_best - 0.05
