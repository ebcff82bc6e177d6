"""Plain HTTP/1: recognising a request by its first bytes, and reading as much of it as a redirect needs.

A method is any token (RFC 9110 §9), so a method alone is no sign of HTTP: SSH, SMTP and RTSP begin with tokens, too.
What counts is `token SP request-target SP HTTP/1.`. Not here: the answers (http_pages.py).
"""

import re
from dataclasses import dataclass
from typing import Final

from portway_runtime.parse_results import NeedMore

# Bytes. The longest method that IANA names has 17 (UPDATEREDIRECTREF).
MAX_METHOD: Final = 32
# Bytes. RFC 9112 §3 wants request lines of 8,000 at least to be understood.
MAX_TARGET: Final = 8 * 1024
# Bytes of a request in which its Host is looked for. User agents send it first (RFC 9110 §7.2).
MAX_HEAD: Final = 16 * 1024

_METHOD: Final = rb"[!#$%%&'*+.^_`|~0-9A-Za-z-]{1,%d}" % MAX_METHOD
# A target has visible ASCII alone (RFC 3986); curl and others also send UTF-8 as it is.
_TARGET: Final = rb"[\x21-\x7e\x80-\xff]{1,%d}" % MAX_TARGET
_TARGET_BYTES: Final = bytes((*range(0x21, 0x7F), *range(0x80, 0x100)))
_VERSION: Final = b"HTTP/1."
_ONE_METHOD: Final = re.compile(_METHOD)
_REQUEST: Final = re.compile(_METHOD + b" (" + _TARGET + b") " + re.escape(_VERSION))
_HOST: Final = b"\nhost:"
_HEAD: Final = b"HEAD "


@dataclass(frozen=True, slots=True)
class Request:
    """What a request asks for: its target, and the value of its first Host field; empty without one. Both as they were
    sent, but for blanks around the value and its upper case. `head_only`: the answer has no body."""

    target: bytes
    host: bytes
    head_only: bool = False


def looks_like_http(data: bytes) -> bool:
    """Whether these first bytes begin an HTTP/1 request."""
    return _REQUEST.match(data) is not None


def wants_head_only(data: bytes) -> bool:
    """Whether these first bytes of a request ask for an answer without a body (RFC 9110 §9.3.2)."""
    return data.startswith(_HEAD)


def may_become_http(data: bytes) -> bool:
    """Whether these bytes, which do not begin a request, are the beginning of one that does."""
    method, blank, rest = data.partition(b" ")
    if not data:
        return True
    if _ONE_METHOD.fullmatch(method) is None:
        return False
    if not blank or not rest:
        return True
    target, blank, version = rest.partition(b" ")
    if not target or len(target) > MAX_TARGET or target.translate(None, _TARGET_BYTES):
        return False
    return not blank or (len(version) < len(_VERSION) and _VERSION.startswith(version))


def read_request(data: bytes) -> Request | NeedMore | None:
    """The request that a connection begins with; None when it begins with something else.

    The Host is waited for, within MAX_HEAD. Reading takes a few plain searches, 40 µs at most: it is repeated for each
    packet, and a regular expression can be made to backtrack for seconds.
    """
    begun = _REQUEST.match(data) if _VERSION in data else None
    if begun is None:
        return NeedMore(len(data) + 1) if may_become_http(data) else None
    target, head_only = begun[1], wants_head_only(data)
    fields = data[begun.end() : MAX_HEAD].lower()
    at = fields.find(_HOST)
    over = [end for end in (fields.find(b"\n\r\n"), fields.find(b"\n\n")) if end >= 0]
    if at >= 0 and all(at < end for end in over):
        end = fields.find(b"\n", at + 1)
        if end >= 0:
            return Request(target, fields[at + len(_HOST) : end].strip(b" \t\r"), head_only)
    elif over:
        return Request(target, b"", head_only)
    return NeedMore(len(data) + 1) if len(data) < MAX_HEAD else Request(target, b"", head_only)
