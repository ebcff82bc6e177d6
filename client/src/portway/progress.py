"""What the command shows while tunnels are open: on a terminal one line that is kept up to date, else log lines alone.

Here: standard error. Not here: the addresses, which go to standard output (cli.py).
"""

import logging
import os
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TextIO

from portway.errors import Error

if TYPE_CHECKING:
    from portway.engine.engine import Status

# Fast enough to look alive, slow enough to be read and to cost nothing.
REFRESH: Final = 0.5
_CLEAR_LINE: Final = "\r\x1b[K"
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
_DEFAULT_WIDTH: Final = 80


class Progress:
    """A context: the engine's log goes to `stream` within it, and the live line where `stream` is a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._shown = ""
        self._drawing = threading.Lock()
        self._handler = _LineHandler(self)

    def __enter__(self) -> Self:
        logging.getLogger("portway").setLevel(logging.INFO)
        for name in ("portway", "portway_carrier", "portway_runtime"):
            logging.getLogger(name).addHandler(self._handler)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for name in ("portway", "portway_carrier", "portway_runtime"):
            logging.getLogger(name).removeHandler(self._handler)
        logging.getLogger("portway").setLevel(logging.NOTSET)
        self.update("")

    def show_until(self, ended: threading.Event) -> None:
        """Wait, and show meanwhile how things stand."""
        if not self._live:
            ended.wait()
            return
        from portway.engine.engine_thread import running_engine

        engine = running_engine()
        while not ended.is_set():
            try:
                self.update(describe(engine.status()))
            except (Error, TimeoutError):
                pass  # the engine is ending, or busy: the next look will tell
            ended.wait(REFRESH)

    def line(self, text: str) -> None:
        """A line that stays, above the live one."""
        with self._drawing:
            self._write(f"{_CLEAR_LINE if self._shown else ''}portway: {text}\n{self._shown}")

    def update(self, text: str) -> None:
        """Replace the live line, if there is one; empty text takes it away."""
        if not self._live:
            return
        text = text[: max(0, self._width() - 1)]
        with self._drawing:
            if text != self._shown:
                self._shown = text
                self._write(f"{_CLEAR_LINE}{text}")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            pass  # nobody reads it any more: no reason to end the tunnels

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or _DEFAULT_WIDTH
        except OSError:
            return _DEFAULT_WIDTH


class _LineHandler(logging.Handler):
    """Log records as lines of a Progress."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {record.exc_info[1]!r}"
        self._progress.line(" ".join(text.split()))


def describe(status: "Status") -> str:
    """The live line: whether all is well and why not, visits so far, bytes."""
    state = "attached" if status.attached else f"reconnecting ({' '.join(status.trouble.split()) or 'lost its node'})"
    counters = status.counters
    running = counters.visits_started - counters.visits_ended
    return (
        f"{state} · {counters.visits_started} visits, {running} now"
        f" · {amount(counters.bytes_in)} in, {amount(counters.bytes_out)} out"
    )


def amount(size: float) -> str:
    """Bytes for people, three digits or four."""
    for unit in _UNITS[:-1]:
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} {_UNITS[-1]}"
