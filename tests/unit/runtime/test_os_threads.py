"""Threads, events and selectors of the operating system; in patched programs, too, which run in child processes."""

import select
import selectors
import subprocess
import sys
import threading

import pytest
from portway_runtime.os_threads import Event, make_lock, make_selector, patched, start_thread


def test_an_event_wakes_who_waits() -> None:
    event = Event()
    assert not event.wait(0.001)
    assert not event.wait_among_others(0.001)
    start_thread(event.set, "sets it")
    assert event.wait(10)
    assert event.wait_among_others(10)
    assert event.is_set()
    event.set()


def test_an_event_is_waited_for_however_long() -> None:
    """Also for longer than a lock can be."""
    event = Event()
    start_thread(event.set, "setting")
    assert event.wait(2 * threading.TIMEOUT_MAX)


def test_a_thread_keeps_nothing_from_ending() -> None:
    found: list[threading.Thread] = []
    event = Event()

    def run() -> None:
        found.append(threading.current_thread())
        event.set()

    start_thread(run, "named")
    assert event.wait(10)
    assert found[0].daemon
    assert found[0].name == "named"


def test_elsewhere_they_are_the_standard_librarys() -> None:
    assert not patched()
    assert isinstance(make_lock(), type(threading.Lock()))
    selector = make_selector()
    assert isinstance(selector, selectors.DefaultSelector)
    selector.close()


_PROGRAM = """
import sys
if sys.argv[1] == "gevent":
    from gevent import monkey
    monkey.patch_all()
else:
    import eventlet
    eventlet.monkey_patch()
import socket, threading, time, _socket
from portway_runtime.os_threads import Event, make_selector, patched, start_thread

assert patched()
ready, blocked, go_on, ended = Event(), Event(), Event(), Event()
near, far = _socket.socketpair()

def work():
    selector = make_selector()
    selector.register(near, 1)
    ready.set()
    assert selector.select(20)
    selector.close()
    blocked.set()
    assert go_on.wait(20)
    ended.set()

turns = 0
def count():
    global turns
    while not ended.is_set():
        turns += 1
        time.sleep(0.001)

counting = threading.Thread(target=count)
counting.start()
start_thread(work, "work")
assert ready.wait_among_others(20)
before = turns
while turns < before + 10:
    time.sleep(0.001)
far.send(b"x")
assert blocked.wait_among_others(20)
assert not ended.wait_among_others(0.01)
go_on.set()
assert ended.wait_among_others(20)
counting.join()
near.close()
far.close()
print("ended")
"""


@pytest.mark.parametrize("patch", ["gevent", "eventlet"])
def test_in_a_patched_program_a_thread_that_blocks_stops_no_other(patch: str) -> None:
    program = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PROGRAM, patch], capture_output=True, text=True, timeout=30
    )
    assert (program.returncode, program.stdout, program.stderr) == (0, "ended\n", "")


def test_the_fresh_select_is_no_other_modules() -> None:
    """sys.modules is not changed."""
    assert sys.modules["select"] is select
