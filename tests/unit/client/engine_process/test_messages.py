"""portway.engine_process.messages: what arrives is what was meant."""

import json
import logging
import sys
import warnings
from dataclasses import fields
from typing import Any

import pytest
from portway import errors
from portway.config import ReturnTimes, Settings
from portway.engine_process.messages import (
    error_from_message,
    error_to_message,
    log_record,
    record_to_message,
    request_from_message,
    request_to_message,
    warn,
    warning_to_message,
)
from portway.errors import Attempt, Error, RemoteError, TunnelLostError, UnreachableError
from portway.tunnel import Before, Tunnel, TunnelRequest
from portway_runtime.proxies import Proxies


def sent(message: dict[str, Any]) -> dict[str, Any]:
    """Through the channel."""
    arrived: dict[str, Any] = json.loads(json.dumps(message))
    return arrived


def told(_: TunnelLostError) -> None: ...


@pytest.mark.parametrize("before", [None, Before(bytes(range(32)), Tunnel("a.test", 8443, "raw.test", 20001), b"\xff")])
def test_a_request_arrives_whole(before: Before | None) -> None:
    """Every field of it: one that is forgotten here would be ignored there. The callback is the receiver's."""
    settings = Settings(
        ("a:1", "[::1]:2"),
        "pw_id_secret",
        b"PEM\xff",
        "fra",
        "geoip",
        ReturnTimes(1, 2, 3, 4, 5),
        Proxies("http://user:password@proxy.test", "PORTWAY_PROXY", "a.test", everything=True),
    )
    for field in fields(settings):
        assert getattr(settings, field.name) != field.default
    request = TunnelRequest(8000, "db", True, True, 2.5, settings, None, "/keys/\udcff", None, 1)
    for name in request.__slots__:
        if name not in ("tunnel_lost", "before"):
            assert getattr(request, name) not in (None, False, "", 0)
    arrived = request_from_message(sent(request_to_message(request, before)), told)
    assert arrived == TunnelRequest(8000, "db", True, True, 2.5, settings, told, "/keys/\udcff", before, 1)
    least = TunnelRequest(1, None, False, False, 10.0, Settings(("a:1",), "pw_id_secret", returns=None))
    assert request_from_message(sent(request_to_message(least, None)), told).settings == least.settings


ERRORS = [
    kind("what happened:\n  and more")
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, Error) and kind not in (Error, TunnelLostError)
]


@pytest.mark.parametrize(
    "error",
    [
        *ERRORS,
        UnreachableError("nobody", (Attempt("", "a:1", "refused"), Attempt("fra-1", "b:2", "lost\n  its way"))),
        UnreachableError("nobody", (Attempt("", "a:1", "not trusted"),), lasting=True),
    ],
    ids=repr,
)
def test_an_error_keeps_its_class_and_text(error: Error) -> None:
    """Each class that there is, and the attempts."""
    arrived = error_from_message(sent(error_to_message(error)))
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)


def test_an_error_of_no_such_class_is_to_be_reported() -> None:
    """It is a fault of this package."""
    arrived = error_from_message(sent(error_to_message(KeyError("x"))))
    assert type(arrived) is RemoteError
    assert "KeyError('x')" in str(arrived)
    assert "please report it" in str(arrived)


def test_a_log_line_keeps_its_logger_level_place_and_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """Formatted as one of this process."""
    caplog.set_level(logging.INFO)
    try:
        raise KeyError("why")
    except KeyError:
        record = logging.LogRecord("portway.engine.x", logging.ERROR, __file__, 7, "%s of %d", ("a", 2), sys.exc_info())
    log_record(sent(record_to_message(record)))
    (arrived,) = caplog.records
    assert (arrived.name, arrived.levelno, arrived.getMessage()) == ("portway.engine.x", logging.ERROR, "a of 2")
    assert (arrived.pathname, arrived.lineno, arrived.created) == (__file__, 7, record.created)
    assert "KeyError: 'why'" in caplog.text
    caplog.clear()
    debug = logging.LogRecord("portway.engine.x", logging.DEBUG, __file__, 7, "100 %", (), None)
    log_record(sent(record_to_message(debug)))
    assert not caplog.records
    caplog.set_level(logging.DEBUG, "portway.engine")
    log_record(sent(record_to_message(debug)))
    assert caplog.messages == ["100 %"]


class OfALibrary(DeprecationWarning): ...


def test_a_warning_goes_by_the_filters_here(caplog: pytest.LogCaptureFixture) -> None:
    """Where they make it an error it is logged: no code of the program is there to catch it."""
    message = sent(warning_to_message("old", DeprecationWarning, "library.py", 3))
    with pytest.warns(DeprecationWarning, match="old") as caught:
        warn(message)
    assert (caught[0].filename, caught[0].lineno) == ("library.py", 3)
    with pytest.warns(UserWarning, match="own"):
        warn(sent(warning_to_message(OfALibrary("own"), OfALibrary, "library.py", 3)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn(message)
    assert "library.py:3: DeprecationWarning('old')" in caplog.text
