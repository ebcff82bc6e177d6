"""scripts/demo --regions: three regions as far apart as in the world, and nothing of them left."""

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from portway_lab.cluster.delay_network import why_not
from portway_testkit.processes.running_program import RunningProgram
from portway_testkit.waiting import eventually

# The environment is set up already, and these tests are about what comes after that.
_DEMO = [sys.executable, "-m", "portway_lab.demo.command", "--regions"]
_PLACES = {"fra", "iad", "nrt", "registry", "client", "visitor"}

pytestmark = pytest.mark.timeout(180)

StartDemo = Callable[[str], tuple[RunningProgram, dict[str, str]]]


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """Its temporary folder is the test's own; a short path, for sockets are made below it."""
    if reason := why_not():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="pw-") as folder:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PORTWAY_")}
        yield {**kept, "TMPDIR": folder}


@pytest.fixture
def start_demo(environment: dict[str, str], tmp_path: Path) -> Iterator[StartDemo]:
    started: list[RunningProgram] = []

    def start(name: str) -> tuple[RunningProgram, dict[str, str]]:
        target = tmp_path / name
        program = RunningProgram([*_DEMO, "--env", target], environment, tmp_path / f"{name}.log")
        started.append(program)
        assert program.__enter__().line().startswith("ready")
        lines = target.read_text().splitlines()
        return program, dict(shlex.split(line)[1].split("=", 1) for line in lines)

    yield start
    for program in started:
        program.__exit__()


def places(exports: dict[str, str]) -> dict[str, str]:
    return dict(named.split("=") for named in exports["PORTWAY_DEMO_PLACES"].split(","))


def namespaces() -> set[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in listed.splitlines()}


def test_check_visits_every_node_and_leaves_nothing(environment: dict[str, str]) -> None:
    """The client near iad has its tunnel there; a visitor near nrt gets it at each node."""
    done = subprocess.run(
        [*_DEMO, "--check"], capture_output=True, text=True, timeout=150, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ".iad.localhost\n" in done.stdout
    for node in ("fra-1", "iad-1", "nrt-1"):
        assert f"    {node} " in done.stdout
    shown = {word for word in done.stdout.split() if word.startswith("portway-")}
    assert len(shown) == len(_PLACES)
    assert not shown & namespaces()
    assert list(Path(environment["TMPDIR"]).iterdir()) == []


def test_two_run_side_by_side_and_each_ends_whole(start_demo: StartDemo) -> None:
    """A signal ends all that one started and removes its namespaces; the other's answer as before."""
    first, first_exports = start_demo("first")
    second, second_exports = start_demo("second")
    assert set(places(first_exports)) == set(places(second_exports)) == _PLACES
    assert not set(places(first_exports).values()) & set(places(second_exports).values())
    assert first.stop(signal.SIGINT) == 0
    assert not set(places(first_exports).values()) & namespaces()

    host, _, port = second_exports["PORTWAY_REGISTRY"].rpartition(":")
    probe = f"import socket; socket.create_connection(({host!r}, {port}), timeout=20).close()"
    command = ["ip", "netns", "exec", places(second_exports)["client"], sys.executable, "-c", probe]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0
    assert second.stop(signal.SIGTERM) == 0
    assert not set(places(second_exports).values()) & namespaces()


def test_one_that_is_killed_takes_its_namespaces_along(start_demo: StartDemo) -> None:
    """SIGKILL leaves the demo no time, and still nothing stays."""
    program, exports = start_demo("env")
    assert program.stop(signal.SIGKILL) == -signal.SIGKILL
    eventually(lambda: not set(places(exports).values()) & namespaces())


def test_without_root_it_says_what_is_needed(environment: dict[str, str]) -> None:
    """Exit code 1 and the reason, before anything is started."""
    program = (
        "import os, runpy, sys; os.getuid = lambda: 1000; "
        f"sys.argv = {_DEMO[2:]!r}; runpy.run_module({_DEMO[2]!r}, run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    assert done.returncode == 1
    assert "scripts/demo --regions cannot run here: emulated round trips need root" in done.stderr
    assert list(Path(environment["TMPDIR"]).iterdir()) == []
