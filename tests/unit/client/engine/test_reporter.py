"""portway.engine.reporter: what is news to a registry, and that nothing comes of a report that fails."""

import asyncio
from collections.abc import Sequence

import pytest
from portway.engine import reporter as reporting
from portway.engine.directory import Expected, Grant, Located, Node, RoundTrip
from portway.engine.reporter import REPORT_AFTER, REPORT_WITHIN, Reporter, is_news
from portway.errors import AuthError, UnreachableError
from portway_runtime.endpoints import Endpoint
from portway_runtime.tasks import Tasks

NODE = Node("fra-1", "fra", Endpoint("192.0.2.1", 443), "fra-1.node.portway.internal", "tunnels.test")


def located(ms: float, *, learned: bool) -> Located:
    """By a registry that expects this of the one node."""
    return Located((NODE,), b"ca", Grant("grant", 100.0), {"fra-1": Expected(ms, learned)})


class Directory:
    """Keeps what is reported, or raises."""

    def __init__(self, error: Exception | None = None) -> None:
        self.reports: list[Sequence[RoundTrip]] = []
        self.told = asyncio.Event()
        self._error = error

    async def report(self, round_trips: Sequence[RoundTrip]) -> None:
        self.reports.append(round_trips)
        self.told.set()
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize(
    ("ms", "at_least", "expected", "learned", "news"),
    [
        (12, False, 12, False, True),  # a guess by distance, confirmed
        (12, False, 12, True, False),
        (13.9, False, 12, True, False),  # nothing that would be told apart
        (15.1, False, 12, True, True),
        (120, False, 100, True, False),
        (70, False, 100, True, True),
        (12, True, 12, False, False),  # it may be as far as was thought
        (30, True, 100, True, False),
        (30, True, 12, True, True),
        (30, True, 12, False, True),
        (30, True, 0, False, True),
    ],
)
def test_what_a_registry_would_learn_from_is_news(
    ms: float, at_least: bool, expected: float, learned: bool, news: bool
) -> None:
    """What it said itself is not, nor a bound that it knew of."""
    assert is_news(RoundTrip("fra-1", ms, at_least), located(expected, learned=learned)) is news


def test_a_node_that_the_registry_did_not_name_is_news() -> None:
    """Whatever is known of it."""
    assert is_news(RoundTrip("other", 5), located(5, learned=True))


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause before a report."""
    monkeypatch.setattr(reporting, "REPORT_AFTER", 0.0)
    monkeypatch.setattr(reporting, "REPORT_WITHIN", 0.0)


@pytest.mark.usefixtures("at_once")
async def test_a_race_is_reported_whole_or_not_at_all() -> None:
    """One that taught nothing costs no call; of one that did the rest is told, too."""
    directory, tasks = Directory(), Tasks("test")
    reporter = Reporter(directory, tasks)  # type: ignore[arg-type]
    known, news = RoundTrip("fra-1", 12), RoundTrip("par-1", 40, at_least=True)
    reporter.tell([known], located(12, learned=True))
    assert len(tasks) == 0
    reporter.tell([known, news], located(12, learned=True))
    await directory.told.wait()
    assert directory.reports == [(known, news)]
    await tasks.close()


async def test_it_waits_until_everything_else_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some seconds, not the same for all; cancelled meanwhile, nothing is said."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    directory, tasks = Directory(), Tasks("test")
    for _ in range(20):
        Reporter(directory, tasks).tell([RoundTrip("fra-1", 5)], located(12, learned=True))  # type: ignore[arg-type]
    await tasks.over()
    assert len(directory.reports) == len(set(slept)) == 20
    assert all(REPORT_AFTER <= one <= REPORT_WITHIN for one in slept)
    monkeypatch.undo()
    Reporter(directory, tasks).tell([RoundTrip("fra-1", 5)], located(12, learned=True))  # type: ignore[arg-type]
    await tasks.close()
    assert len(directory.reports) == 20


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    "error", [UnreachableError("down"), AuthError("revoked"), RuntimeError("can't start new thread")]
)
async def test_a_report_that_is_lost_is_no_error(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Not even a line in the log, and it is not tried again."""
    failures: list[BaseException] = []
    directory, tasks = Directory(error), Tasks("test", failures.append)
    Reporter(directory, tasks).tell([RoundTrip("fra-1", 5)], located(12, learned=True))  # type: ignore[arg-type]
    await tasks.over()
    assert (len(directory.reports), failures, caplog.records) == (1, [], [])
    await tasks.close()
