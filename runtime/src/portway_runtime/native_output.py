"""What is written to descriptor 2 past the log, as log lines: by libraries in C (gRPC's core, libuv, the allocator) and
by the interpreter, most of it when the process is about to end by SIGABRT or SIGSEGV.

A child process reads it: a thread would die with its process, and the last words would stay in the pipe. It ends when
the process has ended, and ignores signals. The first process of a container has no such child, because the kernel kills
what is left of a container with it: there, these lines come as they are.
"""

import faulthandler
import logging
import os
import re
import select
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from portway_runtime import logs

logger = logging.getLogger("stderr")

_STDERR: Final = 2
_FIRST_PROCESS: Final = 1
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

    To be called while the process has one thread: it forks. Where it cannot, descriptor 2 stays as it is.
    """
    stream = None
    if os.getpid() != _FIRST_PROCESS:
        with suppress(OSError):
            stream = logs.WholeLines(_divert(form, level))
    logs.configure(form=form, level=level, stream=stream)
    faulthandler.enable(_STDERR)


def _divert(form: str, level: str) -> int:
    """Let descriptor 2 lead to a child that logs what it reads. Returns a descriptor of what it led to. Raises
    OSError."""
    stderr = os.dup(_STDERR)
    try:
        reader, writer = os.pipe()
        try:
            if os.fork() == 0:
                _run_child(reader, stderr, form, level)
            os.dup2(writer, _STDERR)
        finally:
            os.close(reader)
            os.close(writer)
    except OSError:
        os.close(stderr)
        raise
    return stderr


def _run_child(reader: int, stderr: int, form: str, level: str) -> None:
    """Log what comes until all writers have closed. Never returns."""
    try:
        for ignored in signal.valid_signals() - {signal.SIGCHLD}:
            with suppress(OSError, ValueError):  # SIGKILL and SIGSTOP
                signal.signal(ignored, signal.SIG_IGN)
        # Nothing of the process but these is held open here.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor, number in ((reader, 0), (nowhere, 1), (stderr, _STDERR)):
            os.dup2(descriptor, number)
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - descriptors, not paths
            if int(name) > _STDERR:
                with suppress(OSError):
                    os.close(int(name))
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
