"""Simulate a large mesh on the map of the GeoIP table: thousands of nodes, a million tunnels, the death of a region.

Prints how near to the best node clients attach, how evenly nodes are loaded, how soon the tunnels of the region with
most sessions (or of --kill) are served again after its death, how its clients come back to it, and the load of the
registry. docs/simulation.md explains the model and the results.
"""

# Here: the order of a run.

import argparse
import dataclasses
import gc
import json
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from portway.engine.race_rule import RACERS
from portway_geo.table import read_table
from portway_relay.config import NodeLimits

from portway_lab.simulation import figures, report
from portway_lab.simulation.arrivals import Arrivals
from portway_lab.simulation.assumptions import FILL_SECONDS, TUNNEL_LIFE_SECONDS
from portway_lab.simulation.clients import draw_prefixes
from portway_lab.simulation.figures import Load, Moved, Newcomer, Placed, Returned
from portway_lab.simulation.fleet import Fleet
from portway_lab.simulation.geography import choose_regions, places_of
from portway_lab.simulation.homecoming import come_back
from portway_lab.simulation.learning import Learning, NoLearning
from portway_lab.simulation.paths import Paths
from portway_lab.simulation.region_death import kill_region
from portway_lab.simulation.registry_costs import Costs, measure_costs
from portway_lab.simulation.registry_load import (
    PeerLists,
    RegistryLoad,
    peer_lists,
    registry_load,
    steady_rates,
    worst_second,
)

_CHURN_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Plan:
    """What is simulated; `strategy` is that of the clients.

    `fill`: the share of all nodes' session limits that the tunnels use; None for the default limit of a node.
    """

    nodes: int
    regions: int
    tunnels: int
    replicas: int
    seed: int
    fill: float | None
    kill: str | None
    strategy: str

    @property
    def max_sessions(self) -> int:
        if self.fill is None:
            return NodeLimits().max_sessions
        return math.ceil(self.tunnels / self.nodes / self.fill)


QUICK = Plan(nodes=200, regions=20, tunnels=20_000, replicas=3, seed=1, fill=None, kill=None, strategy="latency")
FULL = Plan(nodes=2_000, regions=40, tunnels=1_000_000, replicas=3, seed=1, fill=None, kill=None, strategy="latency")


@dataclass(frozen=True, slots=True)
class Result:
    """What --json writes."""

    plan: Plan
    placed: Placed
    load: Load
    newcomer: Newcomer
    moved: Moved
    returned: Returned
    costs: Costs
    steady: RegistryLoad
    worst_second: RegistryLoad
    peer_lists: PeerLists


def simulate(plan: Plan) -> Result:
    """One run. The same plan gives the same result, except the bytes of measured costs, which contain random ids.

    Raises ValueError when the plan is not possible.
    """
    rng = random.Random(plan.seed)
    random.seed(plan.seed)  # the client's pauses use the global generator
    places = places_of(read_table())
    regions = choose_regions(places, plan.regions)
    prefixes = draw_prefixes(places, plan.tunnels, rng)
    paths = Paths(prefixes, regions, plan.seed)
    fleet = Fleet(regions, plan.nodes, max_sessions=plan.max_sessions, rng=rng)
    learning = (Learning if plan.strategy == "latency" else NoLearning)(fleet, plan.replicas, rng)
    arrivals = Arrivals(fleet, prefixes, paths, learning, rng)
    arrivals.fill(plan.tunnels, FILL_SECONDS)
    placed = figures.placed(arrivals.sessions, arrivals.refused, prefixes, fleet, RACERS)
    load = figures.load(fleet)

    per_second = plan.tunnels / TUNNEL_LIFE_SECONDS
    written, kept_alive = fleet.writes, fleet.keep_alives
    arrivals.churn(per_second, _CHURN_SECONDS)
    notable = (fleet.writes - written) / (fleet.keep_alives - kept_alive)
    busiest = _region_to_kill(plan.kill, fleet, arrivals.sessions.node)
    joined = fleet.add(busiest)
    newcomer = figures.newcomer(fleet, joined, arrivals.churn(per_second, _CHURN_SECONDS))

    infos = [node.live for node in fleet.nodes]
    by_demand = sorted(range(len(regions)), key=lambda region: -regions[region].demand)
    death = kill_region(busiest, fleet, arrivals.sessions, prefixes, paths, rng, replicas=by_demand[: plan.replicas])
    returned = come_back(
        busiest,
        fleet,
        arrivals.sessions,
        death.homes,
        prefixes,
        paths,
        learning,
        rng,
        by_location=plan.strategy != "latency",
    )
    costs = measure_costs((infos[0], infos[1]))
    steady = steady_rates(plan.tunnels, plan.nodes, notable)
    return Result(
        plan,
        placed,
        load,
        newcomer,
        figures.moved(death, fleet),
        figures.returned(returned),
        costs,
        registry_load(steady, costs, infos[0]),
        registry_load(worst_second(death, steady), costs, infos[0]),
        peer_lists(death, infos),
    )


def main() -> int:
    plan, target = _parse(sys.argv[1:])
    gc.disable()  # a collection among millions of objects takes a sixth of a run and finds no cycle
    began = time.monotonic()
    try:
        result = simulate(plan)
    except ValueError as error:
        print(f"scripts/simulate: {error}", file=sys.stderr)
        return 2
    print(
        f"{plan.nodes:,} nodes in {plan.regions} regions, {plan.tunnels:,} tunnels, "
        f"at most {plan.max_sessions:,} sessions a node, strategy {plan.strategy}, seed {plan.seed}\n"
    )
    parts = (
        report.placement_table(result.placed),
        report.load_table(result.load, result.newcomer),
        report.death_table(result.moved),
        report.return_table(result.returned, result.moved.region),
        report.registry_table(result.steady, result.worst_second, result.peer_lists, plan.replicas),
    )
    print("\n\n".join(parts))
    print(f"\n{time.monotonic() - began:.0f} s")
    if target is not None:
        target.write_text(json.dumps(dataclasses.asdict(result), indent=2) + "\n")
    return 0


def _parse(arguments: Sequence[str]) -> tuple[Plan, Path | None]:
    parser = argparse.ArgumentParser(
        prog="scripts/simulate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, help=f"default {FULL.nodes}")
    parser.add_argument("--regions", type=int, help=f"default {FULL.regions}")
    parser.add_argument("--tunnels", type=int, help=f"one for each session; default {FULL.tunnels}")
    parser.add_argument("--replicas", type=int, help=f"of the registry; default {FULL.replicas}")
    parser.add_argument("--seed", type=int, help=f"default {FULL.seed}")
    parser.add_argument(
        "--fill", type=float, metavar="SHARE", help="of the nodes' session limits that is used: 0.8 for a full mesh"
    )
    parser.add_argument("--kill", metavar="REGION", help="the region that dies; by default that with most sessions")
    parser.add_argument(
        "--strategy",
        choices=("latency", "geoip"),
        help="of the clients: latency learns from races, geoip does not; default latency",
    )
    parser.add_argument("--quick", action="store_true", help="a small mesh, which takes seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results there")
    given = parser.parse_args(arguments)
    for name in ("nodes", "regions", "tunnels", "replicas"):
        if getattr(given, name) is not None and getattr(given, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if given.fill is not None and not 0 < given.fill <= 1:
        parser.error("--fill is a share: above 0, at most 1")
    plan = QUICK if given.quick else FULL
    asked = {one.name: getattr(given, one.name) for one in dataclasses.fields(Plan)}
    return dataclasses.replace(plan, **{name: value for name, value in asked.items() if value is not None}), given.json


def _region_to_kill(name: str | None, fleet: Fleet, at: Sequence[int]) -> int:
    if name is None:
        return Counter(fleet.nodes[node].region for node in at).most_common(1)[0][0]
    for number, region in enumerate(fleet.regions):
        if region.name == name:
            return number
    raise ValueError(f"no region {name!r}; there are {', '.join(region.name for region in fleet.regions)}")


if __name__ == "__main__":
    sys.exit(main())
