"""HTTP in clear text: who speaks it, and what the answers say and never repeat."""

import time

import pytest
from portway_relay.net.plain_http import (
    LONGEST_METHOD,
    bad_gateway,
    looks_like_http,
    may_become_http,
    unavailable,
    use_https,
)

METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"]
HOST = "k5zq2w7b3xav6mdy.fra.example.com"


def fields(answer: bytes) -> tuple[str, dict[str, str], str]:
    """Status line, headers and body of an answer whose length fits."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("ascii").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert int(headers["Content-Length"]) == len(body)
    return status, headers, body.decode()


def asked(*headers: str, port: int = 443) -> str:
    """The body of the answer to a request with these headers."""
    request = "\r\n".join(["GET /secret?token=1 HTTP/1.1", *headers, "", ""])
    return fields(use_https(request.encode("latin-1"), port))[2]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_known_by_its_first_bytes(method: str) -> None:
    """A method and a blank are a request's beginning; less may become one, and is never more than is waited for."""
    begun = f"{method} /".encode()
    assert looks_like_http(begun)
    assert len(method) + 1 <= LONGEST_METHOD
    for size in range(1, len(method)):
        assert may_become_http(begun[:size])
        assert not looks_like_http(begun[:size])


@pytest.mark.parametrize("data", [b"", b"get /", b"GET\t/", b" GET /", b"GETS /", b"\x16\x03\x01", b"PRI * HTTP/2.0"])
def test_other_bytes_are_no_request(data: bytes) -> None:
    """Nothing but an HTTP/1 method in capitals and a blank is taken for HTTP."""
    assert not looks_like_http(data)


@pytest.mark.parametrize("data", [b"", b"g", b"\x16", b"GE T", b"SSH-2", b"GET1", "ÄB".encode(), b"ABCDEFGH"])
def test_what_can_never_be_a_method_is_not_waited_for(data: bytes) -> None:
    """More bytes are worth waiting for only behind a few capitals."""
    assert not may_become_http(data)


def test_the_answer_names_the_address_that_works() -> None:
    """A request with a Host is told the same host with https and the right port."""
    status, headers, body = fields(use_https(f"GET / HTTP/1.1\r\nHost: {HOST}:80\r\n\r\n".encode(), 8443))
    assert status == "HTTP/1.1 400 Bad Request"
    assert headers["Connection"] == "close"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert f"https://{HOST}:8443/" in body
    assert f"Try https://{HOST}/\n" in asked(f"Host: {HOST}")


@pytest.mark.parametrize("header", [f"host:{HOST}", f"HOST:\t {HOST} \t", f"Host: {HOST.upper()}", f"hOsT: {HOST}:1"])
def test_the_host_is_found_however_it_is_written(header: str) -> None:
    """Case and blanks around a header's name and value do not matter."""
    assert f"Try https://{HOST}/" in asked("Accept: */*", header)


@pytest.mark.parametrize(
    "header",
    [
        "Accept: */*",
        "X-Host: a.example.com",
        "Host:",
        "Host: ",
        "Host: 192.0.2.7",
        "Host: [::1]:443",
        "Host: a.example.com/path",
        "Host: a.example.com\x00",
        "Host: <script>alert(1)</script>",
        "Host: a.example.com#<b>",
        "Host: user@a.example.com",
        "Host: a..example.com",
        "Host: -a.example.com",
        "Host: a.example.com:port",
        "Host: a.example.com:123456",
        "Host: b\xfccher.example",
        "Host: " + "a" * 64 + ".example",
        "Host: " + "a." * 126 + "aa",  # 254 characters
    ],
)
def test_nothing_is_repeated_that_is_no_host_name(header: str) -> None:
    """Whatever else was sent, the answer is the same fixed text."""
    assert asked(header) == "This port speaks HTTPS only: use https:// in place of http://.\n"


def test_the_first_host_alone_counts() -> None:
    """A second Host header is not looked for behind one that is no name."""
    assert "https://b.example" not in asked("Host: !", "Host: b.example")
    assert "https://a.example/" in asked("Host: a.example", "Host: b.example")


@pytest.mark.parametrize("request_bytes", [b"GET ", b"GET / HTTP/1.1", b"GET / HTTP/1.1\r\nHost: a.example", b""])
def test_a_request_that_is_not_whole_is_answered_too(request_bytes: bytes) -> None:
    """A header whose line has not ended is not read: the rest of the name may be missing."""
    assert "https://a" not in fields(use_https(request_bytes, 443))[2]


@pytest.mark.parametrize("filling", [b" ", b"\t", b"a.", b"a-", b"1", b"a:", b"\r\nHost", b"\r\nHost: "])
def test_no_request_takes_long(filling: bytes) -> None:
    """Time grows with the request's length alone: who repeats what a pattern could stumble over gains nothing."""
    request = b"GET / HTTP/1.1\r\nHost:" + filling * 20_000 + b"!\r\n\r\n"
    began = time.process_time()
    use_https(request, 443)
    assert time.process_time() - began < 0.5


def test_the_page_for_a_server_that_does_not_listen() -> None:
    """502, to be tried again soon, and says what to do."""
    status, headers, body = fields(bad_gateway())
    assert status == "HTTP/1.1 502 Bad Gateway"
    assert headers["Retry-After"] == "1"
    assert "not listening yet" in body
    assert "start it on the port that you forward" in body


def test_the_page_for_a_client_without_a_lane() -> None:
    """503, to be tried again soon."""
    status, headers, body = fields(unavailable())
    assert status == "HTTP/1.1 503 Service Unavailable"
    assert headers["Retry-After"] == "1"
    assert "Try again" in body
