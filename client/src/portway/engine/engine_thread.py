"""The engine's thread, seen from the threads that open tunnels: start, calls with an answer, fork, the end.

Not here: one tunnel's opening and closing (opening.py), anything that runs on its loop (tunnels.py).
"""

import asyncio
import atexit
import encodings.idna  # noqa: F401 - TLS would import it at the first connection, where a fork may catch it half done
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from portway_runtime.descriptors import demand_descriptors

from portway.engine.engine import Engine, Status
from portway.errors import RemoteError
from portway.fork_guard import fork_guard

logger = logging.getLogger(__name__)

T = TypeVar("T")

# At interpreter exit GOAWAY has so long to leave; the node notices a closed connection anyhow.
EXIT_TIMEOUT: Final = 2.0
# The loop gets to what it is told within milliseconds; a fork does not wait for one that is stuck.
HALT_TIMEOUT: Final = 1.0
# A status takes no round trip: only a loop that is stuck needs longer.
STATUS_TIMEOUT: Final = 5.0


class EngineThread:
    """One event loop in a daemon thread, and the tunnels on it."""

    def __init__(self) -> None:
        """Start it; returns when it takes calls, or could not start."""
        self._started = threading.Event()
        self._tunnels: Engine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._submitting = threading.Lock()
        self._going_on = threading.Event()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="portway", daemon=True)
        self._thread.start()
        self._started.wait()

    @property
    def alive(self) -> bool:
        return not self._ending and self._failure is None and self._thread.is_alive()

    def submit(self, make: Callable[[Engine], Coroutine[Any, Any, T]]) -> Future[T]:
        """Run `make(tunnels)` on the engine's loop. Raises RemoteError when the engine does not run."""
        if self._tunnels is None or self._loop is None:
            raise RemoteError(f"Portway's engine could not start: {self._failure!r}")
        # Whatever is submitted under this lock before the end begins is cancelled by it, and so never waits for ever.
        with self._submitting:
            if self._ending:
                raise RemoteError("Portway's engine has stopped: open the tunnel again")
            return asyncio.run_coroutine_threadsafe(make(self._tunnels), self._loop)

    def status(self) -> Status:
        """What is going on, for people to look at. Raises RemoteError, TimeoutError."""

        async def ask(tunnels: Engine) -> Status:
            return tunnels.status()

        return self.submit(ask).result(STATUS_TIMEOUT)

    def stop(self) -> None:
        """Withdraw every tunnel and end the thread; waits EXIT_TIMEOUT at the most. May be called again."""
        if self._loop is not None and self._stopping is not None:
            try:
                self._loop.call_soon_threadsafe(self._stopping.set)
            except RuntimeError:
                pass  # it has ended
        self._thread.join(EXIT_TIMEOUT)

    def halt(self) -> None:
        """Before a fork: stand still between two callbacks, where no library of the loop's holds a lock."""
        if self._loop is None or threading.current_thread() is self._thread:
            return  # the fork is one of its callbacks
        standing, self._going_on = threading.Event(), threading.Event()

        def stand_still(going_on: threading.Event = self._going_on) -> None:
            standing.set()
            going_on.wait(HALT_TIMEOUT)

        try:
            self._loop.call_soon_threadsafe(stand_still)
        except RuntimeError:
            return  # it has ended
        standing.wait(HALT_TIMEOUT)

    def go_on(self) -> None:
        """After `halt`."""
        self._going_on.set()

    def abandon(self) -> None:
        """In a forked child: let go of the descriptors of the parent's connections, and touch nothing else."""
        if self._tunnels is not None:
            self._tunnels.carrier.abandon()

    def _run(self) -> None:
        try:
            demand_descriptors()
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(self._main())
        except BaseException as error:
            logger.exception("Portway's engine ended early")
            self._failure = error
        finally:
            self._started.set()

    async def _main(self) -> None:
        from portway_carrier.select import make_carrier

        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        tunnels = Engine(make_carrier(), on_failure=self._fail)
        self._tunnels = tunnels
        self._started.set()
        try:
            await self._stopping.wait()
        finally:
            with self._submitting:
                self._ending = True
            await tunnels.close(self._failure)

    def _fail(self, error: BaseException) -> None:
        """A background task ended early: the tunnels are told, and the next one gets a new engine."""
        self._failure = error
        if self._stopping is not None:
            self._stopping.set()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed (the extra `uvloop`)."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


_engine: EngineThread | None = None
_starting = threading.Lock()
# Engines of parent processes. Never freed: their sockets' numbers must not be closed twice.
_inherited: list[EngineThread] = []


def running_engine() -> EngineThread:
    """The engine of this process, started when there is none."""
    global _engine
    with fork_guard, _starting:
        if _engine is None or not _engine.alive:
            _engine = EngineThread()
        return _engine


def stop_engine() -> None:
    """Withdraw every tunnel of this process and end its engine; the next tunnel starts another."""
    if _engine is not None:
        _engine.stop()


def _after_fork_in_child() -> None:
    global _engine
    if _engine is not None:
        _inherited.append(_engine)
        _engine.abandon()
        _engine = None


def _halt_engine() -> None:
    if _engine is not None:
        _engine.halt()


def _let_engine_go_on() -> None:
    if _engine is not None:
        _engine.go_on()


fork_guard.register(before=_halt_engine, after_in_parent=_let_engine_go_on, after_in_child=_after_fork_in_child)
atexit.register(stop_engine)
