"""Log lines: one event each, its fields as words or as JSON, and nothing that a peer says breaks out of its field."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from portway_runtime import logs
from portway_runtime.logs import JsonFormatter, TextFormatter


def record(message: str = "client attached", *arguments: object, **fields: Any) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"name": "portway_relay.x", "levelno": logging.INFO, "levelname": "INFO", "msg": message, "args": arguments}
    )
    made.__dict__.update(fields)
    return made


def test_text_has_the_event_and_then_its_fields() -> None:
    """Time and level first, for people who read a terminal."""
    line = TextFormatter().format(record(peer="192.0.2.1", tunnels=3))
    assert line.endswith("INFO    portway_relay.x: client attached peer=192.0.2.1 tunnels=3")


def test_an_event_without_fields_has_nothing_behind_it() -> None:
    """No space, no brackets."""
    assert TextFormatter().format(record("node stopped")).endswith("node stopped")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("two words", '"two words"'),
        ("", '""'),
        ('say "x"', '"say \\"x\\""'),
        ("a=b", '"a=b"'),
        ("line\n2026 ERROR forged", '"line\\n2026 ERROR forged"'),
        ("\x1b[31mred", '"\\u001b[31mred"'),
        ("next\u2028line", '"next\\u2028line"'),
        ("Zürich", "Zürich"),
        (None, "None"),
    ],
)
def test_a_field_is_one_word(value: object, shown: str) -> None:
    """Quoted where it would not be one: what a peer says cannot look like another field or another line."""
    line = TextFormatter().format(record(reason=value))
    assert line.endswith(f"client attached reason={shown}")
    assert "\n" not in line


def test_json_is_one_object_a_line() -> None:
    """Standard keys, then the fields as they are."""
    line = JsonFormatter().format(record("%d clients\nattached", 2, tunnels=3, node="fra-1"))
    assert "\n" not in line
    read = json.loads(line)
    assert read.pop("time").endswith("+00:00")
    assert read == {
        "level": "info",
        "logger": "portway_relay.x",
        "event": "2 clients\nattached",
        "tunnels": 3,
        "node": "fra-1",
    }


def test_json_shows_what_it_cannot_express_as_text() -> None:
    """A field is never the reason for a line that is lost."""
    assert json.loads(JsonFormatter().format(record(peer={1})))["peer"] == "{1}"


def test_json_has_the_traceback_in_the_object() -> None:
    """A program that reads lines is not given half a traceback."""
    try:
        raise ValueError("it broke")
    except ValueError as error:
        made = record(exc_info=(type(error), error, error.__traceback__))
    read = json.loads(JsonFormatter().format(made))
    assert "ValueError: it broke" in read["exception"]


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, given back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)


@pytest.mark.parametrize(("form", "kind"), [("json", JsonFormatter), ("text", TextFormatter)])
def test_configuring_replaces_what_was_there(
    root: logging.Logger, capsys: pytest.CaptureFixture[str], form: str, kind: type[logging.Formatter]
) -> None:
    """Every line goes to standard error, once, from the level on that was asked for."""
    logs.configure(form="text", level="debug")
    logs.configure(form=form, level="warning")
    assert len(root.handlers) == 1
    assert isinstance(root.handlers[0].formatter, kind)
    logging.getLogger("portway_relay.x").info("quiet")
    logging.getLogger("portway_relay.x").warning("loud")
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert "loud" in err
