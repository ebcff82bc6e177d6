"""TunnelHandle: one tunnel on an engine, from the thread or the event loop that opens it. Open, abandon, close.

The engine may be this process's own (engine_thread.py) or one in a child process (../engine_process/).
"""

import logging
import os
from concurrent.futures import CancelledError, Future
from typing import Final, Generic, Protocol, TypeVar

from portway.engine.callers_loop import result_of, wait_for_result, wait_until_done
from portway.errors import RemoteError, TunnelLostError
from portway.tunnel import Tunnel, TunnelRequest

logger = logging.getLogger(__name__)

# Seconds. Closing a tunnel takes no round trip: only a loop that is stuck needs longer, and must not hang its program.
CLOSE_TIMEOUT: Final = 5.0


class OpenTunnel(Protocol):
    """A tunnel as an engine holds it."""

    lost: TunnelLostError | None

    @property
    def public(self) -> Tunnel:
        """Its public address."""


Held = TypeVar("Held", bound=OpenTunnel)


class TunnelEngine(Protocol[Held]):
    """What opens and closes tunnels. Any thread may call it."""

    def open(self, request: TunnelRequest) -> Future[Held]:
        """Begin to open a tunnel. Raises RemoteError when the engine does not run."""

    def withdraw(self, request: TunnelRequest) -> None:
        """Close the tunnel that `open` made of this very request, if it was made. Does not wait."""

    def release(self, held: Held) -> Future[None] | None:
        """Begin to close an open tunnel. None when the engine has ended, and its tunnels with it."""


class TunnelHandle(Generic[Held]):
    """A tunnel that is being opened, or is open. In a forked child, which has no such tunnel, closing does nothing."""

    def __init__(self, engine: TunnelEngine[Held], request: TunnelRequest) -> None:
        """Begin to open; wait with `result` or `wait`. Raises RemoteError when the engine does not run."""
        self._engine = engine
        self._request = request
        self._process = os.getpid()
        self._opening = engine.open(request)

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
        self._engine.withdraw(self._request)

    def close(self) -> TunnelLostError | None:
        """Close the open tunnel, CLOSE_TIMEOUT at most. Returns its loss, if it had been lost before."""
        if not self.ours:
            return None
        held = self._opening.result()
        closing = self._engine.release(held)
        if closing is not None:
            try:
                result_of(closing, CLOSE_TIMEOUT)
            except (CancelledError, TimeoutError):
                logger.warning("closing a tunnel took too long: its node notices when this process ends")
        return held.lost

    async def wait_closed(self) -> TunnelLostError | None:
        """`close` for a caller on an event loop of its own."""
        if not self.ours:
            return None
        held = self._opening.result()
        closing = self._engine.release(held)
        if closing is not None:
            await wait_until_done(closing, CLOSE_TIMEOUT)
        return held.lost


def _stopped() -> RemoteError:
    return RemoteError("Portway's engine stopped while the tunnel was being opened: open it again")
