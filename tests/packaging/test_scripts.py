"""The commands in scripts/."""

import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.mark.parametrize("name", sorted(path.name for path in SCRIPTS.iterdir()))
def test_a_command_explains_itself(name: str) -> None:
    """--help says how the command is called and what it does, and does nothing."""
    done = subprocess.run([SCRIPTS / name, "--help"], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    usage, _, description = done.stdout.partition("\n\n")
    assert usage.startswith(f"usage: scripts/{name}")
    assert len(description.split()) > 20
