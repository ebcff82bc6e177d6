"""A process that can start no further thread: RLIMIT_NPROC, or a full cgroup of pids.

The limit does not bind root. A program that is started by root takes another real user, and drops the two capabilities
that exempt from it; its effective user, and with it what files it can read, stays.
"""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import portway
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.links.client_link import ClientLink
from portway_testkit.processes.running_program import RunningProgram
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import is_consistent, serves
from portway_testkit.waiting import eventually

Run = Callable[[str], RunningProgram]

_BEGIN = """
import ctypes, json, os, resource, signal, sys
from dataclasses import astuple
import portway

USER, SYS_ADMIN, SYS_RESOURCE, VERSION = 54321, 21, 24, 0x20080522

def be_bound_by_limits():
    if os.getuid():
        return
    os.setresuid(USER, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(VERSION, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    for number in range(3):
        sets[number] &= ~(1 << SYS_ADMIN | 1 << SYS_RESOURCE)
    assert libc.capset(header, sets) == 0, ctypes.get_errno()

def limit_threads(number):
    resource.setrlimit(resource.RLIMIT_NPROC, (number, resource.getrlimit(resource.RLIMIT_NPROC)[1]))

def tell(what):
    print(json.dumps(what), flush=True)

def failure(port, **arguments):
    try:
        with portway.forward(port, **arguments):
            return "opened"
    except portway.Error as error:
        return f"{type(error).__name__}: {error}"

def wait():
    signal.sigwait([signal.SIGUSR1])

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
be_bound_by_limits()
"""


def told(program: RunningProgram) -> portway.Tunnel:
    """The tunnel that a line of the program's tells of."""
    return portway.Tunnel(*json.loads(program.line()))


def test_only_the_call_that_needs_one_fails(cluster: Cluster, run: Run, origin: HttpOrigin, tmp_path: Path) -> None:
    """A second tunnel that has to ask a registry, or to read a key file, is refused, and says what to raise. What is
    open goes on; a tunnel of the same session takes no thread. With threads again everything opens."""
    program = run(
        f"""{_BEGIN}
with portway.forward({origin.port}) as tunnel:
    tell(astuple(tunnel))
    before = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    limit_threads(1)
    tell(failure(8001, strategy="geoip"))
    tell(failure(8001, key={str(tmp_path / "key")!r}))
    tell(failure(8001))
    wait()
    limit_threads(before)
    with portway.forward({origin.port}, host="localhost", strategy="geoip") as second:
        tell(astuple(second))
        wait()
"""
    )
    first = told(program)
    assert serves(first, cluster.ca)
    asked, read, same = (json.loads(program.line()) for _ in range(3))
    assert asked.startswith("UnreachableError: no registry could be asked: can't start new thread: raise ")
    assert read.startswith("ConfigError: the key file ")
    assert "could not be read: can't start new thread: raise " in read
    assert same == "opened"
    assert serves(first, cluster.ca)
    os.kill(program.pid, signal.SIGUSR1)
    second = told(program)
    eventually(lambda: is_consistent(cluster, first, second))
    assert serves(first, cluster.ca)
    assert serves(second, cluster.ca)
    os.kill(program.pid, signal.SIGUSR1)
    assert program.ended() == 0
    assert program.errors() == ""


def test_a_tunnel_that_loses_its_node_comes_back(cluster: Cluster, run: Run, origin: HttpOrigin) -> None:
    """With the nodes and the grant that its client knows, and no thread to ask a registry on."""
    with ClientLink(cluster) as link:
        program = run(
            f"""{_BEGIN}
with portway.forward({origin.port}) as tunnel:
    tell(astuple(tunnel))
    limit_threads(1)
    tell(failure(8001, strategy="geoip"))
    wait()
"""
        )
        tunnel = told(program)
        assert "can't start new thread" in json.loads(program.line())
        link.cut()
        eventually(lambda: serves(tunnel, cluster.ca))
        os.kill(program.pid, signal.SIGUSR1)
        assert program.ended() == 0


def test_a_first_tunnel_is_refused(cluster: Cluster, run: Run, origin: HttpOrigin) -> None:
    """There is no thread for the engine; with one it opens, in the same program."""
    program = run(
        f"""{_BEGIN}
before = resource.getrlimit(resource.RLIMIT_NPROC)[0]
limit_threads(1)
tell(failure({origin.port}))
limit_threads(before)
tell(failure({origin.port}))
"""
    )
    assert json.loads(program.line()).startswith(
        "RemoteError: Portway's engine could not start: can't start new thread: raise the limit of threads "
    )
    assert json.loads(program.line()) == "opened"
    assert program.ended() == 0


def test_grpc_is_not_started_without_its_threads(cluster: Cluster, run: Run, origin: HttpOrigin) -> None:
    """One thread can be had, and gRPC, which needs more, would end the process: no registry is asked."""
    program = run(
        f"""{_BEGIN}
with portway.forward({origin.port}) as tunnel:
    tell(astuple(tunnel))
    limit_threads(len(os.listdir("/proc/self/task")) + 1 if os.getuid() == USER else 1)
    tell(failure(8001, strategy="geoip"))
    wait()
"""
    )
    tunnel = told(program)
    refused = json.loads(program.line())
    assert refused.startswith("UnreachableError: no registry could ")
    assert "can't start new thread" in refused
    assert serves(tunnel, cluster.ca)
    os.kill(program.pid, signal.SIGUSR1)
    assert program.ended() == 0
