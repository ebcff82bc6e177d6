"""A program is stopped (SIGSTOP), as by a closed laptop, and goes on later (SIGCONT)."""

import json
import os
import signal
from collections.abc import Callable

import portway
import pytest
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.processes.running_program import RunningProgram
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import epoch_of, is_consistent, serves
from portway_testkit.waiting import eventually

Run = Callable[[str], RunningProgram]

_PROGRAM = """
import json, signal
from dataclasses import astuple
import portway
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
with portway.forward({port}) as tunnel:
    print(json.dumps(astuple(tunnel)), flush=True)
    signal.sigwait([signal.SIGTERM])
"""


@pytest.mark.slow
def test_it_is_noticed_and_mended_when_the_program_goes_on(cluster: Cluster, run: Run, origin: HttpOrigin) -> None:
    """Silence withdraws its tunnel, so that nobody waits for it; once it runs again the same URL works."""
    program = run(_PROGRAM.format(port=origin.port))
    tunnel = portway.Tunnel(*json.loads(program.line()))
    assert serves(tunnel, cluster.ca)
    os.kill(program.pid, signal.SIGSTOP)
    eventually(lambda: cluster.node.metrics()["sessions_away"] == 1)
    assert not serves(tunnel, cluster.ca)
    eventually(lambda: not cluster.admin.tunnels())
    os.kill(program.pid, signal.SIGCONT)
    eventually(lambda: serves(tunnel, cluster.ca))
    eventually(lambda: is_consistent(cluster, tunnel))
    assert program.stop(signal.SIGTERM) == 0
    eventually(lambda: is_consistent(cluster))


def test_a_short_stop_costs_nothing(cluster: Cluster, run: Run, origin: HttpOrigin) -> None:
    """A visitor that comes meanwhile waits a moment and is served; nobody was thought dead."""
    program = run(_PROGRAM.format(port=origin.port))
    tunnel = portway.Tunnel(*json.loads(program.line()))
    epoch = epoch_of(cluster.admin, tunnel)
    os.kill(program.pid, signal.SIGSTOP)
    os.kill(program.pid, signal.SIGCONT)
    assert serves(tunnel, cluster.ca)
    assert epoch_of(cluster.admin, tunnel) == epoch
    assert program.stop(signal.SIGTERM) == 0
    eventually(lambda: is_consistent(cluster))
