"""Log lines: text for people, JSON for programs, and a bound on how much one event writes.

A log call names the event and gives its fields as `extra`. Both formats show the event first and the fields after it. A
warning or an error that repeats, word for word, is written at once and then after a minute, two, four and so on, with
the field `times`. Peers decide how often many events happen, so each place in the code that logs, and all of them
together, may write a number of bytes per hour, and the line that is written next counts those that were not. What a
peer sent may be in the event, in a field and in the text of an exception: in none of them can it control a terminal or
look like another line.
"""

import copy
import logging
import os
import sys
import textwrap
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

from portway_runtime.clocks import Monotonic, monotonic
from portway_runtime.printable import printable_json, printable_line, printable_lines
from portway_runtime.rates import TokenBucket
from portway_runtime.repeated import Repeated

if TYPE_CHECKING:
    from logging import _SysExcInfoType

# Bytes that each place that logs may write: _BURST at once, then _RATE per second. That is some hundred lines, then
# one each twenty seconds: at most 55 KB in an hour from one place.
_BURST: Final = 16 << 10
_RATE: Final = 10.0
# Bytes that all places together may write: at most 0.95 MB in an hour, whatever peers make how many places log.
_TOTAL_BURST: Final = 192 << 10
_TOTAL_RATE: Final = 200.0
# The last bytes of these are for quiet places, which have asked for little of late: who makes others log without end
# cannot keep an error of theirs out of the log.
_KEPT_FOR_QUIET: Final = 48 << 10
_QUIET: Final = 2 << 10
_USUAL_LINE: Final = 200
# Characters of a field or of an event, and of a traceback, whose last part says most.
_LONGEST_TEXT: Final = 1_000
_LONGEST_TRACEBACK: Final = 4_000

# Types of fields that hold nothing but themselves.
_PLAIN: Final = (str, int, float, bool, type(None))

_QUOTED: Final = frozenset(' "=')
# Before each line of a traceback: the text of an exception may have several, and none of them begins as an event does.
_INDENT: Final = "  "
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """The fields that the log call gave as `extra`."""
    return {key: value for key, value in record.__dict__.items() if key not in _STANDARD}


def _text(value: object) -> str:
    """A field's value as one word: quoted and escaped if it has a space, a quote, `=` or an unprintable character.

    So text from a peer cannot imitate another field or another line.
    """
    text = _cut(str(value))
    return text if text and text.isprintable() and not set(text) & _QUOTED else printable_json(text)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"


def _cut_traceback(text: str) -> str:
    return text if len(text) <= _LONGEST_TRACEBACK else f"…{text[-_LONGEST_TRACEBACK:]}"


class TextFormatter(logging.Formatter):
    """`time level logger: event field=value ...`, and the lines of a traceback, indented."""

    def __init__(self, layout: str = "%(asctime)s %(levelname)-7s %(name)s: %(message)s") -> None:
        super().__init__(layout)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        fields = " ".join(f"{key}={_text(value)}" for key, value in _fields(record).items())
        record.message = _cut(record.message)
        line = printable_line(super().formatMessage(record))
        return f"{line} {fields}" if fields else line

    def formatException(self, ei: "_SysExcInfoType") -> str:  # noqa: N802 - logging's name
        text = _cut_traceback(super().formatException(ei))
        return textwrap.indent(printable_lines(text), _INDENT)

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 - logging's name
        return textwrap.indent(printable_lines(_cut_traceback(stack_info)), _INDENT)


class CommandFormatter(TextFormatter):
    """`program: event field=value ...`, and of an exception what it says: for a command that a person runs."""

    def __init__(self, program: str) -> None:
        super().__init__(f"{program}: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        record.message = " ".join(record.getMessage().split())
        line = self.formatMessage(record)
        error = self.formatException(record.exc_info) if record.exc_info else record.exc_text
        return f"{line}: {error}" if error else line

    def formatException(self, ei: "_SysExcInfoType") -> str:  # noqa: N802 - logging's name
        return printable_line(repr(ei[1]))


class JsonFormatter(logging.Formatter):
    """One JSON object per line, with the keys time, level, logger, event, the fields, and exception and stack if there
    are any."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _cut(record.getMessage()),
        }
        line.update((key, _cut(value) if isinstance(value, str) else value) for key, value in _fields(record).items())
        if error := self.formatException(record.exc_info) if record.exc_info else record.exc_text:
            line["exception"] = _cut_traceback(error)
        if record.stack_info:
            line["stack"] = _cut_traceback(record.stack_info)
        return printable_json(line)


@dataclass(slots=True)
class _Allowance:
    """The bytes that may still be written. A line that does not fit any more is written whole, and later ones wait for
    it."""

    bucket: TokenBucket
    suppressed: int = 0  # lines that were not written since the last one that was


class LogStream(Protocol):
    """What a handler writes to."""

    def write(self, text: str, /) -> object:
        """Write a line with its end. Raises OSError when nothing of it was written."""
        ...

    def flush(self) -> None: ...


class WholeLines:
    """What a handler writes to, on a descriptor, which it does not own: a line is written whole or not at all. Of one
    that the disk has only in part room for, or a descriptor that does not block, the rest is written before the next.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""

    def write(self, text: str) -> None:
        """Raises OSError when nothing of `text` was written."""
        line = text.encode(errors="backslashreplace")
        if self._rest:
            self._rest = self._put(self._rest)
            if self._rest:
                raise BlockingIOError
        rest = self._put(line)
        if len(rest) == len(line):
            raise BlockingIOError
        self._rest = rest

    def flush(self) -> None:
        """Nothing is kept back that could be written."""

    def _put(self, line: bytes) -> bytes:
        """Write; returns what there is no room for."""
        while line:
            try:
                line = line[os.write(self._descriptor, line) :]
            except OSError:
                break
        return line


class BoundedHandler(logging.StreamHandler[LogStream]):
    """Writes each line unless its place in the code, or all places together, have written too much of late.

    The next line has `suppressed`: the number of lines that were not written, of its own place because of that place's
    bound, and of any place because of the one for all. Lines that cannot be written, on a full disk, count as well.
    Critical ones are always written.

    A warning or an error with the same event and fields as one that was written lately is counted; the number is in
    `times` of the next such line, of the first line that is written when that is overdue, or of the last ones.
    """

    def __init__(self, stream: LogStream, clock: Monotonic = monotonic) -> None:
        super().__init__(stream)
        self._clock = clock
        self._places: dict[tuple[str, int], _Allowance] = {}
        self._total = _Allowance(TokenBucket(_TOTAL_RATE, _TOTAL_BURST, clock))
        self._repeated = Repeated[logging.LogRecord](clock)

    def emit(self, record: logging.LogRecord) -> None:
        """Called with the handler's lock held."""
        self._tell(self._repeated.overdue())
        times = 1
        if record.levelno >= logging.WARNING:
            try:
                times = self._repeated.seen(_fact(record), self._without_objects(record))
            except Exception:
                self.handleError(record)
                return
        if times:
            self._tell([(record, times)])

    def close(self) -> None:
        """Write the counts that were not told yet."""
        with self.lock or nullcontext():
            self._tell(self._repeated.untold())
        super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """A line that cannot be made is told of as a line. Called while the exception is handled."""
        where = {"file": record.pathname, "line": record.lineno}
        told = logging.LogRecord(__name__, logging.ERROR, __file__, 0, "a log line could not be made", None, None)
        told.__dict__.update(where)
        told.exc_info = sys.exc_info()
        self._write(told)

    def _tell(self, records: list[tuple[logging.LogRecord, int]]) -> None:
        for record, times in records:
            told = record
            if times > 1:
                told = copy.copy(record)
                told.times = times
            self._write(told)

    def _without_objects(self, record: logging.LogRecord) -> logging.LogRecord:
        """A copy to be remembered: as text what could hold a connection or a buffer, through the frames of an exception
        too."""
        kept = copy.copy(record)
        kept.msg, kept.args = record.getMessage(), None
        if record.exc_info:
            kept.exc_text = (self.formatter or logging.Formatter()).formatException(record.exc_info)
        kept.exc_info = None
        for key, value in _fields(record).items():
            if not isinstance(value, _PLAIN):
                kept.__dict__[key] = str(value)
        return kept

    def _write(self, record: logging.LogRecord) -> None:
        place, total = self._place(record), self._total
        left = place.bucket.left
        if record.levelno < logging.CRITICAL:
            if left <= 0:
                place.suppressed += 1
                return
            if total.bucket.left <= (0 if left > _BURST - _QUIET else _KEPT_FOR_QUIET):
                total.suppressed += 1
                place.bucket.charge(min(left, _USUAL_LINE))  # so that it is not quiet while it goes on
                return
        if suppressed := place.suppressed + total.suppressed:
            record.suppressed = suppressed
        size = _LONGEST_TRACEBACK
        try:
            line = self.format(record) + self.terminator
            size = len(line.encode(errors="replace"))
            self.stream.write(line)
            self.flush()
        except OSError:
            place.suppressed += 1
            return
        except Exception:
            if record.pathname != __file__:
                self.handleError(record)
        else:
            place.suppressed = total.suppressed = 0
        place.bucket.charge(size)
        total.bucket.charge(size)

    def _place(self, record: logging.LogRecord) -> _Allowance:
        key = record.pathname, record.lineno
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = _Allowance(TokenBucket(_RATE, _BURST, self._clock))
        return place


def _fact(record: logging.LogRecord) -> tuple[object, ...]:
    """What a line says, apart from when."""
    error = repr(record.exc_info[1]) if record.exc_info else ""
    return record.pathname, record.lineno, record.getMessage(), str(_fields(record)), error, record.stack_info


def formatter(form: str) -> logging.Formatter:
    """That of a form, `text` or `json`."""
    return JsonFormatter() if form == "json" else TextFormatter()


def configure_command(program: str) -> None:
    """Write warnings and errors to stderr from now on, as lines of a command that a person runs."""
    handler = BoundedHandler(sys.stderr)
    handler.setFormatter(CommandFormatter(program))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def configure(*, form: str, level: str, stream: LogStream | None = None) -> None:
    """Log to `stream`, or to stderr, from now on. `form` is `text` or `json`; `level` is a name of a level of
    `logging`, in any case.

    At level `debug` lines are neither bounded nor counted.
    """
    to = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(to) if level.lower() == "debug" else BoundedHandler(to)
    handler.setFormatter(formatter(form))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
