"""HTTP in clear text: what is a request for certain, what may become one, and what is read of it."""

import time

import pytest
from portway_relay.net.plain_http import (
    MAX_HEAD,
    MAX_METHOD,
    MAX_TARGET,
    Request,
    looks_like_http,
    may_become_http,
    read_request,
)
from portway_runtime.parse_results import NeedMore

METHODS = ["GET", "HEAD", "POST", "OPTIONS", "CONNECT", "PROPFIND", "REPORT", "QUERY", "PURGE", "M-SEARCH", "get", "x"]
TARGETS = ["/", "/a/b?c=%20&d=e", "*", "http://a.example/x", "a.example:443", "/\u00fc"]
# First bytes of other protocols, most of which begin with a token.
OTHERS = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n",
    b"EHLO mail.example.com\r\n",
    b"NICK somebody\r\nUSER x 0 * :x\r\n",
    b"PING\r\n",
    b"get key\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"OPTIONS rtsp://a.example/media RTSP/1.0\r\n",
    b"INVITE sip:bob@example.com SIP/2.0\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /index.html\r\n",  # HTTP/0.9
    b"GET / http/1.1\r\n",
    b"GET\t/ HTTP/1.1\r\n",
    b"GET  / HTTP/1.1\r\n",
    b" GET / HTTP/1.1\r\n",
    b"\r\nGET / HTTP/1.1\r\n",
    b"G\x00T / HTTP/1.1\r\n",
    b"GET /\x00 HTTP/1.1\r\n",
    b"GET /\x7f HTTP/1.1\r\n",
    b"GET /\rx HTTP/1.1\r\n",
    b"a(b) / HTTP/1.1\r\n",
    b"\x00\x00\x00\x08\x04\xd2\x16\x2f",  # PostgreSQL
    b"M" * (MAX_METHOD + 1) + b" / HTTP/1.1\r\n",
    b"GET /" + b"x" * MAX_TARGET + b" HTTP/1.1\r\n",
    b"x" * 100,
]


@pytest.mark.parametrize("method", [*METHODS, "M" * MAX_METHOD])
@pytest.mark.parametrize("target", [*TARGETS, "/" + "x" * (MAX_TARGET - 1)], ids=range(len(TARGETS) + 1))
def test_a_method_is_any_token(method: str, target: str) -> None:
    """Token, target and version make a request; with less it may become one, and is none yet."""
    line = f"{method} {target} HTTP/1.".encode()
    assert looks_like_http(line)
    assert looks_like_http(line + b"1\r\nHost: a\r\n\r\n")
    for size in {*range(min(200, len(line))), *range(len(line) - 10, len(line))}:
        assert may_become_http(line[:size])
        assert not looks_like_http(line[:size])


@pytest.mark.parametrize("data", OTHERS)
def test_other_protocols_are_no_request(data: bytes) -> None:
    """Whatever begins like a token: what follows tells, with the line at the latest."""
    assert not looks_like_http(data)
    assert not may_become_http(data)
    assert read_request(data) is None


@pytest.mark.parametrize("data", [b"\x16", b"\r", b" ", b"\xc3\x84", b"A" * (MAX_METHOD + 1), b"GET /\n", b"A B C"])
def test_what_can_never_be_a_request_is_not_waited_for(data: bytes) -> None:
    """Where a byte stands that no request has, more bytes change nothing."""
    assert not may_become_http(data)


def test_a_request_is_read_byte_by_byte() -> None:
    """Until the line of its Host has ended, one more byte is asked for; then nothing more."""
    request = b"PROPFIND /a?b HTTP/1.1\r\nAccept: */*\r\nHost: A.Example:80\r\n"
    for size in range(len(request)):
        assert read_request(request[:size]) == NeedMore(size + 1)
    assert read_request(request) == Request(b"/a?b", b"a.example:80")
    assert read_request(request + b"Host: b.example\r\n\r\n") == Request(b"/a?b", b"a.example:80")


@pytest.mark.parametrize("field", ["host:a.example", "HOST:\t a.example \t", "Host: A.EXAMPLE", "hOsT:  a.example"])
@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_the_host_is_found_however_it_is_written(field: str, end: str) -> None:
    """Case and blanks around a field's name and value do not matter, nor does a line that ends with LF alone."""
    lines = ["GET / HTTP/1.1", "Accept: */*", field, "", ""]
    assert read_request(end.join(lines).encode()) == Request(b"/", b"a.example")


@pytest.mark.parametrize(
    "fields", ["", "Accept: */*\r\n", "X-Host: a.example\r\n", "Host : a.example\r\n", "X: y\r\n Host: a.example\r\n"]
)
def test_a_request_without_a_host_is_whole_with_its_head(fields: str) -> None:
    """HTTP/1.0 has none; what stands in another field, or in the body, is none."""
    head = f"GET /x HTTP/1.0\r\n{fields}\r\n".encode()
    assert read_request(head) == Request(b"/x", b"")
    assert read_request(head + b"\r\nHost: a.example\r\n\r\n") == Request(b"/x", b"")
    assert read_request(head[:-1]) == NeedMore(len(head))


def test_a_host_is_awaited_within_bounds() -> None:
    """A head that goes on and on is answered without one."""
    head = b"GET /x HTTP/1.1\r\nCookie: " + b"c" * MAX_HEAD
    assert read_request(head[: MAX_HEAD - 1]) == NeedMore(MAX_HEAD)
    assert read_request(head[:MAX_HEAD]) == Request(b"/x", b"")
    assert read_request(head + b"\r\nHost: a.example\r\n\r\n") == Request(b"/x", b"")


@pytest.mark.parametrize(
    "filling", [b" ", b"\t", b"a.", b"a-", b"1", b"a:", b"\r\nHost", b"\r\nHost ", b"\n", b"\r", b"\nhost:x"]
)
@pytest.mark.parametrize("begin", [b"GET / HTTP/1.1\r\nHost:", b"GET /", b"G"])
def test_no_request_takes_long(begin: bytes, filling: bytes) -> None:
    """Time grows with the request's length alone: who repeats what a pattern could stumble over gains nothing."""
    request = begin + filling * (MAX_HEAD // len(filling))
    began = time.process_time()
    for _ in range(20):
        read_request(request)
        looks_like_http(request)
    assert time.process_time() - began < 0.5
