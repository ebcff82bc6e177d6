"""What is written to descriptor 2 past the log, as log lines: by libraries in C (gRPC's core, libuv, the allocator) and
by the interpreter, most of it when the process is about to end by SIGABRT or SIGSEGV.

A child process reads it: a thread would die with its process, and the last words would stay in the pipe. It ends when
the process has ended, and ignores signals. In a container there is no such child, because the kernel kills what is left
of a container when its first process ends, which the server is or which ends with it (`docker --init`, `sh -c`): there,
these lines come as they are.

The child bounds its lines apart from the log's. They are all of one place in the code, so they are at most 60 KB in an
hour, and a log as a whole stays below 1 MB.
"""

import faulthandler
import logging
import os
import re
import select
import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from portway_runtime import logs

logger = logging.getLogger("stderr")

_STDERR: Final = 2
_FIRST_PROCESS: Final = 1
# In the environment of what systemd starts, as services and all that they start have it.
_UNIT: Final = "INVOCATION_ID"
# The numbers of the machine's own namespaces (the kernel's include/linux/proc_ns.h). A container has a PID namespace
# of its own, or at least one of the others: what is left of one that shares its host's processes is killed as well.
_MACHINE: Final = {"pid": 0xEFFFFFFC, "uts": 0xEFFFFFFE, "cgroup": 0xEFFFFFFB}
# Milliseconds without a further byte after which what has come is one fact: a traceback has many lines.
_PAUSE: Final = 100
_MOST: Final = 1 << 16  # bytes of one fact
_COMMAND_NAME: Final = "portway-stderr"  # as ps shows the child: 15 characters
# As absl begins its lines (gRPC's core): severity, month and day, time, thread, place.
_ABSL: Final = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ ")
_LEVELS: Final = {"I": logging.INFO, "W": logging.WARNING, "E": logging.ERROR, "F": logging.CRITICAL}
# As the interpreter and faulthandler begin theirs.
_FATAL: Final = ("Fatal Python error", "Windows fatal exception")


def log_native_output(*, form: str, level: str) -> None:
    """Log to stderr from now on as `logs.configure`, and what else is written to descriptor 2 in the same form. A fatal
    signal (SIGSEGV, SIGFPE, SIGABRT, SIGBUS, SIGILL) is preceded by the stacks of all threads.

    To be called while the process has one thread: it forks. Where it cannot, or a child might not live to write the
    last words, descriptor 2 stays as it is.
    """
    stream = None
    if _child_outlives(os.environ):
        with suppress(OSError):
            stream = logs.WholeLines(_divert(form, level))
    logs.configure(form=form, level=level, stream=stream)
    faulthandler.enable(_STDERR)


def _child_outlives(environment: Mapping[str, str]) -> bool:
    """Whether a child of this process is sure to run on when this one has ended: below a service manager, or outside a
    container. Where that cannot be told, it is not."""
    if os.getpid() == _FIRST_PROCESS:
        return False
    try:
        return bool(environment.get(_UNIT)) or all(
            str(Path("/proc/self/ns", kind).readlink()) == f"{kind}:[{number}]" for kind, number in _MACHINE.items()
        )
    except OSError:
        return False


def _divert(form: str, level: str) -> int:
    """Let descriptor 2 lead to a child that logs what it reads. Returns a descriptor of what it led to. Raises
    OSError."""
    stderr = os.dup(_STDERR)
    try:
        with open(os.devnull, "r+b", buffering=0) as nowhere:
            reader, writer = os.pipe()
            try:
                _fork_child(reader, stderr, nowhere.fileno(), form, level)
                os.dup2(writer, _STDERR)
            finally:
                os.close(reader)
                os.close(writer)
    except OSError:
        os.close(stderr)
        raise
    return stderr


def _fork_child(reader: int, stderr: int, nowhere: int, form: str, level: str) -> None:
    """Start the child. A signal to the whole group that comes meanwhile does not end it: it waits until the child
    ignores it, and here until the fork is done."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        if os.fork() == 0:
            _run_child(reader, stderr, nowhere, form, level)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _run_child(reader: int, stderr: int, nowhere: int, form: str, level: str) -> None:
    """Log what comes until all writers have closed. Never returns. What can fail was done before: what is written would
    go to a pipe that nobody reads."""
    try:
        for ignored in signal.valid_signals() - {signal.SIGCHLD}:
            with suppress(OSError, ValueError):  # SIGKILL and SIGSTOP
                signal.signal(ignored, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
        # Nothing of the process but these is held open here.
        for descriptor, number in ((reader, 0), (nowhere, 1), (stderr, _STDERR)):
            os.dup2(descriptor, number)
        _close_others()
        with suppress(OSError), open("/proc/self/comm", "w") as comm:
            comm.write(_COMMAND_NAME)
        logs.configure(form=form, level=level, stream=logs.WholeLines(_STDERR))
        for text in _bursts(0):
            for severity, event, more in facts(text):
                record = logger.makeRecord(logger.name, severity, __file__, 0, event, (), None, sinfo=more or None)
                if logger.isEnabledFor(severity):
                    logger.handle(record)
        logging.shutdown()
    finally:
        os._exit(0)


def _close_others() -> None:
    try:
        inherited = [int(name) for name in os.listdir("/dev/fd")]  # noqa: PTH208 - descriptors, not paths
    except OSError:  # where /proc is not mounted
        os.closerange(_STDERR + 1, os.sysconf("SC_OPEN_MAX"))
    else:
        for descriptor in inherited:
            if descriptor > _STDERR:
                with suppress(OSError):
                    os.close(descriptor)


def _bursts(reader: int) -> Iterator[str]:
    """What was written without a pause. Ends at the end of the pipe."""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    while True:
        content = chunk = os.read(reader, _MOST)
        while chunk and len(content) < _MOST and poll.poll(_PAUSE):
            chunk = os.read(reader, _MOST)
            content += chunk
        if content:
            yield content.decode(errors="backslashreplace")
        if not chunk:
            return


def facts(text: str) -> Iterator[tuple[int, str, str]]:
    """The facts in what was written without a pause: of each its level, its first line and the lines that follow it."""
    level, lines = logging.WARNING, list[str]()
    for line in filter(str.strip, text.splitlines()):
        absl = _ABSL.match(line)
        if absl is not None or line.startswith(_FATAL):
            if lines:
                yield level, lines[0], "\n".join(lines[1:])
            lines = []
            level = _LEVELS[absl[1]] if absl is not None else logging.CRITICAL
        lines.append(line)
    if lines:
        yield level, lines[0], "\n".join(lines[1:])
