"""Random kills, drains, pauses and partitions, as scripts/chaos makes them, for a short while and with a fixed seed."""

import subprocess
import sys
from pathlib import Path

import pytest
from cluster.delay_network import why_not
from portway_testkit.etcd import EtcdMissing, find_etcd

_SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "run_chaos.py"
# Its plan has a fault of each kind, at every kind of part.
SEED, MINUTES = 33, 0.2
_END_WITHIN = 240.0


@pytest.mark.slow  # twelve seconds of faults, and what it takes to come to rest after them
@pytest.mark.timeout(_END_WITHIN + 30)
def test_every_visitor_gets_its_own_tunnel_and_all_comes_to_rest() -> None:
    """No visitor gets a byte of another tunnel; afterwards every tunnel serves everywhere and nothing is left over."""
    if reason := why_not():
        pytest.skip(reason)
    try:
        find_etcd()
    except EtcdMissing as missing:
        pytest.skip(str(missing))
    command = [sys.executable, str(_SCRIPT), "--seed", str(SEED), "--minutes", str(MINUTES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_END_WITHIN, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    for line in (
        "every tunnel serves at every node: yes",
        "registries and nodes agree, nothing is left over: yes",
        "nothing of the tunnels is left once their clients end: yes",
        "nothing is wrong",
    ):
        assert line in done.stdout
    assert "'served': " in done.stdout
