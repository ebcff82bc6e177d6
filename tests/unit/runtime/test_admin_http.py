"""The admin pages, over real HTTP."""

import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping

import aiohttp
import pytest
from portway_runtime.admin_http import METRICS, AdminHttp, Page, health_page
from portway_runtime.endpoints import Endpoint
from portway_runtime.listening import open_sockets
from portway_testkit.processes.ports import free_port

LOOPBACK = Endpoint("127.0.0.1", 0)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


class Admin:
    """A server, its address, and pages that a test may change."""

    def __init__(self, pages: Mapping[str, Callable[[], Page]]) -> None:
        self.http = AdminHttp(pages)
        self.endpoint = LOOPBACK

    async def start(self, endpoint: Endpoint = LOOPBACK) -> str:
        self.endpoint = await self.http.start(open_sockets(endpoint))
        return f"http://{self.endpoint}"


async def test_a_page_is_made_for_each_request(session: aiohttp.ClientSession) -> None:
    """With its status, its content type and its body."""
    problem = ["no registry yet", ""]
    admin = Admin({"/readyz": lambda: health_page(problem.pop(0))})
    url = await admin.start() + "/readyz"
    async with session.get(url) as answer:
        assert (answer.status, await answer.text()) == (503, "no registry yet\n")
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    async with session.get(url) as answer:
        assert (answer.status, await answer.text()) == (200, "ok\n")
    await admin.http.close()


async def test_pages_are_found_by_their_path(session: aiohttp.ClientSession) -> None:
    """Anything else is not found, and only GET and HEAD are answered."""
    admin = Admin({"/healthz": lambda: health_page("", "serving"), "/metrics": lambda: Page(b"up 1\n", 200, METRICS)})
    url = await admin.start()
    async with session.get(url + "/healthz") as answer:
        assert await answer.read() == b"serving\n"
    async with session.get(url + "/metrics") as answer:
        assert (await answer.read(), answer.headers["Content-Type"]) == (b"up 1\n", METRICS)
    async with session.head(url + "/metrics") as answer:
        assert answer.status == 200
    async with session.get(url + "/") as answer:
        assert answer.status == 404
    async with session.post(url + "/healthz") as answer:
        assert answer.status == 405
    await admin.http.close()


async def test_a_page_that_fails_is_an_error_of_the_server(
    session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, its text goes to nobody, and the other pages stay."""

    def broken() -> Page:
        raise RuntimeError("inner matter")

    admin = Admin({"/metrics": broken, "/healthz": lambda: health_page("")})
    url = await admin.start()
    with caplog.at_level(logging.ERROR):
        async with session.get(url + "/metrics") as answer:
            assert (answer.status, b"inner matter" in await answer.read()) == (500, False)
    assert "inner matter" in caplog.text
    async with session.get(url + "/healthz") as answer:
        assert answer.status == 200
    await admin.http.close()


async def test_every_address_of_a_host_is_served(session: aiohttp.ClientSession) -> None:
    """`[::]` is IPv4 as well."""
    admin = Admin({"/healthz": lambda: health_page("")})
    await admin.start(Endpoint("::", 0))
    for host in ("127.0.0.1", "[::1]"):
        async with session.get(f"http://{host}:{admin.endpoint.port}/healthz") as answer:
            assert answer.status == 200
    await admin.http.close()


async def test_closing_frees_the_port_and_may_be_repeated() -> None:
    """Also before anything was started."""
    admin = Admin({})
    await admin.http.close()
    await admin.start(Endpoint("127.0.0.1", free_port()))
    await admin.http.close()
    await admin.http.close()
    with pytest.raises(ConnectionRefusedError), socket.create_connection((admin.endpoint.host, admin.endpoint.port)):
        pass
