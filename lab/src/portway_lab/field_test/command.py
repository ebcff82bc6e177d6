"""Set up a cluster from bare Debians, with the commands of the handbook, visit it, and do to it what happens to some.

Each machine is a Debian of its own under systemd, in a network namespace at an emulated distance from the others. A
root of DNS, the zone above the domain, resolvers and an ACME server (pebble) are there, and nothing of the Internet.
On the first machine the Debian package is installed, and `portway-server init` and the service make the cluster; then
further ones join. A laptop opens a tunnel with nothing but PORTWAY_REGISTRY and PORTWAY_TOKEN, and visitors open its
page by URL, trusting the test's own CA alone. Every command is printed, with the seconds that it took.

With six machines there are three members of etcd and two registries, and Chromium uses a notebook. Then three regions
visit 20 times a second while machines and a region are switched off, a registry's machine is replaced, certificates are
renewed and everything is upgraded. The exit code is 1 when a visit fails that no dead machine was in the middle of.

Needs root. docs/field-test.md has what was measured.
"""

# Here: the steps and their order. Not here: machines, the Internet, building the package.

import argparse
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from portway_runtime.version import VERSION

from portway_lab import bare_debian
from portway_lab.cluster import delay_network
from portway_lab.cluster.processes import Processes, ProcessFailed
from portway_lab.field_test import internet
from portway_lab.field_test.browser import chromium, use_notebook
from portway_lab.field_test.cluster import FieldCluster
from portway_lab.field_test.geography import LAPTOP, ONE_EACH, TWO_EACH, Map
from portway_lab.field_test.laptop import SHOWN, TEXT, Laptop
from portway_lab.field_test.load import Load, Outcome, Trial
from portway_lab.field_test.machines import CommandFailed
from portway_lab.field_test.package import build_package
from portway_lab.field_test.trials import TRIALS, Stage
from portway_lab.field_test.visitors import VisitFailed
from portway_lab.release.errors import ReleaseFailed

_ALL: Final = 6
_NEWER: Final = f"{VERSION}.1"
_FAR: Final = "nrt"  # where Chromium is


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    if reason := delay_network.why_not() or internet.why_not():
        print(f"scripts/field_test: {reason}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    where = TWO_EACH if options.machines == _ALL else replace(ONE_EACH, machines=ONE_EACH.machines[: options.machines])
    try:
        with tempfile.TemporaryDirectory(prefix="pw-", ignore_cleanup_errors=True) as folder:
            package = options.package or build_package(Path(folder))
            newer = build_package(Path(folder), _NEWER) if "upgrade" in options.trial else package
            bare_debian.base()
            with Processes(Path(folder)) as processes:
                cluster = FieldCluster(processes, package, where, SHOWN if options.machines == _ALL else {})
                try:
                    laptop = _set_up(processes, cluster, options.records_after)
                    if options.machines == _ALL:
                        _use_notebook(cluster, laptop, Path(folder))
                    good = not options.trial or _try(processes, cluster, laptop, options.trial, (newer, _NEWER))
                finally:
                    if options.logs is not None:
                        cluster.save_logs(options.logs)
                if options.hold:
                    input("everything runs; Enter ends it: ")
    except (ProcessFailed, CommandFailed, ReleaseFailed, VisitFailed) as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        return 1
    return 0 if good else 1


def _set_up(processes: Processes, cluster: FieldCluster, records_after: float) -> Laptop:
    """Bare machines become a cluster, and a page is opened through it: with the first machine, and with all."""
    transcript = cluster.transcript
    with transcript.step("the network, the Internet's programs, bare machines"):
        cluster.start_network()
    first, *others = cluster.map.machines
    cluster.install(LAPTOP.name)
    began = transcript.seconds
    cluster.install(first.name)
    laptop = Laptop(processes, cluster, cluster.set_up_first(records_after))
    url = laptop.open_tunnel()
    laptop.visit(first.region, url)
    transcript.say(f"from a bare machine to a page of a URL that is trusted: {transcript.seconds - began:.0f} s")
    for place in others:
        cluster.install(place.name)
        cluster.join(place.name, registry=place.name in cluster.map.registries)
    if others:
        cluster.add_name_servers()
        url = laptop.open_tunnel()
    for region in cluster.visitors:
        laptop.visit(region, url)
    commands = {name: number for name, number in transcript.commands.items() if name != LAPTOP.name}
    each = ", ".join(f"{number} on {name}" for name, number in commands.items())
    transcript.say(f"commands: {sum(commands.values())} ({each}), of which {len(commands)} install the package")
    return laptop


def _use_notebook(cluster: FieldCluster, laptop: Laptop, folder: Path) -> None:
    """JupyterLab on the laptop, in a browser of another region."""
    url = laptop.open_notebook()
    with chromium(cluster.visitors[_FAR], folder) as browser:
        address, seconds = use_notebook(browser, url)
    cluster.transcript.say(
        f"Chromium in {_FAR} opened {url.partition('?')[0]} through {cluster.map.at(address)}: a cell's output was "
        f"there after {seconds:.1f} s"
    )
    laptop.close("notebook")


def _try(
    processes: Processes, cluster: FieldCluster, laptop: Laptop, trials: Sequence[str], newer: tuple[Path, str]
) -> bool:
    """Do the trials under visits from everywhere; whether none failed that should not have."""
    load, url = Load(processes), laptop.open_tunnel()
    load.start(cluster.visitors.items(), url, TEXT, cluster.internet.roots)
    good = True
    try:
        for name in trials:
            TRIALS[name](Stage(cluster, laptop, url, load, newer))
    finally:
        for trial, outcomes in load.end():
            _print(cluster.map, trial, outcomes)
            good = good and not any(outcome.failed for outcome in outcomes)
    return good


def _print(where: Map, trial: Trial, outcomes: Sequence[Outcome]) -> None:
    print(f"{trial.name} ({trial.ended - trial.began:.0f} s)")
    for one in outcomes:
        entered: Counter[str] = Counter()
        for address, number in one.through.items():
            entered[where.at(address)] += number
        through = ", ".join(f"{name} {number}" for name, number in entered.most_common())
        print(
            f"  {one.region}: {one.number} visits, of which {one.lost} were lost with a machine and "
            f"{sum(map(len, one.failed.values()))} failed; slowest {one.slowest:.2f} s, begun after "
            f"{one.slowest_began:.1f} s; {one.certificates} certificates; through {through}"
        )
        for kind, times in one.failed.items():
            print(f"      {len(times)} begun {times[0]:.1f} to {times[-1]:.1f} s after the beginning: {kind}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/field_test", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    number = "machines of the cluster (6); with fewer the store is the embedded one"
    parser.add_argument("--machines", type=int, choices=(1, 2, 3, _ALL), default=_ALL, help=number)
    package = "a Debian package that is built already; by default it is built from this checkout"
    parser.add_argument("--package", type=Path, metavar="FILE", help=package)
    late = "let the first machine's service wait so long for the records in the zone above (0)"
    parser.add_argument("--records-after", type=float, default=0.0, metavar="SECONDS", help=late)
    what = f"only this of {', '.join(TRIALS)}, or none; may be repeated (all with {_ALL} machines, none with fewer)"
    parser.add_argument("--trial", action="append", choices=[*TRIALS, "none"], metavar="NAME", help=what)
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="write the services' logs there at the end")
    parser.add_argument("--hold", action="store_true", help="keep everything running at the end, until Enter")
    options = parser.parse_args(arguments)
    if options.trial is None:
        options.trial = list(TRIALS) if options.machines == _ALL else []
    options.trial = [name for name in options.trial if name != "none"]
    if options.machines != _ALL and "registry" in options.trial:
        parser.error(f"--trial registry needs {_ALL} machines: there is one registry with fewer")
    return options


if __name__ == "__main__":
    sys.exit(main())
