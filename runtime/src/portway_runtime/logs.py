"""Log lines: text for people, JSON for programs, and a bound on how much one event writes.

A log call names the event and gives its fields as `extra`. Both formats show the event first and the fields after it.
Peers decide how often many events happen, so each place in the code that logs, and all of them together, may write a
number of bytes per hour, and the line that is written next counts those that were not. What a peer sent may be in the
event, in a field and in the text of an exception: in none of them can it control a terminal or look like another line.
"""

import logging
import sys
import textwrap
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TextIO

from portway_runtime.clocks import Monotonic, monotonic
from portway_runtime.printable import printable_json, printable_line, printable_lines
from portway_runtime.rates import TokenBucket

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

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        fields = " ".join(f"{key}={_text(value)}" for key, value in _fields(record).items())
        record.message = _cut(record.message)
        line = printable_line(super().formatMessage(record))
        return f"{line} {fields}" if fields else line

    def formatException(self, ei: "_SysExcInfoType") -> str:  # noqa: N802 - logging's name
        text = _cut_traceback(super().formatException(ei))
        return textwrap.indent(printable_lines(text), _INDENT)

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 - logging's name
        return textwrap.indent(printable_lines(stack_info), _INDENT)


class JsonFormatter(logging.Formatter):
    """One JSON object per line, with the keys time, level, logger, event, the fields, and exception if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _cut(record.getMessage()),
        }
        line.update((key, _cut(value) if isinstance(value, str) else value) for key, value in _fields(record).items())
        if record.exc_info:
            line["exception"] = _cut_traceback(self.formatException(record.exc_info))
        return printable_json(line)


@dataclass(slots=True)
class _Allowance:
    """The bytes that may still be written. A line that does not fit any more is written whole, and later ones wait for
    it."""

    bucket: TokenBucket
    suppressed: int = 0  # lines that were not written since the last one that was


class BoundedHandler(logging.StreamHandler[TextIO]):
    """Writes each line unless its place in the code, or all places together, have written too much of late.

    The next line has `suppressed`: the number of lines that were not written, of its own place because of that place's
    bound, and of any place because of the one for all.
    """

    def __init__(self, stream: TextIO, clock: Monotonic = monotonic) -> None:
        super().__init__(stream)
        self._clock = clock
        self._places: dict[tuple[str, int], _Allowance] = {}
        self._total = _Allowance(TokenBucket(_TOTAL_RATE, _TOTAL_BURST, clock))

    def emit(self, record: logging.LogRecord) -> None:
        """Called with the handler's lock held."""
        place, total = self._place(record), self._total
        left = place.bucket.left
        if left <= 0:
            place.suppressed += 1
            return
        if total.bucket.left <= (0 if left > _BURST - _QUIET else _KEPT_FOR_QUIET):
            total.suppressed += 1
            place.bucket.charge(min(left, _USUAL_LINE))  # so that it is not quiet while it goes on
            return
        if suppressed := place.suppressed + total.suppressed:
            record.suppressed = suppressed
            place.suppressed = total.suppressed = 0
        size = _LONGEST_TRACEBACK
        try:
            line = self.format(record) + self.terminator
            size = len(line.encode(errors="replace"))
            self.stream.write(line)
            self.flush()
        except Exception:
            self.handleError(record)  # writes a traceback to stderr
        place.bucket.charge(size)
        total.bucket.charge(size)

    def _place(self, record: logging.LogRecord) -> _Allowance:
        key = record.pathname, record.lineno
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = _Allowance(TokenBucket(_RATE, _BURST, self._clock))
        return place


def configure(*, form: str, level: str) -> None:
    """Log to stderr from now on. `form` is `text` or `json`; `level` is a name of a level of `logging`, in any case.

    At level `debug` lines are not bounded.
    """
    handler = logging.StreamHandler(sys.stderr) if level.lower() == "debug" else BoundedHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
