"""The program of the child process: an engine that does what the channel says, and tells what becomes of it.

The main thread receives, the engine has its own thread, and a third one sends, so that a program that does not read
holds up no visitor. Not here: how it is started, and what it finds then (child_process.py).
"""

import asyncio
import faulthandler
import logging
import os
import queue
import signal
import traceback
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from portway_runtime.clocks import Monotonic, monotonic
from portway_runtime.threads import start_thread
from portway_runtime.version import VERSION

from portway.engine_process.channel import Channel, Message
from portway.engine_process.messages import (
    before_to_message,
    error_to_message,
    record_to_message,
    request_from_message,
    warning_to_message,
)
from portway.errors import Error, QuotaError, RemoteError, TunnelLostError, UnreachableError
from portway.tunnel import TunnelRequest

logger = logging.getLogger(__name__)

# Signals that a terminal or a service manager sends to everybody. The program decides what they mean, and closes this
# process.
_FOR_THE_PROGRAM: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
# Log lines that wait to be sent while the program does not read; further ones are dropped.
_MOST_LINES: Final = 1000
# Seconds that one try may take at least when a tunnel of a process that has ended comes back. Nobody waits for it, and
# its request's limit may be too short for a new session.
RETURN_WITHIN: Final = 30.0
# Seconds for which it is tried against a quota. Nodes and registries forget what has gone within this.
QUOTA_WITHIN: Final = 300.0
# Seconds. Nothing outlives the program for longer, whatever hangs.
_END_WITHIN: Final = 10.0


def main() -> int:
    """Run until the channel, which is standard input, ends. Returns the exit code."""
    _detach()
    channel = _take_channel()
    sender = _Sender(channel)
    try:
        logging.basicConfig(level=1, handlers=[_ChannelHandler(sender)], force=True)
        logging.raiseExceptions = False
        warnings.simplefilter("default")
        warnings.showwarning = sender.show_warning
        from portway.engine.engine_thread import stop_engine
    except BaseException:
        sender.send({"failed": traceback.format_exc()})
        sender.finish()
        return 1
    sender.send({"ready": VERSION})
    tunnels = _Tunnels(sender)
    while (message := channel.receive()) is not None:
        tunnels.received(message)
    faulthandler.dump_traceback_later(_END_WITHIN, exit=True)
    stop_engine()
    sender.finish()
    return 0


def _detach() -> None:
    """A session of its own: Ctrl-C and the end of a terminal are for the program alone."""
    for number in _FOR_THE_PROGRAM:
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):  # it leads one already
        os.setsid()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _take_channel() -> Channel:
    """Close what else was inherited; the channel gets a descriptor that no child of this process would. What it sends
    waits for the program as long as there is one: it may be stopped (Ctrl-Z, a debugger), or its log handlers be slow,
    and it keeps its tunnels."""
    try:
        inherited = [int(name) for name in os.listdir("/dev/fd")]  # noqa: PTH208 - importing pathlib takes 4 ms
    except OSError:
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # slow where there are many
    else:
        for descriptor in inherited:
            if descriptor > 2:
                os.closerange(descriptor, descriptor + 1)  # unlike close, it says nothing of one that is closed
    channel = Channel(os.dup(0), send_timeout=0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return channel


class _Sender:
    """A thread that sends what the others give it, in order."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._waiting: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._done: Future[None] = Future()
        start_thread(self._run, "portway sender")

    def send(self, message: Message) -> None:
        """Any thread may call it; does not wait."""
        self._waiting.put(message)

    def log(self, record: logging.LogRecord) -> None:
        """Send a log line, unless too many wait."""
        if self._waiting.qsize() < _MOST_LINES:
            self.send({"log": record_to_message(record)})

    def show_warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: Any = None,
        line: str | None = None,
    ) -> None:
        """In place of warnings.showwarning."""
        self.send({"warning": warning_to_message(message, category, filename, lineno)})

    def finish(self) -> None:
        """Wait until everything is sent, or cannot be."""
        self._waiting.put(None)
        self._done.result()

    def _run(self) -> None:
        try:
            while (message := self._waiting.get()) is not None:
                self._channel.send(message)
        except OSError:
            pass  # the program has gone: the main thread sees the end
        finally:
            self._done.set_result(None)


class _ChannelHandler(logging.Handler):
    """Every log line goes to the program, whose loggers decide."""

    def __init__(self, sender: _Sender) -> None:
        super().__init__()
        self._sender = sender

    def emit(self, record: logging.LogRecord) -> None:
        self._sender.log(record)


class _Tunnels:
    """The tunnels that the program has or waits for, by their numbers. Used on the main thread; the engine's tells what
    becomes of them."""

    def __init__(self, sender: _Sender) -> None:
        self._sender = sender
        self._requests: dict[int, TunnelRequest] = {}
        self._openings: dict[int, Future[Any]] = {}
        self._reasons: set[str] = set()  # why tunnels are not back yet, as far as it was logged

    def received(self, message: Message) -> None:
        """Do what the program says."""
        if "open" in message:
            _adopt(message)
            self._open(message["open"], message["request"])
        elif "close" in message:
            self._close(message["close"])

    def _open(self, number: int, fields: Message) -> None:
        from portway.engine.engine_thread import running_engine

        def lost(error: TunnelLostError) -> None:
            self._forget(number)
            self._sender.send({"lost": number, "error": error_to_message(error.reason)})

        def refused(error: BaseException) -> None:
            self._forget(number)
            self._sender.send({"refused": number, "error": error_to_message(error)})

        def done(opening: Future[Any]) -> None:
            try:
                before = opening.result().kept
            except CancelledError:
                refused(RemoteError("Portway's engine stopped while the tunnel was being opened: open it again"))
            except BaseException as error:
                refused(error)
            else:
                self._sender.send({"opened": number, "before": before_to_message(before)})

        request = request_from_message(fields, lost)
        if request.before is not None:
            request = replace(request, timeout=max(request.timeout, RETURN_WITHIN))
        try:
            engine = running_engine()
            opening = engine.open(request) if request.before is None else engine.submit(self._returning(request))
        except Error as error:
            refused(error)
            return
        self._requests[number], self._openings[number] = request, opening
        opening.add_done_callback(done)

    def _returning(self, request: TunnelRequest) -> Callable[[Any], Coroutine[Any, Any, Any]]:
        return lambda engine: come_back(engine, request, self._reasons)

    def _forget(self, number: int) -> None:
        """The program does not close what was refused or lost. Any thread may call it."""
        self._requests.pop(number, None)
        self._openings.pop(number, None)

    def _close(self, number: int) -> None:
        from portway.engine.engine_thread import running_engine

        def closed(_: object = None) -> None:
            self._sender.send({"closed": number})

        request, opening = self._requests.pop(number, None), self._openings.pop(number, None)
        if request is None or opening is None:
            closed()
            return
        opening.cancel()  # has no effect if the engine has just finished it; then this closes it:
        try:
            closing = running_engine().submit(lambda engine: _withdraw(engine, request))
        except Error:
            closed()  # the engine has ended, and its tunnels with it
        else:
            closing.add_done_callback(closed)


async def _withdraw(engine: Any, request: TunnelRequest) -> None:
    engine.withdraw(request)


async def come_back(
    engine: Any,
    request: TunnelRequest,
    reasons: set[str],
    clock: Monotonic = monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Any:
    """Open a tunnel of a process that has ended. As for any tunnel that is open, what may pass is waited for: a quota
    for QUOTA_WITHIN. `reasons`: those that were logged, for all tunnels that come back."""
    from portway.engine.failures import pauses

    quota_until = clock() + QUOTA_WITHIN
    for pause in pauses():
        await sleep(pause)
        try:
            return await engine.open(request)
        except (UnreachableError, RemoteError, QuotaError) as error:
            if isinstance(error, QuotaError) and clock() >= quota_until:
                raise
            reason = str(error)
            logger.log(logging.DEBUG if reason in reasons else logging.WARNING, "not attached yet: %s", reason)
            reasons.add(reason)
    raise AssertionError("pauses have no end")


def _adopt(message: Message) -> None:
    """See what an engine in the program would: the environment and the current folder."""
    environment = message.get("environment")
    if environment is not None and environment != dict(os.environ):
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
    if "folder" in message:
        with suppress(OSError):
            os.chdir(message["folder"])
