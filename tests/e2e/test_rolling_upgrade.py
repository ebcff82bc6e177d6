"""From an older release to this one, node by node, while visitors go on: scripts/rolling_upgrade."""

import subprocess
import sys
from pathlib import Path

import pytest
from portway_lab.rolling_upgrade.command import OLDER_RELEASE

_ROOT = Path(__file__).resolve().parents[2]
_END_WITHIN = 600.0  # half a minute on an idle machine, and on two cores with thirty busy processes three


@pytest.mark.slow  # each node starts anew, and its visits get the time to finish
@pytest.mark.timeout(_END_WITHIN + 30)
def test_no_new_connection_fails_and_no_request_is_cut() -> None:
    """From the first sound commit of this wire: the registry and three nodes are upgraded one by one, while 200
    requests a second come on new and kept connections."""
    known = subprocess.run(
        ["git", "cat-file", "-e", f"{OLDER_RELEASE}^{{commit}}"], cwd=_ROOT, capture_output=True, check=False
    )
    if known.returncode != 0:
        pytest.skip("the older release is not in this clone: git fetch --unshallow brings it")
    command = [sys.executable, "-m", "portway_lab.rolling_upgrade.command", "--settle", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_END_WITHIN, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("runs this release") == 4
    assert "0 new connections failed, 0 requests were cut" in done.stdout
