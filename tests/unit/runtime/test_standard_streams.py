"""Standard descriptors that were closed are taken by /dev/null, and no connection gets their numbers.

Each test is a program of its own: this process needs its descriptors.
"""

import os
import subprocess
import sys

import pytest

_REPORT = """
import os, sys
def report(text):
    os.write(int(sys.argv[1]), text.encode())
def names():
    return [os.readlink(f"/proc/self/fd/{number}") for number in range(3)]
"""


def run(program: str, closed: str) -> tuple[int, str]:
    """The exit code of a program, started with descriptors closed as a shell has it, and what it reported."""
    shell = f'exec 3>&1; exec "$0" -c "$1" 3 {closed}'
    command = ["sh", "-c", shell, sys.executable, _REPORT + program]
    buffered = os.environ | {"PYTHONUNBUFFERED": ""}
    done = subprocess.run(command, env=buffered, stdout=subprocess.PIPE, timeout=30)
    return done.returncode, done.stdout.decode()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_the_closed_ones_are_taken(closed: str) -> None:
    """And only they: the next file gets a number above them."""
    program = """
from portway_runtime.standard_streams import occupy_standard_descriptors
before = [os.path.exists(f"/proc/self/fd/{number}") for number in range(3)]
files = [os.readlink(f"/proc/self/fd/{number}") if was else "/dev/null" for number, was in enumerate(before)]
occupy_standard_descriptors()
assert names() == files
reading, writing = os.pipe()
assert reading > 2 and writing > 2
report("taken" if not all(before) else "none was closed")
"""
    assert run(program, closed) == (0, "taken")


def test_nothing_changes_where_all_are_open() -> None:
    """And no descriptor is left behind, however often it is called."""
    program = """
from portway_runtime.standard_streams import open_standard_streams
before, streams = set(os.listdir("/proc/self/fd")), (sys.stdin, sys.stdout, sys.stderr)
for _ in range(3):
    open_standard_streams()
assert set(os.listdir("/proc/self/fd")) == before and (sys.stdin, sys.stdout, sys.stderr) == streams
report("same")
"""
    assert run(program, "") == (0, "same")


def test_a_command_can_print_and_read() -> None:
    """What is printed goes nowhere, in particular not to standard output for want of a standard error."""
    program = """
from portway_runtime.standard_streams import open_standard_streams
open_standard_streams()
print("lost", file=sys.stderr, flush=True)
print("lost", flush=True)
assert sys.stdin.read() == ""
assert names() == ["/dev/null"] * 3
report("done")
"""
    assert run(program, "<&- >&- 2>&-") == (0, "done")


def test_output_that_nobody_reads_is_dropped() -> None:
    """What is in the buffer already, what comes later, and what Python writes at its end: none of it fails, and nothing
    is said."""
    program = """
from portway_runtime.standard_streams import drop_standard_output
reading, writing = os.pipe()
os.dup2(writing, 1)
os.close(reading)
print("lost")
before = len(os.listdir("/proc/self/fd"))
drop_standard_output()
assert len(os.listdir("/proc/self/fd")) == before
print("lost", flush=True)
print("lost")
report(os.readlink("/proc/self/fd/1"))
"""
    assert run(program, "2>&1") == (0, "/dev/null")
