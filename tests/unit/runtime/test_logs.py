"""Log lines: one event each, its fields as words or as JSON, and nothing that a peer says breaks out of its field."""

import gc
import io
import json
import logging
import resource
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from portway_runtime import logs
from portway_runtime.logs import BoundedHandler, CommandFormatter, JsonFormatter, TextFormatter, WholeLines


def record(message: str = "client attached", *arguments: object, **fields: Any) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"name": "portway_relay.x", "levelno": logging.INFO, "levelname": "INFO", "msg": message, "args": arguments}
    )
    made.__dict__.update(fields)
    return made


def broken(what: str) -> logging.LogRecord:
    """A record with the traceback of an error that says `what`."""
    try:
        raise ValueError(what)
    except ValueError as error:
        return record(exc_info=(type(error), error, error.__traceback__))


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


def test_an_event_is_one_line_that_controls_no_terminal() -> None:
    """Also where a peer's words are part of it."""
    line = TextFormatter().format(record("refused: %s", "no\n2026 ERROR forged\x1b[2J\x9b2J"))
    assert line.endswith("refused: no\ufffd2026 ERROR forged\ufffd[2J\ufffd2J")


def test_a_traceback_looks_like_no_event() -> None:
    """Its lines are indented, whatever the exception says."""
    line = TextFormatter().format(broken("it broke\n2026 ERROR forged\x1b[2J"))
    first, *others = line.split("\n")
    assert first.endswith("client attached")
    assert others[0] == "  Traceback (most recent call last):"
    assert others[-2:] == ["  ValueError: it broke", "  2026 ERROR forged\ufffd[2J"]


def test_json_controls_no_terminal_either() -> None:
    """Every control character is escaped, C1 too, which JSON itself allows."""
    line = JsonFormatter().format(record("refused: %s", "\x1b[2J\x9b2J\x7f", reason="\x9b2J"))
    assert line.isprintable()
    assert json.loads(line)["reason"] == "\x9b2J"


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
    read = json.loads(JsonFormatter().format(broken("it broke")))
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


class Bounded:
    """A handler with a clock of the test's, and what it has written."""

    def __init__(self) -> None:
        self.now = 0.0
        self.stream = io.StringIO()
        self.handler = BoundedHandler(self.stream, lambda: self.now)
        self.handler.setFormatter(TextFormatter())

    def log(self, place: int = 1, size: int = 100, character: str = "x", **fields: Any) -> None:
        made = record(character * size, **fields)
        made.pathname, made.lineno = "module.py", place
        self.handler.handle(made)

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


@pytest.mark.parametrize("character", ["x", "\N{MAHJONG TILE RED DRAGON}"])
def test_a_place_that_logs_without_end_is_bounded(character: str) -> None:
    """Whatever a peer repeats: an hour of it is less than 60 KB, and other places go on."""
    bounded = Bounded()
    for second in range(3_600):
        bounded.now = float(second)
        for _ in range(5):
            bounded.log(character=character)
    assert len(bounded.stream.getvalue().encode()) < 60_000
    before = len(bounded.lines)
    bounded.log(place=2)
    assert len(bounded.lines) == before + 1
    assert "suppressed" not in bounded.lines[-1]


def test_the_next_line_counts_what_was_not_written() -> None:
    """The count is a field; it begins anew then."""
    bounded = Bounded()
    bounded.log(size=900)
    for _ in range(40):
        bounded.log(size=900)
    written = len(bounded.lines)
    assert 10 < written < 25
    bounded.now = 200.0
    bounded.log()
    assert bounded.lines[-1].endswith(f"suppressed={41 - written}")
    bounded.log()
    assert "suppressed" not in bounded.lines[-1]


@pytest.mark.parametrize("size", [10, 100, 900])
def test_all_places_together_are_bounded(size: int) -> None:
    """However many places peers make log, and as long as they can: an hour of it is less than 1 MB."""
    bounded = Bounded()
    for second in range(0, 3_600, 2):
        bounded.now = float(second)
        for place in range(60):
            bounded.log(place=place, size=size, character="\N{MAHJONG TILE RED DRAGON}")
    written = len(bounded.stream.getvalue().encode())
    assert 500_000 < written < 1_000_000


def test_a_quiet_place_is_heard_beside_loud_ones() -> None:
    """An error that nobody repeats is in the log at any time, with the number of lines that there was no room for."""
    bounded = Bounded()
    for second in range(0, 3_600, 5):
        bounded.now = float(second)
        for place in range(60):
            bounded.log(place=place, size=900)
        if second % 600 == 0 and second:
            before = len(bounded.lines)
            bounded.log(place=100)
            assert len(bounded.lines) == before + 1
            assert int(bounded.lines[-1].rpartition("suppressed=")[2]) > 0
            bounded.log(place=101)
            assert "suppressed" not in bounded.lines[-1]


def test_no_line_is_lost_from_the_count() -> None:
    """What was written, what was told and what is still to be told is what was logged."""
    bounded = Bounded()
    for place in range(40):
        for _ in range(20):
            bounded.log(place=place, size=900)
    bounded.now = 1_000_000.0
    for place in range(40):
        bounded.log(place=place)
    told = sum(int(line.rpartition("suppressed=")[2]) for line in bounded.lines if "suppressed=" in line)
    assert told + len(bounded.lines) == 40 * 21


def test_long_texts_are_cut() -> None:
    """A peer's text of any length is a short field, and a traceback keeps its end."""
    assert len(TextFormatter().format(record("x" * 50_000, reason="y" * 50_000))) < 2_500
    try:
        raise ValueError("x" * 50_000 + " it broke")
    except ValueError as error:
        made = record(exc_info=(type(error), error, error.__traceback__))
    for formatter in (TextFormatter(), JsonFormatter()):
        line = formatter.format(made)
        assert len(line) < 5_000
        assert "it broke" in line
        made.exc_text = None


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
def test_a_line_that_cannot_be_formatted_fails_nobody(capsys: pytest.CaptureFixture[str], level: int) -> None:
    """A line says so, a few times, and where it was logged; nothing goes past the log."""
    bounded = Bounded()
    for _ in range(100):
        made = record("%d", "no number")
        made.pathname, made.lineno, made.levelno = "module.py", 1, level
        bounded.handler.handle(made)
    events = [line for line in bounded.lines if not line.startswith("  ")]
    assert 1 <= len(events) < 40
    assert "a log line could not be made file=module.py line=1" in events[0]
    assert capsys.readouterr() == ("", "")


def warning(reason: str, line: int = 1) -> logging.LogRecord:
    made = record("no registry", reason=reason)
    made.levelno, made.levelname, made.pathname, made.lineno = logging.WARNING, "WARNING", "module.py", line
    return made


def test_a_warning_that_repeats_is_one_line_and_its_number() -> None:
    """The number is told with the next line that is written after a minute, whichever it is; other reasons and other
    places are facts of their own, and what is no warning is never counted."""
    bounded = Bounded()
    for _ in range(20):
        bounded.handler.handle(warning("refused"))
        bounded.handler.handle(warning("timed out"))
    bounded.handler.handle(warning("refused", line=2))
    assert [line.partition("no registry ")[2] for line in bounded.lines] == [
        "reason=refused",
        'reason="timed out"',
        "reason=refused",
    ]
    bounded.now = 60.0
    bounded.log()
    assert [line.partition("no registry ")[2] for line in bounded.lines[3:]] == [
        "reason=refused times=19",
        'reason="timed out" times=19',
        "",
    ]
    bounded.log()
    assert len(bounded.lines) == 7


def test_what_was_counted_is_told_at_the_end() -> None:
    """A program that ends within the minute has told everything."""
    bounded = Bounded()
    for _ in range(3):
        bounded.handler.handle(warning("refused"))
    bounded.handler.close()
    assert [line.partition("reason=")[2] for line in bounded.lines] == ["refused", "refused times=2"]


class Held:
    """An object that a log call can hold, as it holds a connection."""

    def fail(self) -> None:
        raise OSError("it broke")

    def __str__(self) -> str:
        return "held"


@pytest.mark.parametrize(
    ("formatter", "shown"),
    [
        (TextFormatter(), ["Traceback (most recent call last):", "OSError: it broke", "times=2"]),
        (JsonFormatter(), ["Traceback (most recent call last):", "OSError: it broke", '"times": 2']),
        (CommandFormatter("portway"), ["portway: held failed", "times=2: OSError('it broke')"]),
    ],
    ids=["text", "json", "command"],
)
def test_what_is_counted_holds_no_object(formatter: logging.Formatter, shown: list[str]) -> None:
    """Neither in the frames of its exception, nor in its arguments and fields; and is told whole."""
    bounded = Bounded()
    bounded.handler.setFormatter(formatter)

    def repeat() -> weakref.ref[Held]:
        held = Held()
        for _ in range(3):
            try:
                held.fail()
            except OSError as error:
                made = record("%s failed", held, field=held, exc_info=(type(error), error, error.__traceback__))
                made.levelno, made.pathname, made.lineno = logging.WARNING, "module.py", 1
                bounded.handler.handle(made)
        return weakref.ref(held)

    held = repeat()
    gc.collect()
    assert held() is None
    bounded.handler.close()
    told = "\n".join(bounded.lines[1:])
    assert all(part in told for part in [*shown, "held failed"]), told


def test_a_critical_line_is_always_written() -> None:
    """Last words are not left out because there were many before."""
    bounded = Bounded()
    for _ in range(400):
        bounded.log(size=900)
    made = record("Fatal Python error: Aborted")
    made.levelno, made.pathname, made.lineno = logging.CRITICAL, "module.py", 1
    before = len(bounded.lines)
    bounded.handler.handle(made)
    assert len(bounded.lines) == before + 1


def test_a_full_disk_tears_no_line(tmp_path: Path) -> None:
    """Of a line with room for a part the rest is written before the next line; those without any room are counted."""
    written = tmp_path / "log"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with written.open("wb") as file:
        handler = BoundedHandler(WholeLines(file.fileno()), lambda: 0.0)
        handler.setFormatter(JsonFormatter())
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limit[1]))
        try:
            for number in range(40):
                handler.handle(record("y" * 150, number=number))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert written.stat().st_size == 1_000
        handler.handle(record("again"))
    told = [json.loads(line) for line in written.read_text().splitlines()]
    assert [line.get("number") for line in told] == [*range(len(told) - 1), None]
    assert told[-1]["event"] == "again"
    assert told[-1]["suppressed"] == 40 - (len(told) - 1) > 0


def test_a_line_is_formatted_once() -> None:
    """Its size is that of the line that is written."""
    bounded, formatted = Bounded(), list[logging.LogRecord]()

    class Counting(TextFormatter):
        def format(self, record: logging.LogRecord) -> str:
            formatted.append(record)
            return super().format(record)

    bounded.handler.setFormatter(Counting())
    bounded.log()
    assert len(formatted) == len(bounded.lines) == 1


def test_lines_are_not_bounded_at_level_debug(root: logging.Logger) -> None:
    """Who asks for everything gets it."""
    logs.configure(form="text", level="DEBUG")
    assert not isinstance(root.handlers[0], BoundedHandler)
    logs.configure(form="text", level="info")
    assert isinstance(root.handlers[0], BoundedHandler)
