"""What a run comes to, as values: the same ones for the table and for --json.

Here: percentiles and summaries of what the other modules recorded. Not here: how they are written (report.py), the
registry's part (registry_load.py).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from portway_lab.simulation.arrivals import Sessions
from portway_lab.simulation.clients import Located, Prefix
from portway_lab.simulation.fleet import Fleet
from portway_lab.simulation.storm import Death

# The client races so many, and is told of more: both matter for a region's death.
_RACED_REGIONS_SAMPLE = 100_000


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, 90th and 99th percentile, and the worst."""

    p50: float
    p90: float
    p99: float
    worst: float


@dataclass(frozen=True, slots=True)
class Nearness:
    """How far from the best possible node: milliseconds of round trip on top of it, and times as long as it."""

    share: float  # of all clients
    over_best_ms: Spread
    ratio: Spread
    at_best: float  # share of clients at the best node, or within a millisecond of it


@dataclass(frozen=True, slots=True)
class Placed:
    """Where clients ended up; `later_half` came when others had reported what they measured.

    `one_region_raced`, `one_region_known`: shares of clients whose first three, or all candidates, are of one region.
    """

    sessions: int
    refused: int
    best_ms: Spread
    first_candidate: Nearness
    after_race: Nearness
    later_half: Nearness
    by_location: dict[str, Nearness]
    one_region_raced: float
    one_region_known: float


@dataclass(frozen=True, slots=True)
class Load:
    """Sessions by node. `within_region`: of the regions, the fullest node over the region's mean."""

    mean: float
    least: int
    most: int
    within_region: Spread
    region_fill: Spread  # share of its nodes' limit, by region


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A node that joins the busiest region: what came to it a second, against the mean of its siblings."""

    region: str
    most_a_second: int
    a_second: float
    siblings_a_second: float


@dataclass(frozen=True, slots=True)
class Moved:
    """A region's death. Seconds from its silence on until the tunnel is served again under the same URL."""

    region: str
    nodes: int
    sessions: int
    not_back: int
    back_seconds: Spread
    landed: dict[str, float]  # share by region, the most first
    before_ms: Spread
    after_ms: Spread
    dials_in_vain: int
    turned_away: int
    postponed: int
    longest_queue_seconds: float
    most_to_one_node: int


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return Spread(*(ordered[min(last, int(share * len(ordered)))] for share in (0.5, 0.9, 0.99, 1.0)))


def nearness(got: Sequence[float], best: Sequence[float], of: int) -> Nearness:
    over = [a - b for a, b in zip(got, best, strict=True)]
    ratio = [a / b for a, b in zip(got, best, strict=True)]
    return Nearness(len(over) / of, spread(over), spread(ratio), sum(one < 1.0 for one in over) / len(over))


def placed(sessions: Sessions, refused: int, prefixes: Sequence[Prefix], fleet: Fleet, raced: int) -> Placed:
    """`raced`: so many candidates are dialled at once."""
    by_location: dict[Located, list[int]] = {}
    for row, prefix in enumerate(sessions.prefix):
        by_location.setdefault(prefixes[prefix].located, []).append(row)
    total = len(sessions)
    sample = range(0, total, max(1, total // _RACED_REGIONS_SAMPLE))
    regions = [[fleet.nodes[node].region for node in sessions.candidates(row)] for row in sample]
    return Placed(
        sessions=total,
        refused=refused,
        best_ms=spread(sessions.best),
        first_candidate=nearness(sessions.first, sessions.best, total),
        after_race=nearness(sessions.got, sessions.best, total),
        later_half=nearness(sessions.got[total // 2 :], sessions.best[total // 2 :], total),
        by_location={
            located.value: nearness([sessions.got[i] for i in rows], [sessions.best[i] for i in rows], total)
            for located, rows in sorted(by_location.items(), key=lambda item: -len(item[1]))
        },
        one_region_raced=sum(len(set(one[:raced])) == 1 for one in regions) / len(regions),
        one_region_known=sum(len(set(one)) == 1 for one in regions) / len(regions),
    )


def load(fleet: Fleet) -> Load:
    counts = [node.live.sessions for node in fleet.nodes]
    uneven, fills = [], []
    for region in range(len(fleet.regions)):
        mine = [counts[number] for number in fleet.of_region(region)]
        mean = sum(mine) / len(mine)
        uneven.append(max(mine) / mean if mean else 1.0)
        fills.append(mean / fleet.nodes[0].live.max_sessions)
    return Load(sum(counts) / len(counts), min(counts), max(counts), spread(uneven), spread(fills))


def newcomer(fleet: Fleet, number: int, came: Sequence[Counter[int]]) -> Newcomer:
    region = fleet.nodes[number].region
    siblings = [one for one in fleet.of_region(region) if one != number]
    mine = [second[number] for second in came]
    theirs = sum(second[one] for second in came for one in siblings)
    return Newcomer(
        fleet.regions[region].name, max(mine), sum(mine) / len(came), theirs / len(came) / max(1, len(siblings))
    )


def moved(death: Death, fleet: Fleet) -> Moved:
    """Raises ValueError when nobody came back."""
    if not death.back:
        raise ValueError(f"nobody came back from region {fleet.regions[death.region].name}: name more nodes or regions")
    return Moved(
        region=fleet.regions[death.region].name,
        nodes=len(fleet.of_region(death.region)),
        sessions=death.moved,
        not_back=death.moved - len(death.back),
        back_seconds=spread(death.back),
        landed={fleet.regions[region].name: n / len(death.back) for region, n in death.landed.most_common()},
        before_ms=spread(death.before_ms),
        after_ms=spread(death.after_ms),
        dials_in_vain=death.dials_in_vain,
        turned_away=death.turned_away,
        postponed=death.postponed,
        longest_queue_seconds=death.longest_queue,
        most_to_one_node=max(death.busiest.values()),
    )
