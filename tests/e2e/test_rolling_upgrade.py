"""From an older release to this one, node by node, while visitors go on: scripts/rolling_upgrade."""

import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
# Pinned: a release that speaks the same versions of the protocols. Move it when one of them is given up.
OLDER = "ba0c2b16a3e35e4b75150ef67ddc14c04b63b70f"
_END_WITHIN = 150.0


@pytest.mark.slow  # each node starts anew, and its visits get the time to finish
@pytest.mark.timeout(_END_WITHIN + 30)
def test_no_new_connection_fails_and_no_request_is_cut() -> None:
    """200 requests a second on new and kept connections: the registry and three nodes are upgraded one by one."""
    known = subprocess.run(
        ["git", "cat-file", "-e", f"{OLDER}^{{commit}}"], cwd=_ROOT, capture_output=True, check=False
    )
    if known.returncode != 0:
        pytest.skip("the older release is not in this clone: git fetch --unshallow brings it")
    command = [sys.executable, "-m", "portway_lab.rolling_upgrade.command", "--from", OLDER, "--settle", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_END_WITHIN, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("runs this release") == 4
    assert "0 new connections failed, 0 requests were cut" in done.stdout
