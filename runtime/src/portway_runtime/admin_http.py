"""Health and metrics pages over plain HTTP, for the operator's own network.

Import this module late: importing aiohttp takes 0.2 s.
"""

import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from portway_runtime.endpoints import Endpoint
from portway_runtime.listening import endpoint_of

# Seconds for requests in progress when the server closes; a page is made in less.
_CLOSE_WITHIN: Final = 1.0
_TEXT: Final = "text/plain; charset=utf-8"
# The text format of Prometheus.
METRICS: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Page:
    """An answer to GET."""

    body: bytes
    status: int = 200
    content_type: str = _TEXT


def health_page(not_healthy: str, ok: str = "ok") -> Page:
    """200 with `ok` when `not_healthy` is empty, else 503 with that reason."""
    return Page(f"{not_healthy or ok}\n".encode(), 503 if not_healthy else 200)


class AdminHttp:
    """An HTTP server for pages, from `start` to `close`."""

    def __init__(self, pages: Mapping[str, Callable[[], Page]]) -> None:
        """`pages`: by path, such as "/healthz", the function that makes the page; it is called for each request."""
        self._pages = pages
        self._runner: web.AppRunner | None = None

    async def start(self, sockets: Sequence[socket.socket]) -> Endpoint:
        """Serve on these listening sockets and own them. Returns the address of the first."""
        application = web.Application()
        for path, page in self._pages.items():
            application.router.add_get(path, _handler(page))
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=_CLOSE_WITHIN)
        await self._runner.setup()
        for sock in sockets:
            await web.SockSite(self._runner, sock).start()
        return endpoint_of(sockets[0].getsockname())

    async def close(self) -> None:
        """Stop listening. May be called again."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


def _handler(make: Callable[[], Page]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        page = make()
        return web.Response(body=page.body, status=page.status, headers={"Content-Type": page.content_type})

    return handle
