"""A program is killed outright (SIGKILL)."""

import json
import signal
from collections.abc import Callable

import portway
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.processes.running_program import RunningProgram
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import serves
from portway_testkit.waiting import eventually

Run = Callable[[str], RunningProgram]

_PROGRAM = """
import json, signal
from dataclasses import astuple
import portway
with portway.forward({port}) as tunnel:
    print(json.dumps(astuple(tunnel)), flush=True)
    signal.pause()
"""


def test_no_tunnel_is_left_behind(cluster: Cluster, run: Run, origin: HttpOrigin) -> None:
    """Its connections are closed by the kernel: visitors are turned away at once, the registry knows."""
    program = run(_PROGRAM.format(port=origin.port))
    tunnel = portway.Tunnel(*json.loads(program.line()))
    assert serves(tunnel, cluster.ca)
    assert program.stop(signal.SIGKILL) == -signal.SIGKILL
    eventually(lambda: not cluster.admin.tunnels())
    assert not serves(tunnel, cluster.ca)
    assert cluster.node.metrics()["tunnels"] == 0
