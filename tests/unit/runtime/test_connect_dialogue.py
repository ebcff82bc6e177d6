"""CONNECT and its answers: whole, byte by byte, and with what follows them."""

import base64

import pytest
from portway_runtime.connect_dialogue import MAX_HEADER, ConnectDialogue
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import ProxyFailed
from portway_runtime.proxies import parse_proxy

TARGET = Endpoint("node.test", 443)


def dialogue(url: str = "http://proxy.test:3128", target: Endpoint = TARGET) -> ConnectDialogue:
    return ConnectDialogue(parse_proxy(url, "https_proxy"), target)


def refusal(answer: bytes, url: str = "http://proxy.test:3128") -> str:
    with pytest.raises(ProxyFailed) as raised:
        dialogue(url).take(answer)
    text = str(raised.value)
    assert text.startswith("the proxy proxy.test:3128, which https_proxy names, ")
    assert text.isprintable()
    return text


def test_the_request_names_the_target() -> None:
    """Unresolved, with an IPv6 address in brackets, and with the login where there is one."""
    assert dialogue().request == b"CONNECT node.test:443 HTTP/1.1\r\nHost: node.test:443\r\nUser-Agent: portway\r\n\r\n"
    assert dialogue(target=Endpoint("2001:db8::1", 7400)).request.startswith(b"CONNECT [2001:db8::1]:7400 HTTP/1.1\r\n")
    line = dialogue("http://me:p%C3%A4%3A@proxy.test:3128").request.split(b"\r\n")[3]
    assert line == b"Proxy-Authorization: Basic " + base64.b64encode("me:pä:".encode())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 Connection established\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nProxy-Agent: tinyproxy/1.11.1\r\n\r\n",
        b"HTTP/1.1 200\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 204 No Content\nVia: x\n\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)
@pytest.mark.parametrize("rest", [b"", b"\r\n\r\nHTTP/1.1 403 what the target sends"])
def test_what_follows_the_answer_is_the_target_s(answer: bytes, rest: bytes) -> None:
    """A success has no content, whatever its fields say (RFC 9110 §9.3.6)."""
    assert dialogue().take(answer + rest) == rest
    slowly = dialogue()
    for at in range(len(answer) - 1):
        assert slowly.take(answer[at : at + 1]) is None
    assert slowly.take(answer[-1:] + rest) == rest


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("403 Forbidden", "does not let connections to node.test:443 through (403 Forbidden): ask whoever runs it"),
        ("502 Bad Gateway", "cannot reach node.test:443 (502 Bad Gateway): check"),
        ("503", "cannot reach node.test:443 (503): check"),
        ("405 Method Not Allowed", "refuses to connect to node.test:443 (405 Method Not Allowed): is it an HTTP proxy"),
        ("302 Found", "refuses to connect to node.test:443 (302 Found)"),
        ("400 \x1b[2J\x07", "(400 �[2J�)"),
    ],
)
def test_a_refusal_says_what_to_do(status: str, expected: str) -> None:
    assert expected in refusal(f"HTTP/1.1 {status}\r\nContent-Length: 3\r\n\r\nno!".encode("latin-1"))


def test_a_refusal_is_shown_in_part() -> None:
    assert len(refusal(b"HTTP/1.1 403 " + b"x" * 10_000 + b"\r\n\r\n")) < 400


def test_a_login_that_is_wanted() -> None:
    """With none, with a wrong one, and with one of a kind that Portway does not know."""
    basic = b'HTTP/1.1 407 Login\r\nProxy-Authenticate: Negotiate\r\nproxy-authenticate: BASIC realm="x"\r\n\r\n'
    assert "wants a login (407): write it into its URL" in refusal(basic)
    wrong = refusal(basic, "http://me:secret@proxy.test:3128")
    assert "does not accept the user and password of its URL (407)" in wrong
    assert "secret" not in wrong
    assert "of its URL (401)" in refusal(b"HTTP/1.1 401 Unauthorized\r\n\r\n", "http://me:secret@proxy.test:3128")
    ntlm = b"HTTP/1.1 407 Login\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: Negotiate\r\n\r\n"
    assert "wants a login by NTLM, Negotiate, and Portway knows Basic alone" in refusal(ntlm)
    assert "wants a login (407)" in refusal(b"HTTP/1.1 407 Login\r\n\r\n")


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-x\r\n",
        b"\x15\x03\x01\x00\x02",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 20\r\n\r\n",
        b"\n\n",
    ],
)
def test_garbage_is_told(answer: bytes) -> None:
    assert "does not answer as an HTTP proxy does" in refusal(answer)


def test_a_header_has_an_end() -> None:
    """Whole or in pieces; one of the longest length is read."""
    head = b"HTTP/1.1 200 OK\r\nX: "
    longest = head + b"a" * (MAX_HEADER - len(head) - 4) + b"\r\n\r\n"
    assert dialogue().take(longest + b"rest") == b"rest"
    assert "sends a header of more than 16 KiB" in refusal(head + b"a" * MAX_HEADER)
    slowly = dialogue()
    piece = b"HTTP/1.1 200 OK\r\n"
    for _ in range(MAX_HEADER // len(piece)):
        assert slowly.take(piece) is None
    with pytest.raises(ProxyFailed, match="more than 16 KiB"):
        slowly.take(piece)


def test_an_end_before_the_answer() -> None:
    asked = dialogue()
    assert "closes the connection without an answer" in str(asked.ended())
    asked.take(b"HTTP/1.1 2")
    assert "in the middle of its answer" in str(asked.ended())
