"""Set up a cluster from bare Debians, with the commands of the handbook, and visit it.

Each machine is a Debian of its own under systemd, in a network namespace at an emulated distance from the others. A
root of DNS, the zone above the domain, resolvers and an ACME server (pebble) are there, and nothing of the Internet.
On the first machine the Debian package is installed, and `portway-server init` and the service make the cluster; then
further ones join. A laptop opens a tunnel with nothing but PORTWAY_REGISTRY and PORTWAY_TOKEN, and visitors open its
page by URL, trusting the test's own CA alone. Every command is printed, with the seconds that it took.

Needs root. docs/field-test.md has what was measured.
"""

# Here: the steps and their order. Not here: machines, the Internet, building the package.

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from portway_lab import bare_debian
from portway_lab.cluster import delay_network
from portway_lab.cluster.processes import Processes, ProcessFailed
from portway_lab.field_test import internet
from portway_lab.field_test.cluster import FieldCluster
from portway_lab.field_test.machines import CommandFailed
from portway_lab.field_test.package import build_package
from portway_lab.field_test.switched_off import visit_while_switched_off
from portway_lab.release.errors import ReleaseFailed


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    if reason := delay_network.why_not() or internet.why_not():
        print(f"scripts/field_test: {reason}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with tempfile.TemporaryDirectory(prefix="pw-", ignore_cleanup_errors=True) as folder:
            package = options.package or build_package(Path(folder))
            bare_debian.base()
            with Processes(Path(folder)) as processes:
                cluster = FieldCluster(processes, package, options.machines)
                good = _run(processes, cluster, options.records_after, switch_off=options.switch_off)
                if options.hold:
                    input("everything runs; Enter ends it: ")
    except (ProcessFailed, CommandFailed, ReleaseFailed) as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        return 1
    return 0 if good else 1


def _run(processes: Processes, cluster: FieldCluster, records_after: float, *, switch_off: bool) -> bool:
    transcript = cluster.transcript
    with transcript.step("the network, the Internet's programs, bare machines"):
        cluster.start_network()
    names = list(cluster.machines)
    cluster.install("laptop")
    first, *others = [name for name in names if name != "laptop"]
    began = transcript.seconds
    cluster.install(first)
    variables = cluster.set_up_first(records_after)
    url = cluster.open_tunnel(variables)
    for region in cluster.visitors:
        cluster.visit(region, url)
        if region == "fra":
            one_machine = transcript.seconds - began
    transcript.say(f"from a bare machine to a page of a URL that is trusted: {one_machine:.0f} s")
    for name in others:
        cluster.install(name)
        cluster.join(name)
    if others:
        cluster.add_name_servers()
        url = cluster.open_tunnel(variables)
        for region in cluster.visitors:
            cluster.visit(region, url)
        if switch_off:
            home = url.split(".")[1]
            told = visit_while_switched_off(processes, cluster, url, f"{home}-1")
            for one in told:
                transcript.say(
                    f"visitors in {one.region}: {one.number} visits, slowest {one.slowest:.2f} s, slow ones until "
                    f"{one.slow_until:.1f} s after; failed: {one.failed_in_progress} that were in progress, "
                    f"{sum(map(len, one.failed_after.values()))} others"
                )
                for kind, times in one.failed_after.items():
                    print(f"         {len(times)} that began {times[0]:.1f} to {times[-1]:.1f} s after: {kind}")
            return not any(one.failed_after for one in told)
    return True


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/field_test", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--machines", type=int, choices=(1, 2, 3), default=3, help="machines of the cluster (3)")
    package = "a Debian package that is built already; by default it is built from this checkout"
    parser.add_argument("--package", type=Path, metavar="FILE", help=package)
    late = "let the first machine's service wait so long for the records in the zone above (0)"
    parser.add_argument("--records-after", type=float, default=0.0, metavar="SECONDS", help=late)
    off = "at the end switch the tunnel's home machine off, at 20 visits a second from three regions"
    parser.add_argument("--switch-off", action="store_true", help=off)
    parser.add_argument("--hold", action="store_true", help="keep everything running at the end, until Enter")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
