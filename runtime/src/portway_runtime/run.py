"""The life of a server process: its command line, start, ready, stop on a signal or on the failure of a part.

Here: signals, the ready file, the service manager, exit codes, and that everything on stderr is the log's. Not here:
what is started and in which order, which is the server's own.
"""

import argparse
import asyncio
import json
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol, TypeVar

from portway_runtime import logs
from portway_runtime.errors import RuntimeFault, UsageFault
from portway_runtime.event_loops import new_event_loop
from portway_runtime.garbage import collected_rarely
from portway_runtime.native_output import log_native_output
from portway_runtime.printable import printable_lines
from portway_runtime.secret_files import replace_file
from portway_runtime.service_manager import ServiceManager
from portway_runtime.uncaught import log_loop_errors, log_uncaught

logger = logging.getLogger(__name__)

STOPPED: Final = 0
FAILED: Final = 1
UNUSABLE_SETTINGS: Final = 2

OnFailure = Callable[[BaseException], None]


class Server(Protocol):
    """The server to run. `start` starts everything, or raises and leaves nothing behind; `stop` may be called again."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class Config(Protocol):
    """The settings that every server has."""

    @property
    def log_format(self) -> str: ...

    @property
    def log_level(self) -> str: ...


S = TypeVar("S", bound=Server)
C = TypeVar("C", bound=Config)


class ServerParser(argparse.ArgumentParser):
    """A server's command line. A wrong one raises UsageFault, for `run_program`."""

    def error(self, message: str) -> NoReturn:
        raise UsageFault(f"{self.format_usage()}{self.prog}: error: {message}", f"{self.prog}: {message}")


def run_program(
    program: str,
    load: Callable[[], C],
    run: Callable[[C], Coroutine[Any, Any, int]],
    *,
    faults: type[Exception],
    form: str,
) -> NoReturn:
    """Load the settings, log everything that is written to stderr from then on, run `run(settings)` on a new event
    loop, and exit with the code that it returns.

    A RuntimeFault or one of the program's own `faults` is one line, and the exit code is UNUSABLE_SETTINGS. Another
    exception is logged, and the exit code is FAILED.

    form: `text` or `json`, for what goes wrong before the settings are known.
    """
    try:
        config = load()
    except (faults, RuntimeFault) as error:
        _tell_fault(program, error, form)
        sys.exit(UNUSABLE_SETTINGS)
    log_native_output(form=config.log_format, level=config.log_level)
    log_uncaught()
    try:
        with asyncio.Runner(loop_factory=_make_loop) as runner:
            sys.exit(runner.run(run(config)))
    except (faults, RuntimeFault) as error:
        logger.critical("%s", _on_one_line(program, error))
        sys.exit(UNUSABLE_SETTINGS)
    except Exception:
        logger.critical("%s failed", program, exc_info=True)
        sys.exit(FAILED)


def _tell_fault(program: str, error: Exception, form: str) -> None:
    """Print why there are no settings. A registry's own words may be part of it."""
    if form == "json":
        record = logger.makeRecord(
            logger.name, logging.CRITICAL, __file__, 0, "%s", (_on_one_line(program, error),), None
        )
        print(logs.formatter(form).format(record), file=sys.stderr)
    elif isinstance(error, UsageFault):
        print(printable_lines(error.with_usage), file=sys.stderr)
    else:
        print(printable_lines(f"{program}: {error}"), file=sys.stderr)


def _on_one_line(program: str, error: Exception) -> str:
    told = str(error) if isinstance(error, UsageFault) else f"{program}: {error}"
    return "; ".join(line.strip() for line in told.splitlines())


def _make_loop() -> asyncio.AbstractEventLoop:
    loop = new_event_loop()
    log_loop_errors(loop)
    return loop


async def serve(
    make: Callable[[OnFailure], S],
    *,
    ready_file: Path | None,
    addresses: Callable[[S], Mapping[str, str | None]],
    on_hangup: Callable[[S], None],
    exit_codes: Mapping[type[BaseException], int] | None = None,
) -> int:
    """Run a server until SIGTERM or SIGINT, and return STOPPED; or until a part of it fails, and return FAILED.

    make: makes the server; it gets the function to call when a part fails.
    ready_file: exists while the server serves; holds `addresses(server)` as one JSON object, without those that
        are None.
    on_hangup: called with the server on SIGHUP, also while it starts; reads files again.
    exit_codes: returned in place of FAILED for failures of these types.

    The service manager is told when the server serves, reads files again, and begins to stop. A signal during `start`
    cancels it and stops the server. Raises what `make` and `start` raise. Signal handlers are removed when it returns.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def end(code: int) -> None:
        if not ended.done():
            ended.set_result(code)

    def fail(error: BaseException) -> None:
        codes = (exit_codes or {}).items()
        end(next((code for kind, code in codes if isinstance(error, kind)), FAILED))

    manager = ServiceManager()
    server = make(fail)

    def reload() -> None:
        with manager.reloading():
            on_hangup(server)

    handled: dict[signal.Signals, Callable[[], None]] = {
        signal.SIGTERM: partial(end, STOPPED),
        signal.SIGINT: partial(end, STOPPED),
        signal.SIGHUP: reload,
    }
    for number, handler in handled.items():
        loop.add_signal_handler(number, handler)
    try:
        return await _run(server, ended, manager, ready_file, addresses)
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


async def _run(
    server: S,
    ended: asyncio.Future[int],
    manager: ServiceManager,
    ready_file: Path | None,
    addresses: Callable[[S], Mapping[str, str | None]],
) -> int:
    starting = asyncio.ensure_future(server.start())
    await asyncio.wait((starting, ended), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        manager.stopping()
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await server.stop()
        return ended.result()
    starting.result()
    try:
        if ready_file is not None:
            _write(ready_file, addresses(server))
        manager.ready()
        with collected_rarely():
            return await ended
    except OSError as error:
        logger.error("cannot write the ready file %s: %s", ready_file, error.strerror)
        return FAILED
    finally:
        manager.stopping()
        if ready_file is not None:
            _remove(ready_file)
        await server.stop()


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.error("cannot remove the ready file %s: %s", path, error.strerror)


def _write(path: Path, addresses: Mapping[str, str | None]) -> None:
    """Write the ready file in one step: a process that waits for it reads it as soon as it exists."""
    content = json.dumps({name: at for name, at in addresses.items() if at is not None}) + "\n"
    replace_file(path, content.encode(), mode=0o644, durable=False)
