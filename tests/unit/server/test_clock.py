"""This machine's clock beside that of a web server."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from portway_server.clock import clock_ahead, judge_clock

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("ahead", "says"),
    [
        (timedelta(seconds=59), ""),
        (timedelta(seconds=-60), ""),
        (timedelta(hours=1), "3600 s ahead"),
        (timedelta(hours=-1), "3600 s behind"),
        (timedelta(days=-400), "400 days behind"),
    ],
)
def test_a_minute_is_tolerated(ahead: timedelta, says: str) -> None:
    told = judge_clock(ahead)
    assert (says in told, bool(told)) == (True, bool(says))


@pytest.fixture
async def server() -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.Response:
        shown = "Mon, 30 Nov 2026 11:00:00 GMT" if request.path == "/" else "soon"
        return web.Response(headers={"Date": shown})

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_the_server_s_date_is_compared(server: str) -> None:
    assert await clock_ahead(server + "/", lambda: NOW) == timedelta(hours=1)


async def test_a_server_that_does_not_say_is_no_fault(server: str) -> None:
    """Nor one that is not there."""
    assert await clock_ahead(server + "/other", lambda: NOW) is None
    assert await clock_ahead("http://127.0.0.1:1/", lambda: NOW) is None
