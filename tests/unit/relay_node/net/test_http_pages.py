"""What a node answers to HTTP itself: where redirects lead, and what pages say and never repeat."""

import pytest
from portway_relay.net.http_pages import (
    bad_gateway,
    gateway_timeout,
    redirect,
    secure_location,
    unavailable,
    use_https,
    without_body,
)
from portway_relay.net.plain_http import MAX_TARGET, Request, read_request

LABEL = "k5zq2w7b3xav6mdy"
ZONES = {"fra.example.com", "iad.example.com"}
HOST = f"{LABEL}.fra.example.com"
# What is no name, or none that this node serves.
FOREIGN = [
    "",
    "192.0.2.7",
    "[::1]:443",
    "fra.example.com",
    ".fra.example.com",
    "..fra.example.com",
    f"{HOST}..",
    f"www.{HOST}",
    f"{LABEL}.ams.example.com",
    f"{HOST}.evil.example",
    f"evil.example/{HOST}",
    f"evil.example#{HOST}",
    f"evil.example?{HOST}",
    f"evil.example\\{HOST}",
    f"user@{HOST}",
    f"evil.example:80@{HOST}",
    f"{HOST}:port",
    f"{HOST}:123456",
    f"{HOST}:80:80",
    f"{HOST} evil.example",
    f"{HOST}\x00",
    f"{HOST}\rSet-Cookie: a=b",
    f"{HOST},evil.example",
    f"-{HOST}",
    f"_x.{HOST}",
    f"{'a' * 64}.fra.example.com",
    "evil.example",
]


def fields(answer: bytes) -> tuple[str, dict[str, str], str]:
    """Status line, headers and body of an answer whose length fits."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("utf-8").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert int(headers["Content-Length"]) == len(body)
    assert headers["Connection"] == "close"
    return status, headers, body.decode()


def location(host: str, target: str = "/", port: int = 443) -> str | None:
    """Where a request leads that is read from its bytes."""
    found = secure_location(request(host, target), ZONES, port)
    return None if found is None else found.decode()


def request(host: str, target: str = "/") -> Request:
    read = read_request(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert isinstance(read, Request)
    return read


@pytest.mark.parametrize(
    "target", ["/", "/items", "/a%2Fb//..?x=%0d%0a&y=http://evil.example", "//evil.example/", "/\u00fc", "/\\x"]
)
@pytest.mark.parametrize(("port", "suffix"), [(443, ""), (8443, ":8443")])
def test_path_and_query_are_kept_as_they_are(target: str, port: int, suffix: str) -> None:
    """Byte for byte, at the same name and the public port."""
    assert location(HOST, target, port) == f"https://{HOST}{suffix}{target}"


def test_the_longest_target_is_kept() -> None:
    """A redirect is as long as the longest request line that is read."""
    target = "/" + "x" * (MAX_TARGET - 1)
    assert location(HOST, target) == f"https://{HOST}{target}"


@pytest.mark.parametrize("host", [HOST, f"{HOST}:80", f"{HOST}:", f"{HOST}.", f"{HOST}.:8080", f"{HOST.upper()}.:80"])
def test_a_name_is_the_same_however_it_is_written(host: str) -> None:
    """With a port or none, a last dot or none, in any case."""
    assert location(host) == f"https://{HOST}/"


def test_names_of_every_zone_are_redirected() -> None:
    """Every node serves the names of every region that it has a certificate for."""
    assert location(f"{LABEL}.iad.example.com") == f"https://{LABEL}.iad.example.com/"


@pytest.mark.parametrize("host", FOREIGN)
def test_no_other_host_is_redirected_to(host: str) -> None:
    """A redirect leads to a name that this node serves over TLS, or there is none; it is the same in absolute form."""
    assert location(host) is None
    if " " not in host and host.isprintable():
        assert location(HOST, f"http://{host}/") is None


@pytest.mark.parametrize("begin", ["http://", "HTTP://", "https://"])
@pytest.mark.parametrize(
    ("rest", "path"), [("", "/"), ("/", "/"), ("/a?b", "/a?b"), ("?a=/b", "/?a=/b"), (":80/a", "/a"), ("./a", "/a")]
)
def test_a_target_in_absolute_form_counts_in_place_of_the_host(begin: str, rest: str, path: str) -> None:
    """RFC 9112 section 3.2.2."""
    assert location("evil.example", f"{begin}{HOST}{rest}", 8443) == f"https://{HOST}:8443{path}"


@pytest.mark.parametrize("target", ["*", f"{HOST}:443", "x", "ftp://a/", "?x", "#x"])
def test_a_target_without_a_path_is_not_redirected(target: str) -> None:
    """Those of OPTIONS and CONNECT, and whatever else is none."""
    assert location(HOST, target) is None


def test_a_redirect_keeps_method_and_body() -> None:
    """308, which does not turn POST into GET, and is not stored."""
    status, headers, body = fields(redirect(b"https://a.example/x?y"))
    assert status == "HTTP/1.1 308 Permanent Redirect"
    assert headers["Location"] == "https://a.example/x?y"
    assert headers["Cache-Control"] == "no-store"
    assert body == ""


def test_the_page_names_the_address_that_works() -> None:
    """A request that cannot be redirected is told the same host with https and the right port."""
    status, headers, body = fields(use_https(request(f"{HOST}.:80", "*"), 8443))
    assert status == "HTTP/1.1 400 Bad Request"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert f"Try https://{HOST}:8443/\n" in body
    assert "Try https://www.example.org/\n" in fields(use_https(request("www.example.org", "/secret?token=1"), 443))[2]


@pytest.mark.parametrize(
    "host",
    [
        "",
        "192.0.2.7",
        "[::1]:443",
        "a.example.com/path",
        "a.example.com\x00",
        "<script>alert(1)</script>",
        "a.example.com#<b>",
        "user@a.example.com",
        "a..example.com",
        "-a.example.com",
        "a.example.com:port",
        "a.example.com:123456",
        "b\u00fccher.example",
        "a" * 64 + ".example",
        "a." * 126 + "aa",  # 254 characters
    ],
)
def test_nothing_is_repeated_that_is_no_host_name(host: str) -> None:
    """Whatever else was sent, the page is the same fixed text."""
    page = "This port speaks HTTPS only: use https:// in place of http://.\n"
    assert fields(use_https(request(host, "/secret?token=1"), 443))[2] == page


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


def test_the_page_for_a_client_that_does_not_answer() -> None:
    """504, and nothing of trying again: the request may have arrived."""
    status, headers, _ = fields(gateway_timeout())
    assert status == "HTTP/1.1 504 Gateway Timeout"
    assert "Retry-After" not in headers


@pytest.mark.parametrize("page", [bad_gateway(), unavailable(), gateway_timeout()])
def test_head_is_answered_with_the_fields_of_get(page: bytes) -> None:
    """The same to the last byte, and no body."""
    head, _, body = page.partition(b"\r\n\r\n")
    assert body
    assert without_body(page) == head + b"\r\n\r\n"


def test_head_gets_no_body_from_the_tls_port() -> None:
    """A client that asks for the head alone would take a body for the next answer."""
    read = read_request(b"HEAD * HTTP/1.1\r\nHost: a\r\n\r\n")
    assert isinstance(read, Request)
    assert use_https(read, 443) == without_body(use_https(request("a", "*"), 443))
