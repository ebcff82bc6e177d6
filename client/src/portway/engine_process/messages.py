"""What a program and the process of its engine tell each other: requests, addresses, errors, log lines, warnings.

Each is turned into an object of JSON and back. Errors keep their class and text, log lines their logger and level. Not
here: how messages travel (channel.py), who sends which and when (engine_process.py, child.py).

The program: {"open": N, "request": …, "environment": …, "folder": …}, {"close": N}. The child: {"ready": VERSION},
{"failed": TEXT}, {"opened": N, "before": …}, {"refused": N, "error": …}, {"lost": N, "error": …}, {"closed": N},
{"log": …}, {"warning": …}. N is the number of a tunnel.
"""

import builtins
import logging
import traceback
import warnings
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

from portway_runtime.proxies import Proxies

from portway import errors
from portway.config import ReturnTimes, Settings
from portway.engine_process.channel import Message
from portway.errors import Attempt, Error, RemoteError, UnreachableError
from portway.tunnel import Before, Tunnel, TunnelLost, TunnelRequest

_ERRORS: Final = {
    kind.__name__: kind
    for kind in (
        errors.InvalidError,
        errors.ConfigError,
        errors.AuthError,
        errors.ClockError,
        errors.QuotaError,
        errors.RemoteError,
        errors.TakenOverError,
    )
}
# What a log record says besides its text; `exc_info` goes as text.
_RECORD_FIELDS: Final = (
    *("name", "levelno", "levelname", "pathname", "filename", "module", "lineno", "funcName"),
    *("created", "msecs", "process", "thread", "threadName"),
)


def request_to_message(request: TunnelRequest, before: Before | None) -> Message:
    """The request without its callback, which stays here."""
    settings = request.settings
    return {
        "port": request.port,
        "host": request.host,
        "unencrypted": request.unencrypted,
        "h2_enabled": request.h2_enabled,
        "timeout": request.timeout,
        "registries": settings.registries,
        "token": settings.token,
        "ca": None if settings.ca is None else settings.ca.hex(),
        "region": settings.region,
        "strategy": settings.strategy,
        "returns": None if settings.returns is None else asdict(settings.returns),
        "proxies": asdict(settings.proxies),
        "key": request.key,
        "proxy_protocol": request.proxy_protocol,
        "before": None if before is None else before_to_message(before),
    }


def request_from_message(message: Message, tunnel_lost: TunnelLost) -> TunnelRequest:
    settings = Settings(
        registries=tuple(message["registries"]),
        token=message["token"],
        ca=None if message["ca"] is None else bytes.fromhex(message["ca"]),
        region=message["region"],
        strategy=message["strategy"],
        returns=None if message["returns"] is None else ReturnTimes(**message["returns"]),
        proxies=Proxies(**message["proxies"]),
    )
    return TunnelRequest(
        port=message["port"],
        host=message["host"],
        unencrypted=message["unencrypted"],
        h2_enabled=message["h2_enabled"],
        timeout=message["timeout"],
        settings=settings,
        tunnel_lost=tunnel_lost,
        key=message["key"],
        proxy_protocol=message["proxy_protocol"],
        before=None if message["before"] is None else before_from_message(message["before"]),
    )


def before_to_message(before: Before) -> Message:
    return {"key": before.private_key.hex(), "tunnel": asdict(before.tunnel), "ticket": before.ticket.hex()}


def before_from_message(message: Message) -> Before:
    return Before(bytes.fromhex(message["key"]), Tunnel(**message["tunnel"]), bytes.fromhex(message["ticket"]))


def error_to_message(error: BaseException) -> Message:
    """Any error: one that is not this package's is a RemoteError that asks to report it."""
    if isinstance(error, UnreachableError):
        attempts = [asdict(one) for one in error.attempts]
        return {"kind": "UnreachableError", "text": error.what, "attempts": attempts, "lasting": error.lasting}
    if type(error).__name__ in _ERRORS:
        return {"kind": type(error).__name__, "text": str(error)}
    return {"kind": "RemoteError", "text": f"Portway failed inside its process ({error!r}): please report it"}


def error_from_message(message: Message) -> Error:
    """An error of the same class and with the same text."""
    text: str = message["text"]
    if message["kind"] == "UnreachableError":
        attempts = tuple(Attempt(**one) for one in message["attempts"])
        return UnreachableError(text, attempts, lasting=message["lasting"])
    return _ERRORS.get(message["kind"], RemoteError)(text)


def record_to_message(record: logging.LogRecord) -> Message:
    """A log line, its arguments put in."""
    fields: Message = {name: getattr(record, name) for name in _RECORD_FIELDS}
    fields["msg"] = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        fields["exc_text"] = "".join(traceback.format_exception(record.exc_info[1])).rstrip("\n")
    return fields


def log_record(message: Message) -> None:
    """Log a line of the other process under the name that it has there, if this program wants it. What filters and
    handlers of the program raise ends nothing."""
    logger = logging.getLogger(message["name"])
    if logger.isEnabledFor(message["levelno"]):
        with suppress(Exception):
            logger.handle(logging.makeLogRecord(message | {"args": None, "processName": "portway"}))


def warning_to_message(text: Warning | str, kind: type[Warning], file: str, line: int) -> Message:
    return {"text": str(text), "kind": kind.__name__, "file": file, "line": line}


def warn(message: Message) -> None:
    """Issue a warning of the other process, as this program's filters have it. Where they make it an error it is
    logged: nobody is there to catch it."""
    named: Any = getattr(builtins, message["kind"], None)
    kind = named if isinstance(named, type) and issubclass(named, Warning) else UserWarning
    try:
        warnings.warn_explicit(message["text"], kind, message["file"], message["line"])
    except Warning as error:
        logging.getLogger("py.warnings").warning("%s:%d: %r", message["file"], message["line"], error)
