"""The format of log lines: text for people, JSON for programs.

A log call names the event and gives its fields as `extra`. Both formats show the event first and the fields after it.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

_QUOTED: Final = frozenset(' "=')
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """The fields that the log call gave as `extra`."""
    return {key: value for key, value in record.__dict__.items() if key not in _STANDARD}


def _text(value: object) -> str:
    """A field's value as one word: quoted and escaped if it has a space, a quote, `=` or an unprintable character.

    So text from a peer cannot imitate another field or another line.
    """
    text = str(value)
    return (
        text
        if text and text.isprintable() and not set(text) & _QUOTED
        else json.dumps(text, ensure_ascii=not text.isprintable())
    )


class TextFormatter(logging.Formatter):
    """`time level logger: event field=value ...`"""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        fields = " ".join(f"{key}={_text(value)}" for key, value in _fields(record).items())
        line = super().formatMessage(record)
        return f"{line} {fields}" if fields else line


class JsonFormatter(logging.Formatter):
    """One JSON object per line, with the keys time, level, logger, event, the fields, and exception if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update(_fields(record))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def configure(*, form: str, level: str) -> None:
    """Log to stderr from now on. `form` is `text` or `json`; `level` is a name of a level of `logging`, in any case."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
