"""A program ends in an exception with tunnels open."""

from collections.abc import Callable

import pytest
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.processes.running_program import RunningProgram
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import is_consistent
from portway_testkit.waiting import eventually

Run = Callable[[str], RunningProgram]


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        pytest.param("raise ValueError('it went wrong')", 1, id="an exception inside the block"),
        pytest.param("raise KeyboardInterrupt", -2, id="an interrupt"),
        pytest.param("sys.exit(5)", 5, id="sys.exit"),
    ],
)
def test_it_ends_at_once_and_leaves_no_tunnel(
    cluster: Cluster, run: Run, origin: HttpOrigin, ending: str, code: int
) -> None:
    """With its own exit code and its own last words: Portway adds no traceback, no warning and no delay."""
    program = run(
        f"""
import os, sys
import portway
with portway.forward({origin.port}), portway.forward({origin.port + 1}):
    print("open", flush=True)
    {ending}
"""
    )
    assert program.line() == "open"
    assert program.ended() == code
    eventually(lambda: is_consistent(cluster))
    assert "portway" not in program.errors().lower()


def test_a_tunnel_that_was_never_closed_is_gone_with_its_program(
    cluster: Cluster, run: Run, origin: HttpOrigin
) -> None:
    """Held by a generator that nobody ends, as a forgotten `with` in a notebook is."""
    program = run(
        f"""
import portway
def hold():
    with portway.forward({origin.port}) as tunnel:
        yield tunnel
held = hold()
print(next(held).url, flush=True)
"""
    )
    assert program.line().startswith("https://")
    assert program.ended() == 0
    eventually(lambda: is_consistent(cluster))


def test_one_that_ends_without_any_clean_up_leaves_no_tunnel(cluster: Cluster, run: Run, origin: HttpOrigin) -> None:
    """Nothing is said to the node: its session may be resumed for a while, but nobody is led to it."""
    program = run(
        f"""
import os
import portway
with portway.forward({origin.port}):
    print("open", flush=True)
    os._exit(6)
"""
    )
    assert program.line() == "open"
    assert program.ended() == 6
    eventually(lambda: not cluster.admin.tunnels())
    assert cluster.node.metrics()["tunnels"] == 0
