"""How log lines look: for people, or as JSON for programs."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

_QUOTED: Final = frozenset(' "=')
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """What the call gave as `extra`."""
    return {key: value for key, value in record.__dict__.items() if key not in _STANDARD}


def _text(value: object) -> str:
    """A field as one word: quoted where it would not be one. What a peer said must not look like another line."""
    text = str(value)
    return (
        text
        if text and text.isprintable() and not set(text) & _QUOTED
        else json.dumps(text, ensure_ascii=not text.isprintable())
    )


class TextFormatter(logging.Formatter):
    """`time level event field=value ...`"""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        fields = " ".join(f"{key}={_text(value)}" for key, value in _fields(record).items())
        line = super().formatMessage(record)
        return f"{line} {fields}" if fields else line


class JsonFormatter(logging.Formatter):
    """One object a line."""

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
    """Log to stderr from now on, as `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
