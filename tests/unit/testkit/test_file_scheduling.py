"""A run of tests ends although one of them ends its worker."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Four to six processes of pytest.
pytestmark = pytest.mark.timeout(180)

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
# Of the workers that take the dead ones' places, the second one collects until the first one has begun a test.
_AWAITED = """
import os, time
from pathlib import Path

def wait_for(name):
    while not Path(name).exists():
        time.sleep(0.01)

def pytest_collection_modifyitems(items):
    if os.environ.get("PYTEST_XDIST_WORKER") == "gw3":
        wait_for("begun")
"""
_DYING = """
import os
from pathlib import Path
from conftest import wait_for

def test_one():
    Path("{own}").touch()
    wait_for("{other}")
    os._exit(1)
"""
_LASTING = """
from pathlib import Path

def test_one():
    Path("begun").touch()
"""


def run_on_two_workers(folder: Path) -> str:
    """What pytest prints."""
    plugins = ["-p", "no:cacheprovider", "-p", "xdist.plugin"]  # and no other that is installed here
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, "-n", "2", "--dist", "loadfile", folder],
        cwd=folder,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dying", [0, 5])
def test_every_other_test_is_run_once(tmp_path: Path, count: int, dying: int) -> None:
    """Whether the dead worker was at its first file or at its last; one test is reported as failed."""
    (tmp_path / "conftest.py").write_text(_CONFTEST)
    for number in range(6):
        (tmp_path / f"test_{number}.py").write_text(_FILE.format(count=count, dies=number == dying))
    told = run_on_two_workers(tmp_path)
    assert f"1 failed, {6 * count - 1} passed" in told, told


def test_all_workers_may_die_at_once(tmp_path: Path) -> None:
    """As when a machine stands still for longer than a test may take."""
    (tmp_path / "conftest.py").write_text(_CONFTEST + _AWAITED)
    (tmp_path / "test_0.py").write_text(_DYING.format(own="first", other="second"))
    (tmp_path / "test_1.py").write_text(_DYING.format(own="second", other="first"))
    for number in range(2, 6):
        (tmp_path / f"test_{number}.py").write_text(_LASTING)
    told = run_on_two_workers(tmp_path)
    assert "2 failed, 4 passed" in told, told
