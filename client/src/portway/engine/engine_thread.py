"""EngineThread: the engine's thread, as seen from the threads that open tunnels. Start, calls, forks, the end.

`running_engine` is the one of this process. Not here: one tunnel's opening and closing (tunnel_handle.py), what runs on
the thread's loop (engine.py).
"""

import asyncio
import atexit
import encodings.idna  # noqa: F401 - otherwise TLS imports it at the first connection, when a fork may interrupt it
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from portway_runtime.descriptors import demand_descriptors
from portway_runtime.errors import NoThread, RuntimeFault
from portway_runtime.event_loops import new_event_loop
from portway_runtime.os_threads import Event, make_lock
from portway_runtime.standard_streams import occupy_standard_descriptors
from portway_runtime.threads import start_thread

from portway.engine.callers_loop import result_of
from portway.engine.engine import Engine, Status
from portway.engine.held_tunnel import HeldTunnel
from portway.errors import Error, RemoteError
from portway.fork_guard import fork_guard
from portway.tunnel import TunnelRequest

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds. Time for GOAWAY to be sent at interpreter exit; without it the node notices that the connection closes.
EXIT_TIMEOUT: Final = 2.0
# Seconds. The loop gets to a callback within milliseconds; a fork does not wait longer for one that is stuck.
PAUSE_TIMEOUT: Final = 1.0
# Seconds. A status takes no round trip: only a loop that is stuck needs longer.
STATUS_TIMEOUT: Final = 5.0


class EngineThread:
    """A daemon thread with one event loop, and the engine on it."""

    def __init__(self) -> None:
        """Start; returns when the engine takes calls, or has failed to start. Raises RemoteError when there is no
        thread for it."""
        self._started = Event()
        self._ended = Event()
        self._ident = 0
        self._engine: Engine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._submitting = make_lock()
        self._resumed = Event()
        self._ending = False
        try:
            start_thread(self._run, "portway")
        except NoThread as error:
            raise RemoteError(f"Portway's engine could not start: {error}") from None
        self._started.wait()

    @property
    def alive(self) -> bool:
        return not self._ending and self._failure is None and not self._ended.is_set()

    def submit(self, make: Callable[[Engine], Coroutine[Any, Any, T]]) -> Future[T]:
        """Run `make(engine)` on the engine's loop. Raises RemoteError when the engine does not run."""
        if self._engine is None or self._loop is None:
            raise RemoteError(f"Portway's engine could not start: {_reason(self._failure)}")
        # A call that is submitted under this lock before the end begins is cancelled by the end: none waits for ever.
        with self._submitting:
            if self._ending:
                raise RemoteError("Portway's engine has stopped: open the tunnel again")
            return asyncio.run_coroutine_threadsafe(make(self._engine), self._loop)

    def open(self, request: TunnelRequest) -> Future[HeldTunnel]:
        """Begin to open a tunnel. Raises RemoteError when the engine does not run."""
        return self.submit(lambda engine: engine.open(request))

    def withdraw(self, request: TunnelRequest) -> None:
        """Close the tunnel that `open` made of this very request, if it was made. Does not wait."""

        async def withdraw(engine: Engine) -> None:
            engine.withdraw(request)

        self._submit_if_running(withdraw)

    def release(self, held: HeldTunnel) -> Future[None] | None:
        """Begin to close an open tunnel. None when the engine has ended, and its tunnels with it."""

        async def release(engine: Engine) -> None:
            engine.release(held)

        return self._submit_if_running(release)

    def _submit_if_running(self, make: Callable[[Engine], Coroutine[Any, Any, None]]) -> Future[None] | None:
        try:
            return self.submit(make)
        except Error:
            return None

    def status(self) -> Status:
        """The state of all tunnels. Raises RemoteError, TimeoutError."""

        async def ask(engine: Engine) -> Status:
            return engine.status()

        return result_of(self.submit(ask), STATUS_TIMEOUT)

    def stop(self) -> None:
        """Close every tunnel and end the thread; waits EXIT_TIMEOUT at most. Can be called again."""
        if self._loop is not None and self._stopping is not None:
            try:
                self._loop.call_soon_threadsafe(self._stopping.set)
            except RuntimeError:
                pass  # it has ended
        self._ended.wait_among_others(EXIT_TIMEOUT)

    def pause(self) -> None:
        """Before a fork: stop between two callbacks, where no library that the loop uses holds a lock."""
        if self._loop is None or threading.get_ident() == self._ident:
            return  # the fork happens inside one of its callbacks
        paused, self._resumed = Event(), Event()

        def wait(resumed: Event = self._resumed) -> None:
            paused.set()
            resumed.wait(PAUSE_TIMEOUT)

        try:
            self._loop.call_soon_threadsafe(wait)
        except RuntimeError:
            return  # it has ended
        paused.wait(PAUSE_TIMEOUT)

    def resume(self) -> None:
        """After `pause`: go on."""
        self._resumed.set()

    def abandon(self) -> None:
        """In a forked child: close this process's descriptors of the parent's connections, and touch nothing else."""
        if self._engine is not None:
            self._engine.carrier.abandon()

    def _run(self) -> None:
        self._ident = threading.get_ident()
        try:
            demand_descriptors()
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(self._main())
        except BaseException as error:
            logger.exception("Portway's engine ended early")
            self._failure = error
        finally:
            self._started.set()
            self._ended.set()

    async def _main(self) -> None:
        from portway_carrier.select import make_carrier

        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        engine = Engine(make_carrier(), on_failure=self._fail)
        self._engine = engine
        self._started.set()
        try:
            await self._stopping.wait()
        finally:
            with self._submitting:
                self._ending = True
            await engine.close(self._failure)

    def _fail(self, error: BaseException) -> None:
        """A background task ended early: this engine's tunnels are lost, and the next tunnel starts another engine."""
        self._failure = error
        if self._stopping is not None:
            self._stopping.set()


def _reason(failure: BaseException | None) -> str:
    """Faults of the runtime say what to do; of others the kind is needed too."""
    return str(failure) if isinstance(failure, RuntimeFault) else repr(failure)


_running: EngineThread | None = None
_starting = threading.Lock()
# Engines of parent processes. Never freed: freeing them would close descriptors a second time.
_inherited: list[EngineThread] = []


def running_engine() -> EngineThread:
    """The engine of this process; starts one if none runs. Raises RemoteError when there is no thread for it."""
    global _running
    occupy_standard_descriptors()  # each time: the program may have closed them meanwhile
    with fork_guard, _starting:
        if _running is None or not _running.alive:
            _running = EngineThread()
        return _running


def stop_engine() -> None:
    """Close every tunnel of this process and end its engine; the next tunnel starts another."""
    if _running is not None:
        _running.stop()


def _before_fork() -> None:
    if _running is not None:
        _running.pause()


def _after_fork_in_parent() -> None:
    if _running is not None:
        _running.resume()


def _after_fork_in_child() -> None:
    global _running
    if _running is not None:
        _inherited.append(_running)
        _running.abandon()
        _running = None


fork_guard.register(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
atexit.register(stop_engine)
