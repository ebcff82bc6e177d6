"""Every node of a mesh restarted, over emulated distance: scripts/rolling_restart."""

import re
import subprocess
import sys

import pytest
from portway_lab.cluster.delay_network import why_not

_COMMAND = [sys.executable, "-m", "portway_lab.rolling_restart.command", "--clients", "2"]
_END_WITHIN = 300.0


@pytest.mark.slow  # three nodes start anew one after the other, and clients wait before they go back
@pytest.mark.timeout(_END_WITHIN + 30)
def test_every_client_ends_at_its_nearest_node_and_no_visit_fails_for_it() -> None:
    """Two clients of each region flee and come back; visitors, some of whom are served for eight seconds, go on."""
    if reason := why_not():
        pytest.skip(reason)
    done = subprocess.run(_COMMAND, capture_output=True, text=True, timeout=_END_WITHIN, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all home after" in done.stdout
    for phase in ("restarts", "returns"):
        failed = re.search(rf"^{phase}: (\d+) of (\d+) visits failed$", done.stdout, re.MULTILINE)
        assert failed is not None, done.stdout
        assert int(failed[1]) == 0
        assert int(failed[2]) > 20
