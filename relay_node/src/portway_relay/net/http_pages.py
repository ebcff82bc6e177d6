"""What a node answers to HTTP/1 itself: redirects to https, and short pages.

A page repeats nothing that the peer sent, except a host name of valid form. A redirect repeats the target as it was
sent, which has neither blanks nor control characters, behind the name of a host that this node serves: it can lead to
no other host, and adds no field. Not here: reading requests (plain_http.py).
"""

import re
from collections.abc import Container
from typing import Final

from portway_relay.net.plain_http import Request

_NAME: Final = rb"((?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?)"
# A host name, whose last dot is left out, and a port, which may be empty (RFC 3986 §3.2.3).
_HOST: Final = re.compile(_NAME + rb"\.?(?::[0-9]{0,5})?")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_LONGEST_NAME: Final = 253
_END_OF_FIELDS: Final = b"\r\n\r\n"

NOT_LISTENING: Final = (
    "The program behind this address is not listening yet.\nIf it is yours: start it on the port that you forward."
)
NOT_CONNECTED: Final = "The program behind this address cannot take this request now. Try again in a moment."
NOT_ANSWERED: Final = "The program behind this address has not taken this connection in time."


def secure_location(request: Request, zones: Container[str], port: int) -> bytes | None:
    """Where the same thing is served over TLS. None for a host that is not `<name>.<zone>`, and for a target without a
    path (`*`, and that of CONNECT). `port` is the public one."""
    authority, path = _split(request)
    name = _host_name(authority)
    if name is None or not path.startswith(b"/"):
        return None
    label, _, zone = name.partition(".")
    if not label or zone not in zones:
        return None
    return _origin(name, port).encode("ascii") + path


def redirect(location: bytes) -> bytes:
    """The answer that sends a request of any method to `location`, unchanged. It is not kept: addresses of tunnels come
    and go."""
    return (
        b"HTTP/1.1 308 Permanent Redirect\r\nLocation: "
        + location
        + b"\r\nContent-Length: 0\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )


def use_https(request: Request, port: int) -> bytes:
    """The answer to a plain HTTP request that cannot be redirected. `port` is the public one, for the address in the
    page."""
    advice = "This port speaks HTTPS only: use https:// in place of http://."
    name = _host_name(_split(request)[0])
    if name is not None:
        advice += f"\nTry {_origin(name, port)}/"
    page = _page("400 Bad Request", advice)
    return without_body(page) if request.head_only else page


def bad_gateway() -> bytes:
    """The answer when the local server does not accept connections."""
    return _page("502 Bad Gateway", NOT_LISTENING, retry_after=1)


def gateway_timeout() -> bytes:
    """The answer when the client has neither accepted nor refused the visit in time."""
    return _page("504 Gateway Timeout", NOT_ANSWERED)


def unavailable() -> bytes:
    """The answer when the client has no lane for the visit."""
    return _page("503 Service Unavailable", NOT_CONNECTED, retry_after=1)


def without_body(page: bytes) -> bytes:
    """The page as it answers HEAD: its fields, Content-Length among them, are those for GET."""
    head, blank, _ = page.partition(_END_OF_FIELDS)
    return head + blank


def _split(request: Request) -> tuple[bytes, bytes]:
    """Authority and path. That of a target in absolute form counts in place of the Host (RFC 9112 §3.2.2)."""
    absolute = _ABSOLUTE.fullmatch(request.target)
    if absolute is None:
        return request.host, request.target
    path: bytes = absolute[2]
    return absolute[1].lower(), path if path.startswith(b"/") else b"/" + path


def _host_name(authority: bytes) -> str | None:
    """The host name of an authority, in lower case; None for anything else."""
    found = _HOST.fullmatch(authority)
    return found[1].decode("ascii") if found is not None and len(found[1]) <= _LONGEST_NAME else None


def _origin(name: str, port: int) -> str:
    return f"https://{name}" if port == 443 else f"https://{name}:{port}"


def _page(status: str, text: str, *, retry_after: int | None = None) -> bytes:
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
