"""What an HTTP proxy answers to CONNECT, as a fuzz target."""

from typing import Final

from portway_runtime.connect_dialogue import MAX_HEADER, ConnectDialogue
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import ProxyFailed
from portway_runtime.proxies import parse_proxy

from portway_testkit.fuzzing.target import Target, cuts

_PROXY: Final = parse_proxy("http://me:secret@proxy.test:3128", "https_proxy")
_LONGEST_TEXT: Final = 1_500  # characters of an error


def _seeds() -> tuple[bytes, ...]:
    login = b"Proxy-Authenticate: Basic realm=x\r\nProxy-Authenticate: NTLM\r\n"
    return (
        b"HTTP/1.1 200 Connection established\r\n\r\n\x16\x03\x03",
        b"HTTP/1.0 200 OK\nVia: x\n\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 407 Proxy Authentication Required\r\n" + login + b"\r\n",
        b"HTTP/1.1 407 No\r\nProxy-Authenticate: " + b"n" * 2_000 + b"\r\n\r\n",
        b"HTTP/1.1 403 \x1b[2J\r\nContent-Type: text/html\r\n\r\n<html>",
        b"HTTP/1.1 502 Bad Gateway\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://login.test/\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * MAX_HEADER,
        b"HTTP/2 200\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"",
    )


def _outcome(pieces: list[bytes]) -> bytes | str | None:
    """What follows the header; the error's text; None while the answer goes on."""
    dialogue = ConnectDialogue(_PROXY, Endpoint("node.test", 443))
    for at, piece in enumerate(pieces):
        try:
            first = dialogue.take(piece)
        except ProxyFailed as error:
            return str(error)
        if first is not None:
            return first + b"".join(pieces[at + 1 :])
        assert len(dialogue._header) < MAX_HEADER, "more is kept than a header may have"
    return None


def _check(data: bytes) -> None:
    whole = _outcome([data])
    if isinstance(whole, str):
        assert whole.isprintable(), whole
        assert "proxy.test:3128" in whole, whole
        assert "secret" not in whole, whole
        assert len(whole) <= _LONGEST_TEXT, len(whole)
    elif whole is not None:
        header = data.removesuffix(whole)
        assert len(header) + len(whole) == len(data), "what is returned is not the rest of what came"
        assert header.endswith((b"\n\n", b"\n\r\n")), header
    for pieces in cuts(data):
        assert _outcome(pieces) == whole, f"{_outcome(pieces)!r} in pieces, {whole!r} at once"


CONNECT: Final = Target(
    "connect",
    "Whatever a proxy answers, what is returned is the rest behind a header, or an error that names the proxy, without "
    "its login, on one printable line of bounded length; less than a header's limit is kept, and the outcome is the "
    "same however the bytes are cut.",
    _seeds,
    _check,
)
