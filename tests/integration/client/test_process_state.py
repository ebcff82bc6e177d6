"""The client inside somebody's program: what belongs to the whole process stays as the program has it."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.shares_sockets

_PROGRAM = """
import asyncio, faulthandler, logging, os, signal, sys, threading, warnings

def state():
    root = logging.getLogger()
    return {
        "log": (root.handlers[:], root.level, root.filters[:], logging.lastResort, logging.raiseExceptions),
        "loggers": [(name, logging.getLogger(name).handlers[:]) for name in ("portway", "asyncio")],
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook, warnings.showwarning),
        "warnings": warnings.filters[:],
        "environment": dict(os.environ),
        "signals": [signal.getsignal(number) for number in signal.valid_signals()],
        "faulthandler": faulthandler.is_enabled(),
        "stderr": (os.fstat(2).st_ino, sys.stderr),
        "policy": asyncio.get_event_loop_policy(),
    }

before = state()
import portway
with portway.forward(9) as tunnel:
    open_ = state()
after = state()
for now in (open_, after):
    for name, value in before.items():
        if now[name] != value:
            print(name, value, now[name])
"""


def test_nothing_of_the_process_is_changed(environment: dict[str, str]) -> None:
    """Not its log, hooks, warnings, signals and environment (gRPC's settings are there), nor where descriptor 2 leads,
    while a tunnel is open and afterwards."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == ""
