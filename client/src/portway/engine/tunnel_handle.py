"""TunnelHandle: one tunnel on the engine, from the thread or the event loop that opens it. Open, abandon, close."""

import logging
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, Final

from portway.engine.callers_loop import wait_for_result, wait_until_done
from portway.engine.engine import Engine
from portway.engine.engine_thread import EngineThread, result_of
from portway.errors import Error, RemoteError, TunnelLostError
from portway.tunnel import Tunnel, TunnelRequest

logger = logging.getLogger(__name__)

# Seconds. Closing a tunnel takes no round trip: only a loop that is stuck needs longer, and must not hang its program.
CLOSE_TIMEOUT: Final = 5.0


class TunnelHandle:
    """A tunnel that is being opened, or is open. In a forked child, which has no such tunnel, closing does nothing."""

    def __init__(self, thread: EngineThread, request: TunnelRequest) -> None:
        """Begin to open; wait with `result` or `wait`. Raises RemoteError when the engine does not run."""
        self._thread = thread
        self._request = request
        self._process = os.getpid()
        self._opening = thread.submit(lambda engine: engine.open(request))

    @property
    def ours(self) -> bool:
        """Whether this process began it, and not the parent that it was forked from."""
        return os.getpid() == self._process

    def result(self) -> Tunnel:
        """Block until it is open; the request's time limit applies. Raises as `forward` says."""
        try:
            return result_of(self._opening).public
        except CancelledError:
            raise _stopped() from None

    async def wait(self) -> Tunnel:
        """`result` for a caller on an event loop of its own. Raises InvalidError on one that is not known."""
        try:
            return (await wait_for_result(self._opening)).public
        except CancelledError:
            raise _stopped() from None

    def withdraw(self) -> None:
        """Leave nothing of an opening that failed or was interrupted. Does not wait."""
        if not self.ours:
            return
        self._opening.cancel()  # has no effect if the engine has just finished it; then this closes it:

        async def withdraw(engine: Engine) -> None:
            engine.withdraw(self._request)

        self._submit(withdraw)

    def close(self) -> TunnelLostError | None:
        """Close the open tunnel, CLOSE_TIMEOUT at most. Returns its loss, if it had been lost before."""
        if not self.ours:
            return None
        closing = self._release()
        if closing is not None:
            try:
                result_of(closing, CLOSE_TIMEOUT)
            except (CancelledError, TimeoutError):
                logger.warning("closing a tunnel took too long: its node notices when this process ends")
        return self._opening.result().lost

    async def wait_closed(self) -> TunnelLostError | None:
        """`close` for a caller on an event loop of its own."""
        if not self.ours:
            return None
        closing = self._release()
        if closing is not None:
            await wait_until_done(closing, CLOSE_TIMEOUT)
        return self._opening.result().lost

    def _release(self) -> Future[None] | None:
        held = self._opening.result()

        async def release(engine: Engine) -> None:
            engine.release(held)

        return self._submit(release)

    def _submit(self, make: Callable[[Engine], Coroutine[Any, Any, None]]) -> Future[None] | None:
        try:
            return self._thread.submit(make)
        except Error:
            return None  # the engine has ended, and its tunnels with it


def _stopped() -> RemoteError:
    return RemoteError("Portway's engine stopped while the tunnel was being opened: open it again")
