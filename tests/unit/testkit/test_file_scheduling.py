"""A run of tests ends although one of them ends its worker."""

import subprocess
import sys
from pathlib import Path

import pytest

_CONFTEST = """
from portway_testkit.file_scheduling import FileScheduling

def pytest_xdist_make_scheduler(config, log):
    return FileScheduling(config, log)
"""
_FILE = """
import os, pytest

@pytest.mark.parametrize("number", range({count}))
def test_one(number):
    if {dies} and number == 0:
        os._exit(1)
"""


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dying", [0, 5])
def test_every_other_test_is_run_once(tmp_path: Path, count: int, dying: int) -> None:
    """Whether the dead worker was at its first file or at its last; one test is reported as failed."""
    (tmp_path / "conftest.py").write_text(_CONFTEST)
    for number in range(6):
        (tmp_path / f"test_{number}.py").write_text(_FILE.format(count=count, dies=number == dying))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile", tmp_path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert f"1 failed, {6 * count - 1} passed" in done.stdout, done.stdout + done.stderr
