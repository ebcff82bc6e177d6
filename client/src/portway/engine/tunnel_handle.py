"""One tunnel on the engine, from the thread or the event loop that asked for it: open, give up, close."""

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Final

from portway.engine.engine import Engine
from portway.engine.engine_thread import EngineThread
from portway.errors import Error, RemoteError, TunnelLostError
from portway.tunnel import Tunnel, TunnelRequest

logger = logging.getLogger(__name__)

# Closing a tunnel takes no round trip: only a loop that is stuck needs longer, and must not hang its program.
CLOSE_TIMEOUT: Final = 5.0


class TunnelHandle:
    """A tunnel that is being opened, or is open. In a forked child, which has none of it, every method does nothing."""

    def __init__(self, engine: EngineThread, request: TunnelRequest) -> None:
        """Begin; the answer is waited for below. Raises RemoteError when the engine does not run."""
        self._engine = engine
        self._request = request
        self._process = os.getpid()
        self._future = engine.submit(lambda tunnels: tunnels.open(request))

    @property
    def ours(self) -> bool:
        """Whether it was this process that began it, and not one that forked it."""
        return os.getpid() == self._process

    def result(self) -> Tunnel:
        """Wait until it is open; the engine keeps the time limit. Raises what `Forwarding` says."""
        try:
            return self._future.result().opened
        except CancelledError:
            raise _stopped() from None

    async def wait(self) -> Tunnel:
        """`result` for a caller on an event loop of its own."""
        try:
            return (await asyncio.wrap_future(self._future)).opened
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # it was the caller who was cancelled
            raise _stopped() from None

    def withdraw(self) -> None:
        """Leave nothing of an opening that failed or was interrupted. Does not wait."""
        if not self.ours:
            return
        self._future.cancel()  # which may come too late to be noticed over there

        async def withdraw(tunnels: Engine) -> None:
            tunnels.withdraw(self._request)

        self._submit(withdraw)

    def close(self) -> TunnelLostError | None:
        """Close the tunnel that is open; why it had been lost before, if it was."""
        if not self.ours:
            return None
        closing = self._release()
        if closing is not None:
            try:
                closing.result(CLOSE_TIMEOUT)
            except (CancelledError, FutureTimeout):
                logger.warning("closing a tunnel took too long: its node notices when this process ends")
        return self._future.result().lost

    async def wait_closed(self) -> TunnelLostError | None:
        """`close` for a caller on an event loop of its own."""
        if not self.ours:
            return None
        closing = self._release()
        if closing is not None:
            await asyncio.wait([asyncio.wrap_future(closing)], timeout=CLOSE_TIMEOUT)
        return self._future.result().lost

    def _release(self) -> Future[None] | None:
        held = self._future.result()

        async def release(tunnels: Engine) -> None:
            tunnels.release(held)

        return self._submit(release)

    def _submit(self, make: Callable[[Engine], Coroutine[Any, Any, None]]) -> Future[None] | None:
        try:
            return self._engine.submit(make)
        except Error:
            return None  # the engine has ended, and its tunnels with it


def _stopped() -> RemoteError:
    return RemoteError("Portway's engine stopped while the tunnel was being opened: open it again")
