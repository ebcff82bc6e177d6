"""Restart every node of a mesh over emulated distance, one after the other, and watch its clients come back.

Each region has a node, clients, and visitors that never stop. A node's clients flee to another region when it is
restarted, and must go back to it by themselves, before the time is over and without a failed or cut visit. Printed are
the visitors' times while the clients are at their nearest nodes and while they are away, and when the last one was
back. The exit code is 0 when all of them are, and no visit failed. Needs root (network namespaces).
"""

# Here: the map, the restarts, the output. Not here: the visitors (visitors.py).

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from portway_lab.cluster.clients import NamedTunnel, start_client, wait_tunnels
from portway_lab.cluster.delay_network import why_not
from portway_lab.cluster.network import Place, start_network
from portway_lab.cluster.portway import Cluster, RegistryPlan, start_cluster
from portway_lab.cluster.processes import Processes, ProcessFailed, Restartable
from portway_lab.cluster.regions import DISTANCES, node_plan
from portway_lab.rolling_restart.visitors import Visitors

REGIONS = ("fra", "iad", "nrt")
# Hundredths of the default times: minutes become seconds.
QUICK_TIMES = "look=1,rest=8,ready=1,spread=4,pause=10"
_WITHIN = 60.0  # seconds with these times
_WITHIN_MINUTES = 600.0  # with others: the default ones took 334
_REGISTRY = Place("registry", "fra")
_TUNNELS_EACH = 2
_SETTLE = 2.0  # seconds of visits before and after
_BETWEEN = 1.0  # seconds between two restarts
_POLL = 0.25
_ENDS_WITHIN = 45.0  # seconds: a node's grace, and time to spare
_SHOWN = 10  # failures that are printed
_FLAGS = ("--stop-grace", "20", "--connections-per-second", "10000", "--connection-burst", "10000")
_CANNOT_RUN = 2


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    if reason := why_not():
        print(f"scripts/rolling_restart cannot run here: {reason}", file=sys.stderr)
        return _CANNOT_RUN
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with tempfile.TemporaryDirectory(prefix="pw-") as folder, Processes(Path(folder)) as processes:
            wrong = _run(processes, options.clients, options.returns, options.within)
    except ProcessFailed as failure:
        print(f"a part did not start: {failure}", file=sys.stderr)
        return _CANNOT_RUN
    for line in wrong:
        print(f"WRONG: {line}")
    return 1 if wrong else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/rolling_restart", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=3, help="in each region (3), with two tunnels each")
    parser.add_argument(
        "--returns",
        default=QUICK_TIMES,
        metavar="TIMES",
        help=f"the clients' PORTWAY_RETURNS; '' is their default, of minutes ({QUICK_TIMES})",
    )
    parser.add_argument(
        "--within",
        type=float,
        metavar="SECONDS",
        help=f"from the last restart to the last return ({_WITHIN:g}; {_WITHIN_MINUTES:g} with other --returns)",
    )
    options = parser.parse_args(arguments)
    if options.within is None:
        options.within = _WITHIN if options.returns == QUICK_TIMES else _WITHIN_MINUTES
    return options


def _run(processes: Processes, clients: int, returns: str, within: float) -> list[str]:
    """Everything that is wrong at the end."""
    numbers = range(1, clients + 1)
    places = (
        *(Place(region, region) for region in REGIONS),
        _REGISTRY,
        *(Place(f"client-{region}-{number}", region, access=2.0) for region in REGIONS for number in numbers),
        *(Place(f"visitor-{region}", region, access=2.0) for region in REGIONS),
    )
    network = start_network(processes, places, DISTANCES)
    plans = tuple(node_plan(network, region, region, *_FLAGS) for region in REGIONS)
    prefix = network.prefix(_REGISTRY.name)
    cluster = start_cluster(processes, plans, RegistryPlan(host=network.address(_REGISTRY.name), prefix=prefix))
    nodes = {node.plan.region: Restartable(processes, node.process) for node in cluster.nodes}
    regions = {node.plan.name: node.plan.region for node in cluster.nodes}
    exports = cluster.exports | {"PORTWAY_RETURNS": returns}
    started = {
        (region, number): start_client(
            processes,
            f"client-{region}-{number}",
            [f"{region}-{number}-{tunnel}" for tunnel in range(_TUNNELS_EACH)],
            exports,
            network.prefix(f"client-{region}-{number}"),
        )
        for region in REGIONS
        for number in numbers
    }
    tunnels: dict[str, list[NamedTunnel]] = {region: [] for region in REGIONS}
    for (region, _), client in started.items():
        tunnels[region] += wait_tunnels(processes, client).values()
    nearest = {tunnel.label: region for region, opened in tunnels.items() for tunnel in opened}
    listens = {node.plan.region: node.listen for node in cluster.nodes}
    visitors = Visitors(network, cluster.ca, tunnels, listens, {region: f"visitor-{region}" for region in REGIONS})
    wrong = []
    visitors.homes, visitors.phase = _homes(cluster, prefix, regions), "before"
    with visitors:
        time.sleep(_SETTLE)
        visitors.phase = "restarts"
        for region, node in nodes.items():
            visitors.homes = {}  # unknown
            _restart(region, node, visitors)
            visitors.homes = _homes(cluster, prefix, regions)
        away = sum(visitors.homes.get(label) != region for label, region in nearest.items())
        print(f"all restarted; {away} of {len(nearest)} tunnels are away from their nearest node", flush=True)
        began = time.monotonic()
        visitors.phase = "returns"
        while away := sum(visitors.homes.get(label) != region for label, region in nearest.items()):
            if time.monotonic() - began > within:
                wrong.append(f"{away} tunnels are still away after {within:.0f} s")
                break
            time.sleep(_POLL)
            visitors.homes = _homes(cluster, prefix, regions)
        print(f"all home after {time.monotonic() - began:.0f} s" if not away else "not all came home", flush=True)
        time.sleep(_SETTLE)
    _print(visitors)
    failures = [failure for phase in visitors.failures.values() for failure in phase]
    if failures:
        wrong.append(f"{len(failures)} visits failed: {'; '.join(failures[:_SHOWN])}")
    return wrong


def _restart(region: str, node: Restartable, visitors: Visitors) -> None:
    """In order, as an upgrade does it. Raises ProcessFailed."""
    began = time.monotonic()
    visitors.down.add(region)
    node.ask_to_end()
    if not node.wait_end(_ENDS_WITHIN):
        raise node.process.failure(f"did not end within {_ENDS_WITHIN:.0f} s of SIGTERM")
    node.start()
    visitors.down.discard(region)
    print(f"{node.process.name} is ready again after {time.monotonic() - began:.1f} s", flush=True)
    time.sleep(_BETWEEN)


def _homes(cluster: Cluster, prefix: tuple[str, ...], regions: Mapping[str, str]) -> dict[str, str]:
    """The region of each tunnel's home node, by label, as the registry shows them."""
    shown = cluster.ask("tunnel", "list", prefix=prefix)["tunnels"]
    return {tunnel["label"]: regions[tunnel["node"]] for tunnel in shown}


def _print(visitors: Visitors) -> None:
    for region in REGIONS:
        home = visitors.median_ms(region, at_nearest=True)
        away = visitors.median_ms(region, at_nearest=False)
        times = ", ".join(
            f"{what} {ms:.0f} ms" for what, ms in (("at its nearest node", home), ("away", away)) if ms is not None
        )
        print(f"a visitor in {region} of a tunnel of {region}: {times}")
    for phase, made in visitors.made.items():
        print(f"{phase}: {len(visitors.failures[phase])} of {made} visits failed")


if __name__ == "__main__":
    sys.exit(main())
