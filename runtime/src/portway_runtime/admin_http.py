"""Health and metrics over plain HTTP, for the operator's network alone. Imported only when it is asked for."""

from collections.abc import Callable

from aiohttp import web
from portway_relay.config import Endpoint
from portway_relay.errors import ListenError
from portway_relay.net.listener import open_sockets

# Whoever reads health and metrics has been answered by then.
_CLOSE_WITHIN = 1.0


class AdminHttp:
    """/healthz says that the process runs, /readyz that clients and visitors may come, /metrics counts."""

    def __init__(self, metrics: Callable[[], bytes], not_ready: Callable[[], str]) -> None:
        """`not_ready` gives the reason why nobody may come; empty when they may."""
        self._metrics = metrics
        self._not_ready = not_ready
        self._runner: web.AppRunner | None = None

    async def start(self, endpoint: Endpoint) -> Endpoint:
        """Listen; returns where. Raises ListenError."""
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._show_metrics)
        try:
            sockets = open_sockets(endpoint)
        except ListenError as error:
            raise ListenError(f"--admin-listen: {error}") from error
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=_CLOSE_WITHIN)
        await self._runner.setup()
        for sock in sockets:
            await web.SockSite(self._runner, sock).start()
        host, port = sockets[0].getsockname()[:2]
        return Endpoint(host, port)

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        reason = self._not_ready()
        return web.Response(status=503, text=reason + "\n") if reason else web.Response(text="ready\n")

    async def _show_metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
