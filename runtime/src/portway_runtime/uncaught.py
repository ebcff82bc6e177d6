"""What Python itself would print past the log, as log lines: exceptions that nobody catches, and warnings.

Here: those of the main thread, of other threads, of finalizers, of an event loop. For programs of ours alone: all but
`log_loop_errors` changes the whole process. Not here: what is not Python's (native_output.py).
"""

import sys
import threading
import warnings
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TextIO

if TYPE_CHECKING:
    import asyncio
    import logging
    from sys import UnraisableHookArgs

_OWN_KEYS: Final = frozenset({"message", "exception"})


def log_uncaught() -> None:
    """From now on log uncaught exceptions and warnings of this process."""
    sys.excepthook = _uncaught
    sys.unraisablehook = _unraisable
    threading.excepthook = _thread_ended
    warnings.showwarning = _warned


def log_loop_errors(loop: "asyncio.AbstractEventLoop") -> None:
    """Log what an event loop calls its exception handler with: failures of callbacks, exceptions of futures that
    nobody asked for."""
    loop.set_exception_handler(_loop_error)


def _logger() -> "logging.Logger":
    import logging  # here: a command that only prints its help needs none

    return logging.getLogger(__name__)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        _logger().info("interrupted")
    else:
        _logger().critical("uncaught exception", exc_info=(kind, error, trace))


def _thread_ended(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        name = args.thread.name if args.thread is not None else ""
        error = args.exc_value if args.exc_value is not None else args.exc_type()
        _logger().error(
            "a thread ended early", extra={"thread_name": name}, exc_info=(args.exc_type, error, args.exc_traceback)
        )


def _unraisable(args: "UnraisableHookArgs") -> None:
    error = args.exc_value if args.exc_value is not None else args.exc_type()
    _logger().error(
        "%s",
        (args.err_msg or "Exception ignored in").rstrip(":"),
        extra={"object": _shown(args.object)},
        exc_info=(args.exc_type, error, args.exc_traceback),
    )


def _warned(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    _logger().warning("%s: %s", category.__name__, message, extra={"file": filename, "line": lineno})


def _loop_error(loop: "asyncio.AbstractEventLoop", context: dict[str, Any]) -> None:
    error = context.get("exception")
    about = {f"of_{key}": _shown(value) for key, value in context.items() if key not in _OWN_KEYS}
    _logger().error("%s", context.get("message") or "unhandled exception in event loop", extra=about, exc_info=error)


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__}>"
