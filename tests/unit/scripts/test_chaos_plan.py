"""What scripts/chaos will do: the same for the same seed, and never more than can be taken back."""

import itertools

import pytest
from chaos_run.plan import NODES, Fault, Kind, make_plan

SEEDS = range(200)
SECONDS = 120.0


def overlap(one: Fault, other: Fault) -> bool:
    return one.at <= other.until and other.at <= one.until


def test_a_plan_follows_from_its_seed() -> None:
    """Two runs with one seed are the same; another seed or length gives another plan."""
    assert make_plan(7, SECONDS) == make_plan(7, SECONDS)
    assert make_plan(7, SECONDS) != make_plan(8, SECONDS)
    assert make_plan(7, SECONDS) != make_plan(7, SECONDS / 2)


@pytest.mark.parametrize("seconds", [5.0, SECONDS])
def test_every_fault_is_taken_back_by_the_end(seconds: float) -> None:
    """None begins before the beginning or ends after the end."""
    for seed in SEEDS:
        assert all(0 <= fault.at < fault.until <= seconds for fault in make_plan(seed, seconds))


def test_no_part_is_hit_twice_at_a_time() -> None:
    """Taking one fault back never undoes another one that goes on."""
    for seed in SEEDS:
        for one, other in itertools.combinations(make_plan(seed, SECONDS), 2):
            if overlap(one, other) and bool(one.other) == bool(other.other):
                assert {one.part, one.other} != {other.part, other.other}


def test_everything_happens() -> None:
    """Over many seeds every kind comes, and every node gets every kind of its own."""
    faults = [fault for seed in SEEDS for fault in make_plan(seed, SECONDS)]
    assert {fault.kind for fault in faults} == set(Kind)
    of_nodes = {(fault.kind, fault.part) for fault in faults if fault.part in NODES and not fault.other}
    assert of_nodes == set(itertools.product((Kind.KILL, Kind.RESTART, Kind.PAUSE, Kind.DRAIN), NODES))
    assert all(bool(fault.other) == (fault.kind in (Kind.PARTITION, Kind.DEAF)) for fault in faults)
    assert all(fault.part != fault.other for fault in faults)
