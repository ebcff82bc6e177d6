"""What scripts/chaos does at random, for a short while and with a fixed seed."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from portway_lab.cluster.delay_network import why_not
from portway_testkit.clusters.etcd import EtcdMissing, find_etcd
from portway_testkit.processes.running_program import RunningProgram

# Its plan has every kind (tests/unit/lab/chaos/test_plan.py).
SEED, MINUTES = 74893, 0.3
_COMMAND = [sys.executable, "-m", "portway_lab.chaos.command", "--seed", str(SEED), "--minutes", str(MINUTES)]
_END_WITHIN = 420.0


@pytest.fixture
def folder() -> Iterator[Path]:
    """The temporary folder of all of it, with a short name: there are sockets in it."""
    with tempfile.TemporaryDirectory(prefix="pw-") as folder:
        yield Path(folder)


@pytest.fixture
def environment(folder: Path) -> dict[str, str]:
    """Where it can run."""
    if reason := why_not():
        pytest.skip(reason)
    try:
        find_etcd()
    except EtcdMissing as missing:
        pytest.skip(str(missing))
    return {**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}


def namespaces() -> set[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in listed.splitlines()}


@pytest.mark.slow  # eighteen seconds of faults, half a minute of lies, and what it takes to come to rest after them
@pytest.mark.timeout(_END_WITHIN + 30)
def test_every_visitor_gets_its_own_tunnel_and_all_comes_to_rest(environment: dict[str, str], folder: Path) -> None:
    """No visitor gets a byte of another tunnel, also while a node lies; afterwards every tunnel serves everywhere and
    nothing remains."""
    done = subprocess.run(_COMMAND, capture_output=True, text=True, timeout=_END_WITHIN, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    for line in (
        "every tunnel serves at every node: yes",
        "every client is at its nearest node: yes",
        "registries and nodes agree, nothing remains: yes",
        "a new tunnel serves at every node: yes",
        "nothing of the tunnels remains once their clients have ended: yes",
        "no closed tunnel is answered for: yes",
        "nothing is wrong",
    ):
        assert line in done.stdout
    alone = re.findall(r"while only fra-3 lied, for \d+ s, (\d+) of (\d+) visits", done.stdout)
    assert len(alone) == 2
    assert all(served == made and int(made) > 0 for served, made in alone)
    told = dict(
        re.findall(r"([a-z-]+) (\d+)", done.stdout.partition("told by the hostile node: ")[2].partition("\n")[0])
    )
    for lie in ("tunnels", "presences", "gone", "to-registries", "to-clients"):
        assert int(told[lie]) > 0
    for outcome in ("'served': ", "'raw served': ", "'closed: ", "'opened': "):
        assert outcome in done.stdout
    # A registry that is killed cannot remove the folder of its sockets.
    assert [left for left in folder.iterdir() if not left.name.startswith("pwr-")] == []


@pytest.mark.timeout(120)
def test_a_signal_ends_all_of_it(environment: dict[str, str], folder: Path) -> None:
    """In the middle of a fault: no process, no namespace and no file stays, and the exit code is no success."""
    with RunningProgram(_COMMAND, environment, folder / "errors") as chaos:
        while not chaos.line().endswith("kill fra"):
            pass
        pids = [int(path.read_text()) for path in folder.glob("pw-chaos-*/network.pid")]
        assert len(pids) == 1
        assert chaos.stop() == 1
        while "nothing was checked" not in chaos.line():
            pass
    assert not [name for name in namespaces() if name.startswith(f"portway-{pids[0]}-")]
    assert list(folder.iterdir()) == [folder / "errors"]
