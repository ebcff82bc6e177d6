"""The engine's thread, seen from the threads that open tunnels: start, calls with an answer, fork, the end.

Not here: anything that runs on its loop (tunnels.py).
"""

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Final, TypeVar

from portway.engine.binding import Binding
from portway.engine.tunnels import Status, Tunnels
from portway.errors import Error, RemoteError, TunnelLostError
from portway.forwarding import Request
from portway.tunnel import Tunnel

logger = logging.getLogger(__name__)

T = TypeVar("T")

# At interpreter exit GOAWAY has so long to leave; the node notices a closed connection anyhow.
EXIT_TIMEOUT: Final = 2.0
# Closing a tunnel takes no round trip: only a loop that is stuck needs longer, and must not hang its program.
CLOSE_TIMEOUT: Final = 5.0


class Engine:
    """One event loop in a daemon thread, and the tunnels on it."""

    def __init__(self) -> None:
        self._started = threading.Event()
        self._tunnels: Tunnels | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="portway", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._failure is None and self._thread.is_alive()

    def begin(self, request: Request) -> "Opening":
        """Begin to open a tunnel; the answer is waited for on what is returned."""
        return Opening(self, self.submit(lambda tunnels: tunnels.open(request)))

    def submit(self, make: Callable[[Tunnels], Coroutine[Any, Any, T]]) -> Future[T]:
        """Run `make(tunnels)` on the engine's loop. Raises RemoteError when the engine could not start."""
        self._started.wait()
        if self._tunnels is None or self._loop is None:
            raise RemoteError(f"Portway's engine could not start: {self._failure!r}")
        coroutine = make(self._tunnels)
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            raise RemoteError("Portway's engine has stopped; open the tunnel again") from None

    def status(self) -> Status:
        """What is going on, for people to look at."""

        async def ask(tunnels: Tunnels) -> Status:
            return tunnels.status()

        return self.submit(ask).result(CLOSE_TIMEOUT)

    def stop(self) -> None:
        """Withdraw every tunnel and end the thread; waits EXIT_TIMEOUT at the most. May be called again."""
        self._started.wait(EXIT_TIMEOUT)
        if self._loop is not None and self._stopping is not None:
            try:
                self._loop.call_soon_threadsafe(self._stopping.set)
            except RuntimeError:
                return
        self._thread.join(EXIT_TIMEOUT)

    def abandon(self) -> None:
        """In a forked child: let go of the descriptors of the parent's connections, and touch nothing else."""
        if self._tunnels is not None:
            self._tunnels.carrier.abandon()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(self._main())
        except BaseException as error:
            logger.exception("Portway's engine ended early")
            self._failure = error
        finally:
            self._started.set()

    async def _main(self) -> None:
        from portway_proto.carry.select import make_carrier

        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        tunnels = Tunnels(make_carrier(), on_failure=self._fail)
        self._tunnels = tunnels
        self._started.set()
        try:
            await self._stopping.wait()
        finally:
            await tunnels.close(self._failure)

    def _fail(self, error: BaseException) -> None:
        """A background task ended early: the tunnels are told, and the next one gets a new engine."""
        self._failure = error
        if self._stopping is not None:
            self._stopping.set()


class Opening:
    """One tunnel, from the thread that asked for it. In a forked child every method does nothing."""

    def __init__(self, engine: Engine, future: Future[Binding]) -> None:
        self._engine = engine
        self._future = future
        self._process = os.getpid()

    def result(self) -> Tunnel:
        """Wait until it is open; the engine keeps the time limit. Raises what `Forwarding` says."""
        try:
            return self._future.result().opened
        except CancelledError:
            raise RemoteError("Portway's engine stopped while the tunnel was being opened; open it again") from None

    async def wait(self) -> Tunnel:
        """`result` for a caller on an event loop of its own."""
        return (await asyncio.wrap_future(self._future)).opened

    def withdraw(self) -> None:
        """Leave nothing of an opening that failed or was interrupted. Does not wait."""
        if os.getpid() == self._process and not self._future.cancel() and self._future.exception() is None:
            self._close()

    def close(self) -> TunnelLostError | None:
        """Close the tunnel; why it had been lost before, if it was."""
        if os.getpid() != self._process:
            return None
        closing = self._close()
        if closing is not None:
            try:
                closing.result(CLOSE_TIMEOUT)
            except (CancelledError, FutureTimeout):
                logger.warning("closing a tunnel took too long; its node notices when this process ends")
        return self._future.result().lost

    async def wait_closed(self) -> TunnelLostError | None:
        """`close` for a caller on an event loop of its own."""
        if os.getpid() != self._process:
            return None
        closing = self._close()
        if closing is not None:
            await asyncio.wait([asyncio.wrap_future(closing)], timeout=CLOSE_TIMEOUT)
        return self._future.result().lost

    def _close(self) -> Future[None] | None:
        binding = self._future.result()

        async def release(tunnels: Tunnels) -> None:
            tunnels.release(binding)

        try:
            return self._engine.submit(release)
        except Error:
            return None  # the engine has ended, and its tunnels with it


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed (the extra `uvloop`)."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


_engine: Engine | None = None
_lock = threading.Lock()
# Engines of parent processes. Never freed: their sockets' numbers must not be closed twice.
_inherited: list[Engine] = []


def running_engine() -> Engine:
    """The engine of this process, started when there is none."""
    global _engine
    with _lock:
        if _engine is None or not _engine.alive:
            _engine = Engine()
        return _engine


def _after_fork_in_child() -> None:
    global _engine, _lock
    _lock = threading.Lock()
    if _engine is not None:
        _inherited.append(_engine)
        _engine.abandon()
        _engine = None


def stop_engine() -> None:
    """Withdraw every tunnel of this process and end its engine; the next tunnel starts another."""
    if _engine is not None:
        _engine.stop()


# Holding the lock over a fork keeps the child from inheriting an engine that is half made.
os.register_at_fork(
    before=lambda: _lock.acquire(), after_in_parent=lambda: _lock.release(), after_in_child=_after_fork_in_child
)
atexit.register(stop_engine)
