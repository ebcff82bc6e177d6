"""A thread that cannot be had is an error that says what to raise."""

import _thread
import queue
import subprocess
import sys
import threading

import pytest
from portway_runtime.errors import NoThread
from portway_runtime.threads import demand_threads, single_thread, start_thread
from portway_testkit.processes.threads import no_more_threads


def test_a_thread_is_started() -> None:
    """Its program's end does not wait for it, unless that is asked for."""
    ran: queue.Queue[threading.Thread] = queue.Queue()
    start_thread(lambda: ran.put(threading.current_thread()), "one")
    start = ran.get(timeout=10)
    assert (start.name, start.daemon) == ("one", True)
    start_thread(lambda: ran.put(threading.current_thread()), "two", daemon=False)
    waited_for = ran.get(timeout=10)
    assert (waited_for.name, waited_for.daemon) == ("two", False)
    start.join()
    waited_for.join()


def test_a_thread_that_is_refused_leaves_nothing_behind() -> None:
    """The error names the limits."""
    before = set(threading.enumerate())
    with no_more_threads(), pytest.raises(NoThread, match=r"can't start new thread: raise .*ulimit -u.*TasksMax.*pids"):
        start_thread(int, "one")
    assert set(threading.enumerate()) <= before


def test_a_program_that_ends_is_told_so() -> None:
    """From Python 3.12 on the interpreter itself refuses; no limit is to be raised then."""
    with no_more_threads("can't create new thread at interpreter shutdown"):
        with pytest.raises(NoThread, match="this program is ending") as told:
            start_thread(int, "one")
    assert "ulimit" not in str(told.value)


def test_threads_that_are_demanded_have_ended() -> None:
    """However many they are."""
    before = set(threading.enumerate())
    demand_threads(50)
    demand_threads()
    assert set(threading.enumerate()) <= before


def test_threads_that_are_demanded_and_refused() -> None:
    """Those that were started before the first refusal have ended too."""
    with no_more_threads(), pytest.raises(NoThread, match="ulimit -u"):
        demand_threads(2)


def test_nothing_is_tried_where_threads_are_no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """gevent's `start_new_thread` takes none of the system's, and says nothing about them."""

    def start_new_thread(*_: object) -> None:
        raise AssertionError("a greenlet was started")

    start_new_thread.__module__ = "gevent.thread"
    monkeypatch.setattr(_thread, "start_new_thread", start_new_thread)
    demand_threads()


def test_an_executor_s_thread_runs_before_it_is_needed() -> None:
    """So that its work goes on when no other thread can be had."""
    executor = single_thread("one")
    with no_more_threads():
        assert executor.submit(threading.current_thread).result(10).name == "one_0"
        with pytest.raises(NoThread):
            single_thread("another")
    executor.shutdown()


def test_the_limit_of_the_system_is_noticed() -> None:
    """RLIMIT_NPROC, in a process of another user where this one is root, whom it does not bind."""
    program = """
import os, resource, sys
from portway_runtime.errors import NoThread
from portway_runtime.threads import demand_threads
if os.getuid() == 0:
    os.setuid(54321)
demand_threads()
resource.setrlimit(resource.RLIMIT_NPROC, (1, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
try:
    demand_threads()
except NoThread as error:
    sys.exit(0 if "ulimit -u" in str(error) else str(error))
sys.exit("the limit binds nothing")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
