"""The test kit's clock that leaves out pauses of this process."""

import os
import signal
import subprocess
import sys

import pytest
from portway_testkit.own_time import OwnTime
from portway_testkit.waiting import eventually


class Machine:
    """What a process sees of its machine."""

    def __init__(self) -> None:
        self.now = 100.0
        self.used = 0.0

    def passes(self, seconds: float, *, used: float = 0.0) -> None:
        self.now += seconds
        self.used += used


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def own_time(machine: Machine) -> OwnTime:
    """Looks only when it is asked."""
    return OwnTime(lambda: machine.now, lambda: machine.used)


def test_a_pause_is_left_out(machine: Machine, own_time: OwnTime) -> None:
    """Also one that nobody has looked at before the clock is read; the next one is added to it."""
    machine.passes(3.0)
    assert own_time.lost() == pytest.approx(2.98)
    assert own_time() == pytest.approx(100.02)
    machine.passes(2.0)
    assert own_time.lost() == pytest.approx(4.96)


def test_who_waits_is_not_in_a_pause(machine: Machine, own_time: OwnTime) -> None:
    """As long as it is looked all the while, also late: a black hole lasts as long as it does."""
    for _ in range(10):
        machine.passes(0.4)
        assert own_time.lost() == 0.0
    assert own_time() == pytest.approx(104.0)


def test_who_computes_is_not_in_a_pause(machine: Machine, own_time: OwnTime) -> None:
    machine.passes(3.0, used=2.9)
    assert own_time.lost() == 0.0


STANDS_STILL = """
import os, signal, time
from portway_testkit.own_time import OwnTime
with OwnTime() as own_time:
    began, own_began = time.monotonic(), own_time()
    print("stands", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    print(time.monotonic() - began - (own_time() - own_began), own_time.lost())
"""


def test_a_process_that_was_stopped_has_lost_the_time() -> None:
    """By its own thread and by the clock of the system."""
    with subprocess.Popen([sys.executable, "-c", STANDS_STILL], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "stands\n"
        with OwnTime() as watch:
            began = watch()
            eventually(lambda: watch() - began > 2)
        os.kill(program.pid, signal.SIGCONT)
        left_out, lost = map(float, program.stdout.readline().split())
    assert lost > 1.0
    assert left_out == pytest.approx(lost, abs=0.6)
