"""What goes to descriptor 2 past the log: lines of it, also when they are the last that the process says."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from portway_runtime.native_output import facts

_BEFORE = """
import ctypes, logging, os, signal, sys
from portway_runtime.native_output import log_native_output
log_native_output(form={form!r}, level="info")
logging.getLogger("portway_x").info("it runs")
def write(text):
    os.write(2, text.encode())
"""
# Stacks are written piece by piece: on a slow machine there is a pause between two.
_UNHURRIED = """
from portway_runtime import native_output
native_output._PAUSE = 20_000
"""
# As systemd has it in the environment of a service: in a container, where the tests may run, these lines would come as
# they are without it.
_UNIT = "INVOCATION_ID"
# A program in namespaces of its own.
_UNSHARE = ["unshare", *(() if os.geteuid() == 0 else ("--user", "--map-root-user"))]
_ABSL = "{}1129 23:05:50.774215     902 ssl_transport_security.cc:2563] {}"


@pytest.fixture(autouse=True)
def _below_a_service_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_UNIT, "0123456789abcdef0123456789abcdef")


def _has_namespaces() -> bool:
    try:
        return subprocess.run([*_UNSHARE, "--pid", "--fork", "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


namespaces_are_there = pytest.mark.skipif(not _has_namespaces(), reason="this machine gives no namespace to this user")


def run(program: str, form: str = "json", *, before: str = "") -> tuple[int, str]:
    """Run a program: its exit code and its standard error, once all who have that have closed it."""
    done = subprocess.run(
        [sys.executable, "-c", before + _BEFORE.format(form=form) + program],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=30,
    )
    return done.returncode, done.stderr


def lines_of(program: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in run(program)[1].splitlines()]
    assert "it runs" in [line["event"] for line in lines]
    return [line for line in lines if line["logger"] == "stderr"]


def test_a_line_of_a_library_is_a_line_of_the_log() -> None:
    """With the level that it says itself, or as a warning; several facts that were written together are several
    lines."""
    written = "\n".join([_ABSL.format("I", "first"), "more of it", _ABSL.format("E", "second"), ""])
    first, second = lines_of(f"write({written!r})")
    assert (first["level"], second["level"]) == ("info", "error")
    assert first["event"].endswith("] first")
    assert first["stack"] == "more of it"
    assert second["event"].endswith("] second")
    (other,) = lines_of("sys.stderr.write('malloc(): corrupted')")
    assert (other["level"], other["event"]) == ("warning", "malloc(): corrupted")


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE])
def test_a_crash_says_its_last_words(number: signal.Signals) -> None:
    """What the library said, and one line with the stacks of all threads; the process ends by the signal all the
    same."""
    said = _ABSL.format("F", "Check failed: x") + "\n"
    code, written = run(f"write({said!r}); signal.raise_signal({int(number)})", before=_UNHURRIED)
    assert code == -number
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line["level"] for line in lines] == ["info", "critical", "critical"]
    assert lines[1]["event"].endswith("] Check failed: x")
    assert lines[2]["event"].startswith("Fatal Python error: ")
    assert 'File "<string>"' in lines[2]["stack"]


def test_what_was_said_before_sigkill_is_there() -> None:
    """Of the kill itself nothing can be."""
    code, written = run("write('the last\\n'); os.kill(os.getpid(), signal.SIGKILL)")
    assert code == -signal.SIGKILL
    assert json.loads(written.splitlines()[-1])["event"] == "the last"


def test_who_reads_it_ends_with_the_process_and_not_before() -> None:
    """Signals to the whole group, as from a terminal or a service manager, leave it."""
    program = """
import time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, signal.SIG_IGN)
    os.killpg(os.getpgrp(), number)
write("after the signals\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", _BEFORE.format(form="json") + program],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        start_new_session=True,
    )
    assert json.loads(done.stderr.splitlines()[-1])["event"] == "after the signals"


def test_it_holds_nothing_else_open(tmp_path: Path) -> None:
    """A reader of the program's standard output sees its end when the program closes it."""
    reader, writer = os.pipe()
    held = tmp_path / "held"
    program = f"""
os.dup2({writer}, 1)
os.close({writer})
"""
    later = "print(len([1 for _ in os.scandir(f'/proc/{os.getpid()}/task')])); sys.stdout.close(); os.close(1); input()"
    with held.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", "import os\n" + program + _BEFORE.format(form="json") + later],
            stdin=subprocess.PIPE,
            stderr=errors,
            pass_fds=[writer],
        )
    os.close(writer)
    with os.fdopen(reader) as output:
        assert output.read() == "1\n"
    assert process.poll() is None
    process.communicate(b"\n", 30)


def test_a_program_that_may_not_fork_runs() -> None:
    """Its lines come as they are."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os\ndef no(): raise BlockingIOError\nos.fork = no\n"
            + _BEFORE.format(form="json")
            + "write('as it is')",
        ],
        stderr=subprocess.PIPE,
        text=True,
        check=True,
        timeout=30,
    )
    first, last = done.stderr.splitlines()
    assert json.loads(first)["event"] == "it runs"
    assert last == "as it is"


@namespaces_are_there
@pytest.mark.parametrize("options", [("--pid", "--mount-proc"), ("--uts",), ("--cgroup",)])
def test_in_a_container_lines_come_as_they_are(options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the server is not its first process: what reads them would be killed when that one ends, which it does
    after the server, and before anything is written. Nothing that a crash says is lost."""
    monkeypatch.delenv(_UNIT)
    program = _BEFORE.format(form="json") + "write('as it is\\n'); os.abort()"
    done = subprocess.run(
        [*_UNSHARE, *options, "--fork", "sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", program],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 128 + signal.SIGABRT, done.stderr
    first, second, *others = done.stderr.splitlines()
    assert json.loads(first)["event"] == "it runs"
    assert second == "as it is"
    assert others[0] == "Fatal Python error: Aborted"


@namespaces_are_there
def test_below_a_service_manager_they_are_lines_of_the_log_in_a_container_too() -> None:
    """A whole system runs in it, as LXC's do."""
    program = _BEFORE.format(form="json") + "write('a line\\n')"
    done = subprocess.run(
        [*_UNSHARE, "--uts", sys.executable, "-c", program],
        stderr=subprocess.PIPE,
        text=True,
        check=True,
        timeout=30,
    )
    assert json.loads(done.stderr.splitlines()[-1])["event"] == "a line"


@namespaces_are_there
def test_the_first_process_has_lines_as_they_are() -> None:
    """Whoever started it."""
    program = _BEFORE.format(form="json") + "write('as it is\\n')"
    done = subprocess.run(
        [*_UNSHARE, "--pid", "--fork", sys.executable, "-c", program],
        stderr=subprocess.PIPE,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stderr.splitlines()[-1] == "as it is"


def test_without_proc_lines_are_logged() -> None:
    """The child cannot list what it inherited, and closes everything that it could have."""
    hidden = """
import os
listdir = os.listdir
def listdir_without_proc(path="."):
    if path in ("/proc/self/fd", "/dev/fd"):
        raise FileNotFoundError(path)
    return listdir(path)
os.listdir = listdir_without_proc
"""
    done = subprocess.run(
        [sys.executable, "-c", hidden + _BEFORE.format(form="json") + "write('a line\\n')"],
        stderr=subprocess.PIPE,
        text=True,
        check=True,
        timeout=30,
    )
    assert json.loads(done.stderr.splitlines()[-1])["event"] == "a line"


def test_without_a_null_device_lines_come_as_they_are() -> None:
    """The child needs one, and is not started."""
    hidden = "import os\nos.devnull = '/nowhere'\n"
    done = subprocess.run(
        [sys.executable, "-c", hidden + _BEFORE.format(form="json") + "write('as it is\\n')"],
        stderr=subprocess.PIPE,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stderr.splitlines()[-1] == "as it is"


def test_a_library_that_writes_without_end_is_bounded() -> None:
    """As one place that logs, whatever it says: a log as a whole keeps its bound."""
    program = f"""
for number in range(3_000):
    write({_ABSL.format("E", "")!r} + f"{{number}} {{'x' * 200}}\\n")
"""
    _, written = run(program)
    assert 10_000 < len(written) < 20_000


def test_text_has_further_lines_indented() -> None:
    """As a traceback has."""
    _, written = run("write('one\\ntwo\\n')", form="text")
    first, second = written.splitlines()[-2:]
    assert first.endswith(" WARNING stderr: one")
    assert second == "  two"


def test_facts_of_nothing() -> None:
    """Blank lines are none."""
    assert list(facts("\n \n")) == []
    assert list(facts("a\n\nb")) == [(logging.WARNING, "a", "b")]
