"""What scripts/chaos will do: the same for the same seed, and never more than can be taken back."""

import itertools

import pytest
from portway_lab.chaos.plan import ETCD, GUESTS, HOSTILE, NODES, REGISTRIES, Fault, Kind, counts, make_plan

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
    cuts = {(fault.kind, fault.part) for fault in faults if fault.other}
    of_nodes = {(fault.kind, fault.part) for fault in faults if fault.part in NODES and not fault.other}
    harm = set(itertools.product((Kind.KILL, Kind.RESTART, Kind.PAUSE, Kind.DRAIN), NODES))
    assert of_nodes == {*harm, (Kind.LIE, HOSTILE)}
    assert all(bool(fault.other) == (fault.kind in (Kind.PARTITION, Kind.DEAF)) for fault in faults)
    assert all(fault.part != fault.other for fault in faults)
    of_others = {(fault.kind, fault.part) for fault in faults if fault.part in (*REGISTRIES, ETCD)} - cuts
    assert of_others == set(itertools.product((Kind.KILL, Kind.PAUSE), (*REGISTRIES, ETCD)))
    of_guests = {(fault.kind, fault.part) for fault in faults if fault.part in GUESTS} - cuts
    assert of_guests == set(itertools.product((Kind.OPEN, Kind.VANISH), GUESTS))


def test_no_more_is_broken_at_a_time_than_leaves_something_to_serve() -> None:
    """Four faults at once; guests, who break nothing, come besides, and lies, which must break nothing elsewhere."""
    for seed in SEEDS:
        plan = [fault for fault in make_plan(seed, SECONDS) if fault.kind not in (Kind.OPEN, Kind.VANISH, Kind.LIE)]
        for fault in plan:
            assert sum(other.at <= fault.at <= other.until for other in plan) <= 4


def test_what_is_done_is_counted_by_kind_and_target() -> None:
    """Each fault once; a cut has no sort of part."""
    plan = [
        Fault(0, 1, Kind.KILL, "fra-2"),
        Fault(0, 1, Kind.KILL, "iad"),
        Fault(0, 1, Kind.KILL, "registry-2"),
        Fault(0, 1, Kind.VANISH, "guest"),
        Fault(0, 1, Kind.DEAF, "fra", "client"),
    ]
    assert counts(plan) == {"deaf": 1, "kill node": 2, "kill registry": 1, "vanish guest": 1}


def test_the_short_run_has_every_kind() -> None:
    """The one of tests/faults: nodes, a registry and etcd are hit, a node lies for a while, and guests are there for
    long enough to open."""
    plan = make_plan(74893, 18.0)
    assert {fault.kind for fault in plan} == set(Kind)
    assert {"kill node", "kill registry", "kill etcd", "lie node"} <= counts(plan).keys()
    assert all(fault.until - fault.at > 3 for fault in plan if fault.kind is Kind.LIE)
    assert all(fault.until - fault.at > 4 for fault in plan if fault.part in GUESTS and not fault.other)
