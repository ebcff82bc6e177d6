"""Plain HTTP/1: recognising a request by its first bytes, and the short pages that a node answers with.

The pages repeat nothing that the peer sent, except a host name of valid form.
"""

import re
from typing import Final

_METHOD: Final = re.compile(rb"(?:GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|TRACE|CONNECT) ")
# Bytes after which it is certain whether a request line begins.
LONGEST_METHOD: Final = len("OPTIONS ")
_HOST_NAME: Final = re.compile(
    rb"((?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?)(?::[0-9]{1,5})?"
)
_LONGEST_NAME: Final = 253


def looks_like_http(data: bytes) -> bool:
    """Whether these first bytes begin an HTTP/1 request."""
    return _METHOD.match(data) is not None


def may_become_http(data: bytes) -> bool:
    """Whether further bytes could make these the beginning of a request."""
    return len(data) < LONGEST_METHOD and data.isalpha() and data.isupper()


def use_https(request: bytes, port: int) -> bytes:
    """The answer to a plain HTTP request on the TLS port. `port` is the public one, for the address in the page."""
    advice = "This port speaks HTTPS only: use https:// in place of http://."
    host = _HOST_NAME.fullmatch(_host_header(request))
    if host is not None and len(host[1]) <= _LONGEST_NAME:
        address = host[1].decode("ascii") + ("" if port == 443 else f":{port}")
        advice += f"\nTry https://{address}/"
    return _response("400 Bad Request", advice)


NOT_LISTENING: Final = (
    "The program behind this address is not listening yet.\nIf it is yours: start it on the port that you forward."
)
NOT_CONNECTED: Final = "The program behind this address cannot take this request now. Try again in a moment."
NOT_ANSWERED: Final = "The program behind this address has not taken this connection in time."


def bad_gateway() -> bytes:
    """The answer when the local server does not accept connections."""
    return _response("502 Bad Gateway", NOT_LISTENING, retry_after=1)


def gateway_timeout() -> bytes:
    """The answer when the client has neither accepted nor refused the visit in time."""
    return _response("504 Gateway Timeout", NOT_ANSWERED)


def unavailable() -> bytes:
    """The answer when the client has no lane for the visit."""
    return _response("503 Service Unavailable", NOT_CONNECTED, retry_after=1)


def _host_header(request: bytes) -> bytes:
    """The value of the first complete Host header, in lower case; empty without one.

    Read line by line: a regular expression that allows blanks on both sides of the value can backtrack for seconds.
    """
    for line in request.split(b"\r\n")[1:-1]:
        name, _, value = line.partition(b":")
        if name.lower() == b"host":
            return value.strip(b" \t").lower()
    return b""


def _response(status: str, text: str, *, retry_after: int | None = None) -> bytes:
    body = text.encode() + b"\n"
    lines = [
        f"HTTP/1.1 {status}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if retry_after is not None:
        lines.append(f"Retry-After: {retry_after}")
    return "\r\n".join([*lines, "", ""]).encode() + body
