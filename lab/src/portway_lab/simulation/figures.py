"""The results of a run as values, for the tables and for --json alike.

Here: percentiles and sums of what was recorded. Not here: the tables (report.py), the registry's load
(registry_load.py).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from portway_lab.simulation.arrivals import Sessions
from portway_lab.simulation.clients import Located, Prefix
from portway_lab.simulation.fleet import Fleet
from portway_lab.simulation.homecoming import LASTS, READY_AFTER, Homecoming
from portway_lab.simulation.storm import Death

_RACED_REGIONS_SAMPLE = 100_000  # sessions whose candidates' regions are looked at


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, 90th and 99th percentile, and the maximum."""

    p50: float
    p90: float
    p99: float
    worst: float


@dataclass(frozen=True, slots=True)
class Nearness:
    """Round trips compared with those to the best possible node: milliseconds above, and the ratio."""

    share: float  # of all clients
    over_best_ms: Spread
    ratio: Spread
    at_best: float  # share of clients within a millisecond of the best node


@dataclass(frozen=True, slots=True)
class Placed:
    """Where clients attached; `later_half` are those that came when others had reported their measurements.

    `one_region_raced`, `one_region_known`: the shares of clients for whom the raced candidates, or all candidates, are
    in one region, whose death would take them all.
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
    """Sessions by node. `within_region`: for each region, its fullest node's sessions over the region's mean."""

    mean: float
    least: int
    most: int
    within_region: Spread
    region_fill: Spread  # for each region, its mean over the limit of a node


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A node that joins the busiest region: arrivals per second there, and the mean of its siblings."""

    region: str
    most_a_second: int
    a_second: float
    siblings_a_second: float


@dataclass(frozen=True, slots=True)
class Moved:
    """A region's death. `back_seconds` are from its silence until a tunnel is served again under the same URL."""

    region: str
    nodes: int
    sessions: int
    not_back: int
    back_seconds: Spread
    landed: dict[str, float]  # share by region, largest first
    before_ms: Spread
    after_ms: Spread
    dials_in_vain: int
    turned_away: int
    postponed: int
    longest_queue_seconds: float
    most_to_one_node: int


@dataclass(frozen=True, slots=True)
class Returned:
    """The way back of a sample of its clients, once it is ready again. Seconds are counted from then on.

    away: those to which it is clearly nearer than where they fled to; round trips and times are theirs. most_a_minute:
    the largest share of them that went back within one minute. looks, dials: of all, per second, the most and the mean
    of the last quarter of an hour.
    """

    clients: int
    away: int
    still_away: int
    back_seconds: Spread
    most_a_minute: float
    moved: float  # share of all clients, by whatever was nearer
    more_than_once: float  # the same
    before_ms: Spread
    away_ms: Spread
    after_ms: Spread
    most_looks: int
    resting_looks: float
    most_dials: int
    resting_dials: float
    postponed: int


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
    """`raced` is the number of candidates that a client dials at the same time."""
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
    """Raises ValueError when no client came back."""
    if not death.back:
        raise ValueError(
            f"no client of region {fleet.regions[death.region].name} came back: name more nodes or regions"
        )
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


_REST = 900  # seconds


def returned(home: Homecoming) -> Returned:
    """Raises ValueError when no client went back."""
    if not home.back:
        raise ValueError("no client went back: name more nodes or regions")
    back = sorted(home.back)
    most, start = 0, 0
    for end, at in enumerate(back):
        while at - back[start] >= 60:
            start += 1
        most = max(most, end - start + 1)
    return Returned(
        clients=home.clients,
        away=home.away,
        still_away=home.away - len(back),
        back_seconds=spread([at - READY_AFTER for at in back]),
        most_a_minute=most / home.away,
        moved=home.moved / home.clients,
        more_than_once=home.more_than_once / home.clients,
        before_ms=spread(home.before_ms),
        away_ms=spread(home.away_ms),
        after_ms=spread(home.after_ms),
        most_looks=max(home.looks.values()),
        resting_looks=_resting(home.looks),
        most_dials=max(home.dials.values()),
        resting_dials=_resting(home.dials),
        postponed=home.postponed,
    )


def _resting(counts: Counter[int]) -> float:
    return sum(count for second, count in counts.items() if second >= LASTS - _REST) / _REST
