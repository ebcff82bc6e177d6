"""Restart the nodes of a mesh one by one, from the release of an older commit to this one, under load.

The older release is by default the first sound commit of what machines say to each other today: nodes and clients of
earlier ones are refused. It runs from a worktree of its git ref, with the packages of this environment. Visitors send
200 requests per second, on new and on kept connections, to the nodes that are ready by their own /readyz, as behind a
load balancer. The exit code is 0 when no new connection failed and no request in progress was cut.
"""

# Here: the releases, the order of restarts, the output. Not here: the load (load.py).

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from portway_lab.checkout import ROOT
from portway_lab.cluster.clients import start_client, wait_tunnels
from portway_lab.cluster.portway import NodePlan, RegistryPlan, start_cluster
from portway_lab.cluster.processes import Processes, ProcessFailed, Restartable
from portway_lab.rolling_upgrade.load import Load

# The wire (proto/WIRE.md) changed last in 4e41f3cf9ee3, by version 2 of the lane protocol; a change that this release
# cannot upgrade from moves this on. This is the merge after it, the same but for one repair: a node of 4e41f3cf9ee3 may
# ask for a statement in the moment when its check is done, and loops for ever then, deaf to SIGTERM as to all else.
OLDER_RELEASE = "94abdb96b56f0493a7c2730114aad4f2f7aad092"
# The whole load comes from one address.
_NO_LIMITS = ("--connections-per-second", "10000", "--connection-burst", "10000")
_ENDS_WITHIN = 45.0  # seconds: a node's grace (10 s), and time to spare


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with (
            tempfile.TemporaryDirectory(prefix="pw-") as folder,
            _release(options.ref, Path(folder)) as old,
            Processes(Path(folder)) as processes,
        ):
            load = _upgrade(processes, old, options.settle)
    except (ProcessFailed, subprocess.CalledProcessError) as failure:
        print(f"the upgrade could not be run: {failure}", file=sys.stderr)
        return 2
    print(load.summary())
    for line in load.failures:
        print(f"WRONG: {line}")
    return 1 if load.failures or not load.enough() else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/rolling_upgrade", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--from",
        dest="ref",
        default=OLDER_RELEASE,
        metavar="REF",
        help=f"the older release, as a git ref ({OLDER_RELEASE[:12]}, the first sound one of this wire)",
    )
    parser.add_argument(
        "--settle",
        type=float,
        default=3.0,
        metavar="SECONDS",
        help="of load before, between and after the restarts (3)",
    )
    return parser.parse_args(arguments)


@contextmanager
def _release(ref: str, folder: Path) -> Iterator[str]:
    """The PYTHONPATH of a commit's release, in a worktree that is removed afterwards."""
    tree = folder / "release"
    git = ["git", "-C", str(ROOT)]
    subprocess.run([*git, "worktree", "add", "--quiet", "--detach", str(tree), ref], check=True)
    try:
        yield os.pathsep.join(map(str, sorted(tree.glob("*/src"))))
    finally:
        subprocess.run([*git, "worktree", "remove", "--force", str(tree)], check=False)


def _upgrade(processes: Processes, old: str, settle: float) -> Load:
    prefix = ("env", f"PYTHONPATH={old}")
    plans = tuple(
        NodePlan(f"fra-{number}", "fra", 50.1, 8.7, host=f"127.0.0.{number}", prefix=prefix, flags=_NO_LIMITS)
        for number in (1, 2, 3)
    )
    cluster = start_cluster(processes, plans, RegistryPlan(prefix=prefix))
    # Clients are upgraded last or never: this one stays on the older release.
    client = start_client(processes, "client", ["one", "two"], cluster.exports, prefix)
    tunnels = tuple(wait_tunnels(processes, client).values())
    parts = [
        Restartable(processes, process)
        for process in (cluster.registry_process, *(node.process for node in cluster.nodes))
    ]
    ready = {node.listen: processes.wait_ready(node.process)["admin_listen"] for node in cluster.nodes}
    with Load(cluster.ca, tunnels, ready) as load:
        time.sleep(settle)
        for part in parts:
            began = time.monotonic()
            part.ask_to_end()
            if not part.wait_end(_ENDS_WITHIN):
                raise part.process.failure(f"did not end within {_ENDS_WITHIN:.0f} s of SIGTERM")
            part.drop_prefix(len(prefix))
            part.start()
            print(f"{part.process.name} runs this release after {time.monotonic() - began:.1f} s", flush=True)
            time.sleep(settle)
    return load


if __name__ == "__main__":
    sys.exit(main())
