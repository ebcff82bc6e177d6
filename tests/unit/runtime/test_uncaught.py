"""What Python would print past the log: each is one line of it, in a process of its own."""

import json
import subprocess
import sys
from typing import Any

import pytest

_BEFORE = """
import asyncio, gc, sys, threading, warnings
from portway_runtime import logs
from portway_runtime.event_loops import new_event_loop
from portway_runtime.uncaught import log_loop_errors, log_uncaught
logs.configure(form="json", level="info")
log_uncaught()
def fail(*_):
    raise ValueError("it broke\\nin two lines")
"""
_ON_A_LOOP = """
loop = {make}()
log_loop_errors(loop)
async def main():
    {body}
    gc.collect()
    await asyncio.sleep(0)
with asyncio.Runner(loop_factory=lambda: loop) as runner:
    runner.run(main())
"""
_FUTURE = "loop.create_future().set_exception(ValueError('it broke'))"
_CALLBACK = "loop.call_soon(fail)"


def lines_of(program: str) -> list[dict[str, Any]]:
    """What it writes to standard error: each line must be JSON."""
    done = subprocess.run(
        [sys.executable, "-c", _BEFORE + program], capture_output=True, text=True, check=False, timeout=30
    )
    assert not done.stdout
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_an_exception_that_nobody_catches() -> None:
    """Critical, with its traceback."""
    (line,) = lines_of("fail()")
    assert (line["level"], line["event"]) == ("critical", "uncaught exception")
    assert "ValueError: it broke" in line["exception"]


def test_one_of_another_thread() -> None:
    """With the thread's name."""
    (line,) = lines_of("thread = threading.Thread(target=fail, name='t1'); thread.start(); thread.join()")
    assert (line["level"], line["event"], line["thread_name"]) == ("error", "a thread ended early", "t1")
    assert "ValueError: it broke" in line["exception"]


def test_a_thread_may_end_itself() -> None:
    """SystemExit is no failure, as without the log."""
    assert lines_of("thread = threading.Thread(target=sys.exit); thread.start(); thread.join()") == []


def test_one_of_a_finalizer() -> None:
    """With what it is of."""
    (line,) = lines_of("made = type('Made', (), {'__del__': fail})(); del made")
    assert line["event"] == "Exception ignored in"
    assert "fail" in line["object"]
    assert "ValueError: it broke" in line["exception"]


def test_a_warning() -> None:
    """With its kind and its place."""
    (line,) = lines_of("warnings.warn('old', UserWarning)")
    assert (line["level"], line["event"]) == ("warning", "UserWarning: old")
    assert line["file"] == "<string>"


def test_an_interrupt() -> None:
    """No traceback."""
    (line,) = lines_of("raise KeyboardInterrupt")
    assert (line["level"], line["event"]) == ("info", "interrupted")


@pytest.mark.parametrize("make", ["new_event_loop", "asyncio.SelectorEventLoop"])
@pytest.mark.parametrize(
    ("body", "begins"),
    [(_FUTURE, "Future exception was never retrieved"), (_CALLBACK, "Exception in callback")],
    ids=["future", "callback"],
)
def test_one_of_an_event_loop(make: str, body: str, begins: str) -> None:
    """One line, with the traceback inside it."""
    (line,) = lines_of(_ON_A_LOOP.format(make=make, body=body))
    assert line["event"].startswith(begins)
    assert "ValueError: it broke" in line["exception"]
