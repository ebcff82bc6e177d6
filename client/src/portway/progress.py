"""What `portway forward` writes to standard error while tunnels are open: log lines, and on a terminal a status line.

The status line is the last one and is rewritten in place. Not here: addresses, which go to standard output (cli.py).
"""

import logging
import os
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TextIO

from portway_runtime.logs import BoundedHandler, CommandFormatter
from portway_runtime.printable import printable_line

from portway.errors import Error

if TYPE_CHECKING:
    from portway.engine.engine import Status

# Seconds between updates: fast enough to look alive, slow enough to read.
REFRESH: Final = 0.5
_CLEAR_LINE: Final = "\r\x1b[K"
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
_DEFAULT_WIDTH: Final = 80
_COMMAND: Final = "portway"


class Progress:
    """A context manager: inside it the log of the process goes to `stream`, and the status line too if that is a
    terminal. Of the engine's events also those that are no warnings."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._interactive = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._status_line = ""
        self._drawing = threading.Lock()
        self._replaced: list[logging.Handler] = []
        self._handler = BoundedHandler(_Lines(self))
        self._handler.setFormatter(CommandFormatter(_COMMAND))

    def __enter__(self) -> Self:
        logging.getLogger("portway").setLevel(logging.INFO)
        root = logging.getLogger()
        self._replaced = root.handlers[:]
        for handler in self._replaced:
            root.removeHandler(handler)
        root.addHandler(self._handler)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        root = logging.getLogger()
        root.removeHandler(self._handler)
        for handler in self._replaced:
            root.addHandler(handler)
        self._handler.close()
        logging.getLogger("portway").setLevel(logging.NOTSET)
        self.update("")

    def show_until(self, ended: threading.Event) -> None:
        """Wait for `ended`, and keep the status line up to date meanwhile."""
        if not self._interactive:
            # Python handles a signal on the main thread, which does not wake for one that the system gives to another,
            # or that comes just before it begins to wait.
            while not ended.wait(REFRESH):
                pass
            return
        from portway.engine.engine_thread import running_engine

        engine = running_engine()
        while not ended.is_set():
            try:
                self.update(describe(engine.status()))
            except (Error, TimeoutError):
                pass  # the engine is ending, or busy: ask again at the next update
            ended.wait(REFRESH)

    def line(self, text: str) -> None:
        """Write a line that stays, above the status line."""
        self.whole_line(f"{_COMMAND}: {text}\n")

    def whole_line(self, text: str) -> None:
        """As `line`, with all that belongs to it."""
        with self._drawing:
            self._write(f"{_CLEAR_LINE if self._status_line else ''}{text}{self._status_line}")

    def update(self, text: str) -> None:
        """Replace the status line; does nothing unless `stream` is a terminal. Empty text removes it."""
        if not self._interactive:
            return
        text = text[: max(0, self._width() - 1)]
        with self._drawing:
            if text != self._status_line:
                self._status_line = text
                self._write(f"{_CLEAR_LINE}{text}")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            pass  # the reader has gone, which is no reason to close the tunnels

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or _DEFAULT_WIDTH
        except OSError:
            return _DEFAULT_WIDTH


class _Lines:
    """Takes the lines of a log handler."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def write(self, text: str) -> None:
        self._progress.whole_line(text)

    def flush(self) -> None:
        """It is flushed already."""


def describe(status: "Status") -> str:
    """The status line: attached or why not, visits so far and now, bytes from visitors and to them."""
    trouble = printable_line(" ".join(status.trouble.split()))
    state = "attached" if status.attached else f"reconnecting ({trouble or 'lost its node'})"
    counters = status.counters
    running = counters.visits_started - counters.visits_ended
    return (
        f"{state} · {counters.visits_started} visits, {running} now"
        f" · {amount(counters.bytes_in)} in, {amount(counters.bytes_out)} out"
    )


def amount(size: float) -> str:
    """A number of bytes for people, with a unit and three significant digits (`99.9 kB`, `100 kB`)."""
    for unit in _UNITS[:-1]:
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} {_UNITS[-1]}"
