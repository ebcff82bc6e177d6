"""portway.progress: the line that is kept up to date, and lines that stay."""

import io
import logging
import threading

import pytest
from portway.engine.engine import Status
from portway.progress import Progress, amount, describe
from portway_carrier.values import Counters


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_940, "99.9 kB"),
        (100_000, "100 kB"),
        (1_500_000, "1.5 MB"),
        (2_000_000_000, "2.0 GB"),
        (12_345_000_000_000_000, "12345.0 TB"),
    ],
)
def test_amounts_are_for_people(size: int, text: str) -> None:
    """Two digits at least, and a unit."""
    assert amount(size) == text


def test_the_line_says_how_things_stand() -> None:
    """Attached, or why not; visits so far and now; bytes from visitors and to them."""
    counters = Counters(bytes_in=2000, bytes_out=3, visits_started=5, visits_ended=3)
    assert describe(Status(1, True, "", counters)) == "attached · 5 visits, 2 now · 2.0 kB in, 3 B out"
    apart = describe(Status(1, False, "nobody\n  a: refused", counters))
    assert apart.startswith("reconnecting (nobody a: refused) · 5 visits")
    assert describe(Status(1, False, "", Counters())).startswith("reconnecting (lost its node) · ")


def test_the_live_line_is_replaced_and_taken_away() -> None:
    """Only when it says something new, and cut to the terminal's width."""
    terminal = Terminal()
    with Progress(terminal) as progress:
        progress.update("one")
        progress.update("one")
        progress.update("two " * 100)
    first, second, last = terminal.getvalue().split("\r\x1b[K")[1:]
    assert first == "one"
    assert second.startswith("two two")
    assert len(second) == 79
    assert last == ""


def test_what_is_logged_stays_above_the_live_line() -> None:
    """The line is taken away for it and drawn again below."""
    terminal = Terminal()
    with Progress(terminal) as progress:
        progress.update("live")
        logging.getLogger("portway.engine.link").warning("lost\n  %s", "twice")
    assert "\r\x1b[Kportway: lost twice\nlive" in terminal.getvalue()


def test_without_a_terminal_there_are_lines_alone() -> None:
    """No control characters, and nothing that is replaced."""
    stream = io.StringIO()
    with Progress(stream) as progress:
        progress.update("live")
        logging.getLogger("portway").info("attached")
        logging.getLogger("portway").debug("detail")
        logging.getLogger("portway_carrier").error("failed", exc_info=ValueError("why"))
    assert stream.getvalue() == "portway: attached\nportway: failed: ValueError('why')\n"


def test_a_dumb_terminal_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would show the control characters."""
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    with Progress(terminal) as progress:
        progress.update("live")
    assert terminal.getvalue() == ""


def test_nothing_is_logged_after_it() -> None:
    """The handler goes, and the logger's level is what it was."""
    stream = io.StringIO()
    level = logging.getLogger("portway").level
    with Progress(stream):
        pass
    logging.getLogger("portway").error("late")
    assert stream.getvalue() == ""
    assert logging.getLogger("portway").level == level


def test_a_stream_that_nobody_reads_ends_nothing() -> None:
    """Tunnels are worth more than their log."""
    with Progress(Broken()) as progress:
        progress.line("hello")


def test_it_waits_until_it_is_told_to_end() -> None:
    """Where there is no terminal it looks at nothing."""
    ended = threading.Event()
    ended.set()
    with Progress(io.StringIO()) as progress:
        progress.show_until(ended)
