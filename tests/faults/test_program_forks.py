"""A program forks, before and after its first `forward`."""

import json
import os
import signal
from collections.abc import Callable

import portway
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.processes.running_program import RunningProgram
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import is_consistent, serves
from portway_testkit.waiting import eventually

Run = Callable[[str], RunningProgram]

_BEGIN = """
import json, os, signal, sys
from dataclasses import astuple
import portway

def tell(tunnel):
    # Parent and child have one pipe: the line is one write, where print() makes one more for its end.
    os.write(sys.stdout.fileno(), json.dumps(astuple(tunnel)).encode() + b"\\n")

def wait():
    signal.sigwait([signal.SIGUSR1])

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
"""


def told(program: RunningProgram) -> portway.Tunnel:
    """The tunnel that a line of the program's tells of."""
    return portway.Tunnel(*json.loads(program.line()))


def test_parent_and_child_each_have_their_own(cluster: Cluster, run: Run, origin: HttpOrigin) -> None:
    """Forked before the first `forward`: both open one, on the same port, and each one's end is its own."""
    program = run(
        f"""{_BEGIN}
child = os.fork()
with portway.forward({origin.port}) as tunnel:
    if child:
        # One line at a time: the child's comes when the parent has been told of it.
        tell(tunnel)
        wait()
        os.kill(child, signal.SIGUSR1)
        assert os.waitpid(child, 0)[1] == 0
        print("child ended", flush=True)
        wait()
    else:
        tell(tunnel)
        wait()
"""
    )
    both = [told(program), told(program)]
    assert both[0].url != both[1].url
    eventually(lambda: is_consistent(cluster, *both))
    assert all(serves(tunnel, cluster.ca) for tunnel in both)
    os.kill(program.pid, signal.SIGUSR1)
    assert program.line() == "child ended"
    eventually(lambda: len(cluster.admin.tunnels()) == 1)
    (left,) = [tunnel for tunnel in both if serves(tunnel, cluster.ca)]
    eventually(lambda: is_consistent(cluster, left))
    os.kill(program.pid, signal.SIGUSR1)
    assert program.ended() == 0
    eventually(lambda: is_consistent(cluster))


def test_a_child_of_a_program_with_a_tunnel_leaves_it_alone(cluster: Cluster, run: Run, origin: HttpOrigin) -> None:
    """The child opens one of its own and ends; the parent's has not noticed."""
    program = run(
        f"""{_BEGIN}
with portway.forward({origin.port}) as tunnel:
    tell(tunnel)
    child = os.fork()
    if not child:
        with portway.forward({origin.port}) as own:
            tell(own)
            wait()
        sys.exit(7)
    wait()
    os.kill(child, signal.SIGUSR1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    print("child ended", flush=True)
    wait()
"""
    )
    parents, childs = told(program), told(program)
    eventually(lambda: is_consistent(cluster, parents, childs))
    assert serves(parents, cluster.ca)
    assert serves(childs, cluster.ca)
    os.kill(program.pid, signal.SIGUSR1)
    assert program.line() == "child ended"
    eventually(lambda: is_consistent(cluster, parents))
    assert serves(parents, cluster.ca)
    os.kill(program.pid, signal.SIGUSR1)
    assert program.ended() == 0
    eventually(lambda: is_consistent(cluster))


def test_a_child_that_outlives_its_parent_keeps_nothing_open(cluster: Cluster, run: Run, origin: HttpOrigin) -> None:
    """It has let go of the parent's connections: the parent's tunnel ends with the parent."""
    program = run(
        f"""{_BEGIN}
with portway.forward({origin.port}) as tunnel:
    tell(tunnel)
    child = os.fork()
    if not child:
        wait()
        os._exit(0)
    print(child, flush=True)
    wait()
    os._exit(3)
"""
    )
    tunnel = told(program)
    child = int(program.line())
    try:
        eventually(lambda: is_consistent(cluster, tunnel))
        os.kill(program.pid, signal.SIGUSR1)
        assert program.ended() == 3
        eventually(lambda: not cluster.admin.tunnels())
        assert not serves(tunnel, cluster.ca)
    finally:
        os.kill(child, signal.SIGUSR1)
