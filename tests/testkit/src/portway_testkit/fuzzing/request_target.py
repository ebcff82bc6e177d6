"""Requests in clear text, and where they are redirected to, as a fuzz target."""

import re
from typing import Final

from portway_relay.net.http_pages import redirect, secure_location, use_https
from portway_relay.net.plain_http import MAX_HEAD, Request, read_request
from portway_runtime.parse_results import NeedMore

from portway_testkit.fuzzing.target import Target, cuts

_ZONES: Final = frozenset({"fra.example.com", "localhost"})
_HOST: Final = b"k5zq2w7b3xav6mdy.fra.example.com"
_LOCATION: Final = re.compile(
    rb"https://[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.(?:fra\.example\.com|localhost):8443/[^\x00-\x20\x7f]*"
)
_FIELDS: Final = re.compile(rb"HTTP/1\.1 308 Permanent Redirect\r\n(?:[A-Z][A-Za-z-]+: [^\r\n]+\r\n){4}\r\n")


def _seeds() -> tuple[bytes, ...]:
    fields = b" HTTP/1.1\r\nAccept: */*\r\nHost: " + _HOST
    return (
        b"GET /" + fields + b"\r\n\r\n",
        b"POST /a?b=c#d" + fields + b":80\r\nContent-Length: 3\r\n\r\nabc",
        b"PROPFIND //a\\b/%0d%0a" + fields.upper() + b".:\r\n\r\n",
        b"GET http://" + _HOST + b"/a" + fields + b"\r\n\r\n",
        b"GET HTTP://x@" + _HOST + b"?a HTTP/1.1\r\n\r\n",
        b"CONNECT " + _HOST + b":443" + fields + b"\r\n\r\n",
        b"OPTIONS *" + fields + b"\r\n\r\n",
        b"GET / HTTP/1.0\n\nHost: a.localhost\n\n",
        b"QUERY / HTTP/1.1\nhost:\t a.localhost \t\nHost: b.localhost\n\n",
        b"GET / HTTP/1.1\r\nHost: evil.example\\a.localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: a\r\n Host: a.localhost\r\n\r\n",
        b"GET /" + b"x" * 8_000 + fields + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nCookie: " + b"c" * MAX_HEAD + b"\r\nHost: a.localhost\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2 Debian\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"",
    )


def _check(data: bytes) -> None:
    answer = read_request(data)
    _check_answer(answer, data)
    for pieces in cuts(data):
        arrived = b""
        for piece in pieces:
            arrived += piece
            earlier = read_request(arrived)
            _check_answer(earlier, arrived)
            if not isinstance(earlier, NeedMore):
                assert earlier == answer, f"{earlier} of the first {len(arrived)} bytes, {answer} of all"
                break


def _check_answer(answer: Request | NeedMore | None, data: bytes) -> None:
    if isinstance(answer, NeedMore):
        assert answer.size == len(data) + 1 <= MAX_HEAD, f"{answer} of {len(data)} bytes"
    elif isinstance(answer, Request):
        location = secure_location(answer, _ZONES, 8443)
        if location is not None:
            assert _LOCATION.fullmatch(location), location
            assert _FIELDS.fullmatch(redirect(location)), location
        use_https(answer, 8443).decode("ascii")


REQUEST: Final = Target(
    "request",
    "Whatever the bytes, read_request answers a Request, None or the need of one byte more, within a bound, never "
    "raises, gives the same answer however the bytes are cut, and a redirect of it is well-formed and leads to a name "
    "of a zone.",
    _seeds,
    _check,
)
