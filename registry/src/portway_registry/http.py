"""/metrics and /healthz over plain HTTP, for the operator's network alone. Imported only when it is asked for."""

from collections.abc import Callable

from aiohttp import web

from portway_registry.config import Address
from portway_registry.errors import ConfigError


class HttpServer:
    """Serves both pages until it is closed."""

    def __init__(self, metrics: Callable[[], bytes], healthy: Callable[[], bool]) -> None:
        self._metrics = metrics
        self._healthy = healthy
        self._runner: web.AppRunner | None = None

    async def start(self, address: Address) -> Address:
        """Listen; returns where. Raises ConfigError when the address cannot be used."""
        application = web.Application()
        application.router.add_get("/metrics", self._show_metrics)
        application.router.add_get("/healthz", self._show_health)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, address.host, address.port).start()
        except OSError as error:
            await self.close()
            raise ConfigError(f"cannot listen at --metrics-listen {address}: {error.strerror}") from error
        return Address(address.host, self._runner.addresses[0][1])

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _show_metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _show_health(self, request: web.Request) -> web.Response:
        if self._healthy():
            return web.Response(text="ok\n")
        return web.Response(status=503, text="stopping\n")
