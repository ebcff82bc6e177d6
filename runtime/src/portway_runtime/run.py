"""A server as a process: started, ready, stopped by a signal or by a part that failed."""

import asyncio
import json
import logging
import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from portway_runtime.secret_files import replace_file

logger = logging.getLogger(__name__)

STOPPED: Final = 0
FAILED: Final = 1

OnFailure = Callable[[BaseException], None]


class Server(Protocol):
    """What is run. `start` starts everything or nothing; `stop` may be called again."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


async def serve(
    make: Callable[[OnFailure], Server],
    *,
    ready_file: Path | None,
    addresses: Callable[[], Mapping[str, str | None]],
    on_hangup: Callable[[], None] | None = None,
) -> int:
    """Run the server that `make` makes until SIGTERM or SIGINT (STOPPED) or until a part of it fails (FAILED).

    `ready_file` holds `addresses()` as JSON while it serves. Signals mean what they do by default when it returns.
    Raises what `make` and `start` raise.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def end(code: int) -> None:
        if not ended.done():
            ended.set_result(code)

    handled: dict[signal.Signals, Callable[[], None]] = {
        signal.SIGTERM: partial(end, STOPPED),
        signal.SIGINT: partial(end, STOPPED),
    }
    if on_hangup is not None:
        handled[signal.SIGHUP] = on_hangup
    server = make(lambda error: end(FAILED))
    for number, handler in handled.items():
        loop.add_signal_handler(number, handler)
    try:
        return await _run(server, ended, ready_file, addresses)
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


async def _run(
    server: Server,
    ended: asyncio.Future[int],
    ready_file: Path | None,
    addresses: Callable[[], Mapping[str, str | None]],
) -> int:
    starting = asyncio.ensure_future(server.start())
    await asyncio.wait((starting, ended), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await server.stop()
        return ended.result()
    starting.result()
    try:
        if ready_file is not None:
            _write(ready_file, addresses())
        return await ended
    except OSError as error:
        logger.error("cannot write the ready file %s: %s", ready_file, error.strerror)
        return FAILED
    finally:
        if ready_file is not None:
            _remove(ready_file)
        await server.stop()


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.error("cannot remove the ready file %s: %s", path, error.strerror)


def _write(path: Path, addresses: Mapping[str, str | None]) -> None:
    """Whoever waits for the file reads it the moment it is there."""
    content = json.dumps({name: at for name, at in addresses.items() if at is not None}) + "\n"
    replace_file(path, content.encode(), mode=0o644, durable=False)
