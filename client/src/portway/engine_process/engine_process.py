"""EngineProcess: the engine of a program in a child process, as seen from the threads that open tunnels.

One child serves all tunnels of the program that ask for it. When it ends early (somebody killed it, or the system for
want of memory) another one is started, and opens what was open again under the same URLs: keys and addresses are kept
here. `running_engine_process` is the one of this process. Not here: one child (child_process.py), its program
(child.py).
"""

import atexit
import itertools
import logging
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import Final

from portway_runtime.backoff import Backoff
from portway_runtime.clocks import Monotonic, monotonic
from portway_runtime.errors import NoThread
from portway_runtime.os_threads import Event, make_lock
from portway_runtime.standard_streams import occupy_standard_descriptors
from portway_runtime.threads import start_thread
from portway_runtime.version import VERSION

from portway.engine_process.channel import Message
from portway.engine_process.child_process import START_WITHIN, ChildProcess
from portway.engine_process.messages import (
    before_from_message,
    error_from_message,
    log_record,
    request_to_message,
    warn,
)
from portway.errors import Error, RemoteError, TunnelLostError
from portway.fork_guard import fork_guard
from portway.tunnel import Before, Tunnel, TunnelRequest, tell_program

logger = logging.getLogger(__name__)

# Seconds. A child closes its tunnels within 2 at the program's end; one that does not is killed.
EXIT_TIMEOUT: Final = 3.0
# A child that lasts less than so many seconds is a failed start; after so many of them in a row tunnels are lost.
SOUND_AFTER: Final = 10.0
STARTS: Final = 5
# Seconds after a request's own time limit in which the child answers it, unless it is stuck.
ANSWER_WITHIN: Final = 5.0
# Seconds between two starts.
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0


class ProcessTunnel:
    """A tunnel as the program has it, whose engine is elsewhere."""

    def __init__(self, number: int, request: TunnelRequest) -> None:
        self.number = number
        self.request = request
        self.opening: Future[ProcessTunnel] = Future()
        self.closing: Future[None] = Future()
        self.sent = False  # whether a child was asked for it
        self.before: Before | None = None  # once it is open
        self.lost: TunnelLostError | None = None

    @property
    def public(self) -> Tunnel:
        """Its public address; it must be open."""
        assert self.before is not None
        return self.before.tunnel

    def opened(self, before: Before) -> None:
        """It is open, for the first time or again. The address stays that of the first time."""
        if self.before is not None:
            self.before = Before(before.private_key, self.before.tunnel, before.ticket or self.before.ticket)
            logger.info("tunnel %s… is open again, in another process", self.public.host[:4])
            return
        self.before = before
        if self.opening.set_running_or_notify_cancel():
            self.opening.set_result(self)

    def failed(self, error: Error) -> None:
        """It could not be opened, or is lost for good."""
        if self.before is None:
            if self.opening.set_running_or_notify_cancel():
                self.opening.set_exception(error)
            return
        self.lost = TunnelLostError(self.public.url, error)
        if not tell_program(self.lost, self.request.tunnel_lost):
            logger.error("tunnel %s… is lost for good: %s", self.public.host[:4], error)

    def closed(self) -> None:
        """It is closed, or was never opened."""
        if not self.closing.done():
            self.closing.set_result(None)


class EngineProcess:
    """The child that runs now, and the tunnels in it. Any thread opens and closes; one receives, and starts the next
    child."""

    def __init__(self, clock: Monotonic = monotonic) -> None:
        """Start a child; does not wait until it is ready. Raises InvalidError, RemoteError."""
        self._clock = clock
        self._numbers = itertools.count(1)
        self._tunnels: dict[int, ProcessTunnel] = {}
        self._closing: dict[int, ProcessTunnel] = {}
        self._lock = make_lock()  # for the tables, and for sending
        self._stopping = Event()
        self._ended = Event()
        self._over = False
        self._failure = ""  # what the child that runs now says of itself
        self._child: ChildProcess | None = ChildProcess()
        try:
            start_thread(self._run, "portway process")
        except NoThread as error:
            self._child.kill()
            self._child.wait()
            raise RemoteError(f"Portway's process could not start: {error}") from None

    @property
    def alive(self) -> bool:
        return not self._over and not self._stopping.is_set()

    def open(self, request: TunnelRequest) -> Future[ProcessTunnel]:
        """Begin to open a tunnel: in the next child, if the one that runs now has just ended. Raises RemoteError when
        there is no next one."""
        tunnel = ProcessTunnel(next(self._numbers), request)
        with self._lock:
            if not self.alive:
                raise RemoteError("Portway's process has ended: open the tunnel again")
            self._tunnels[tunnel.number] = tunnel
            self._send_open(tunnel)
        return tunnel.opening

    def withdraw(self, request: TunnelRequest) -> None:
        """Close the tunnel that `open` made of this very request. Does not wait."""
        with self._lock:
            for tunnel in [one for one in self._tunnels.values() if one.request is request]:
                self._close(tunnel)

    def release(self, held: ProcessTunnel) -> Future[None] | None:
        """Begin to close an open tunnel. None when it is closed already."""
        with self._lock:
            return held.closing if self._close(held) else None

    def stop(self) -> None:
        """Close every tunnel and end the child; waits EXIT_TIMEOUT at most. Can be called again."""
        with self._lock:
            self._stopping.set()
            child = self._child
            if child is not None:
                child.channel.end()
        if not self._ended.wait_among_others(EXIT_TIMEOUT) and child is not None:
            child.kill()
            self._ended.wait_among_others(EXIT_TIMEOUT)

    def abandon(self) -> None:
        """In a forked child: close this process's descriptors of the engine's process, and touch nothing else."""
        if self._child is not None:
            self._child.abandon()

    def _expect(self, tunnel: ProcessTunnel, child: ChildProcess) -> None:
        with suppress(NoThread):
            start_thread(lambda: self._expect_answer(tunnel, child), "portway opening")

    def _expect_answer(self, tunnel: ProcessTunnel, child: ChildProcess) -> None:
        """Kill the child if it does not say in time what became of the opening: what else is open in it comes back in
        another one."""
        answered = Event()
        tunnel.opening.add_done_callback(lambda _: answered.set())
        start = 0 if child.ready else START_WITHIN
        # The second wait is for an answer that has come while this program stood still, and is not read yet.
        if not answered.wait(start + tunnel.request.timeout) and not answered.wait(ANSWER_WITHIN):
            logger.warning("Portway's process does not answer: it is killed")
            child.kill()

    def _close(self, tunnel: ProcessTunnel) -> bool:
        """Returns whether the child has it, and will say when it is closed. Call it with the lock."""
        if self._tunnels.pop(tunnel.number, None) is None or self._child is None:
            return False
        self._closing[tunnel.number] = tunnel
        self._send({"close": tunnel.number})
        return True

    def _send_open(self, tunnel: ProcessTunnel) -> None:
        """Call it with the lock."""
        child = self._child
        if child is not None:
            request = request_to_message(tunnel.request, tunnel.before)
            if self._send({"open": tunnel.number, "request": request, **child.circumstances()}):
                tunnel.sent = True
                if tunnel.before is None:
                    self._expect(tunnel, child)

    def _send(self, message: Message) -> bool:
        """Returns False when the child had ended before. Call it with the lock."""
        if self._child is not None and not self._stopping.is_set():  # else it closes all tunnels by itself
            try:
                self._child.channel.send(message)
            except ConnectionError:
                return False  # the other thread sees the end
            except OSError:
                self._child.kill()  # it is stuck
        return True

    def _run(self) -> None:
        """The receiving thread."""
        pauses, starts = Backoff(FIRST_PAUSE, LONGEST_PAUSE), 0
        child = self._child
        while child is not None:
            since = self._clock()
            self._receive_all(child)
            with self._lock:
                self._child = None
            how = ended = f"{child.wait()}{self._failure and ': '}{self._failure}"
            if self._clock() - since >= SOUND_AFTER:
                pauses, starts = Backoff(FIRST_PAUSE, LONGEST_PAUSE), 0
            child = None
            while child is None and self._goes_on(how, starts):
                if starts and self._stopping.wait(pauses.next()):
                    continue
                starts += 1
                try:
                    child = self._start_again()
                except Error as error:
                    how = f"{ended}, and another one could not be started ({error})"
        self._ended.set()

    def _receive_all(self, child: ChildProcess) -> None:
        """Until the child has gone."""
        self._failure = ""
        try:
            while (message := child.channel.receive()) is not None:
                self._received(child, message)
        except TimeoutError:
            self._failure = "it did not start in time"
            child.kill()
        except Exception as error:
            logger.exception("Portway's process is not understood")
            self._failure = f"it is not understood ({error!r})"
            child.kill()

    def _received(self, child: ChildProcess, message: Message) -> None:
        match message:
            case {"log": fields}:
                log_record(fields)
            case {"warning": fields}:
                warn(fields)
            case {"ready": version}:
                child.ready = True
                child.channel.set_patience(0)
                if version != VERSION:
                    self._failure = f"it is of version {version}, the program of {VERSION}: start the program again"
                    child.kill()
            case {"failed": text}:
                self._failure = text.strip().rpartition("\n")[2]
                logger.error("Portway's process could not start: %s", text)
            case {"closed": number}:
                with self._lock:
                    tunnel = self._closing.pop(number, None)
                if tunnel is not None:
                    tunnel.closed()
            case {"opened": number, "before": before}:
                tunnel = self._tunnels.get(number)
                if tunnel is not None:
                    tunnel.opened(before_from_message(before))
            case {"refused": number, "error": error} | {"lost": number, "error": error}:
                with self._lock:
                    tunnel = self._tunnels.pop(number, None)
                if tunnel is not None:
                    tunnel.failed(error_from_message(error))

    def _goes_on(self, how: str, starts: int) -> bool:
        """A child has ended, or was not started: settle what ended with it. Returns whether another one is wanted."""
        reason = RemoteError(f"Portway's process {how}: open the tunnel again")
        with self._lock:
            closing = list(self._closing.values())
            self._closing.clear()
            stopping = self._stopping.is_set()
            ended = [tunnel for tunnel in self._tunnels.values() if tunnel.before is None and tunnel.sent]
            held = sum(tunnel.before is not None for tunnel in self._tunnels.values())
            wanted = len(self._tunnels) - len(ended)
            self._over = stopping or not wanted or starts >= STARTS
            if self._over:
                ended = list(self._tunnels.values())
            for tunnel in ended:
                del self._tunnels[tunnel.number]
        for tunnel in closing:
            tunnel.closed()
        if not stopping:
            if wanted:
                lost = "its tunnels are lost" if held else "no tunnel can be opened"
                what = lost if self._over else f"starting another one for {wanted} tunnels"
                logger.warning("Portway's process %s: %s", how, what)
            for tunnel in ended:
                tunnel.failed(reason)
        else:
            for tunnel in ended:
                tunnel.opening.cancel()  # who waits for it is told; has no effect on one that is open
        return not self._over

    def _start_again(self) -> ChildProcess:
        """Start another child and ask it for the tunnels. Raises Error."""
        with fork_guard:
            child = ChildProcess()
            with self._lock:
                self._child = child
                if self._stopping.is_set():
                    child.channel.end()
                for tunnel in self._tunnels.values():
                    self._send_open(tunnel)
        return child


_running: EngineProcess | None = None
_starting = threading.Lock()


def running_engine_process() -> EngineProcess:
    """The engine process of this program; starts one if none runs. Raises InvalidError, RemoteError."""
    global _running
    occupy_standard_descriptors()  # each time: the program may have closed them meanwhile
    with fork_guard, _starting:
        if _running is None or not _running.alive:
            _running = EngineProcess()
        return _running


def stop_engine_process() -> None:
    """Close every tunnel of this program that has its engine in a process, and end that process."""
    if _running is not None:
        _running.stop()


def _after_fork_in_child() -> None:
    global _running
    if _running is not None:
        _running.abandon()
        _running = None


def _nothing() -> None:
    """A fork waits for nothing here: no thread of this process uses TLS or gRPC."""


fork_guard.register(before=_nothing, after_in_parent=_nothing, after_in_child=_after_fork_in_child)
atexit.register(stop_engine_process)
