"""Endpoints: what is read as one, and how it is written."""

import pytest
from portway_runtime.endpoints import Endpoint, is_dns_name, is_host, parse_endpoint, parse_registry


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("relay.example.com:443", Endpoint("relay.example.com", 443)),
        ("127.0.0.1:0", Endpoint("127.0.0.1", 0)),
        ("[::1]:443", Endpoint("::1", 443)),
        ("[2001:db8:0:1:2:3:4:5]:443", Endpoint("2001:db8:0:1:2:3:4:5", 443)),
        ("[::]:443", Endpoint("::", 443)),
        ("h:65535", Endpoint("h", 65_535)),
    ],
)
def test_an_endpoint_is_a_host_and_a_port(text: str, endpoint: Endpoint) -> None:
    """Names, IPv4, IPv6 in brackets."""
    assert parse_endpoint(text) == endpoint
    assert parse_endpoint(text, default_port=7) == endpoint


@pytest.mark.parametrize("text", ["*:443", ":443"])
def test_every_address_is_a_wildcard(text: str) -> None:
    """Only where it is allowed."""
    assert parse_endpoint(text, wildcard=True) == Endpoint("", 443)
    with pytest.raises(ValueError, match="use HOST:PORT"):
        parse_endpoint(text)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("relay.example.com", "relay.example.com"),
        ("[::1]", "::1"),
        ("::1", "::1"),
        ("[2001:db8:0:1:2:3:4:5]", "2001:db8:0:1:2:3:4:5"),
        ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1:2:3:4:5"),
        ("fe80::1", "fe80::1"),
    ],
)
def test_a_port_may_be_left_out_where_there_is_another(text: str, host: str) -> None:
    """An address without a port gets the one that was meant, and is refused where none was."""
    assert parse_endpoint(text, default_port=443) == Endpoint(host, 443)
    with pytest.raises(ValueError, match="use HOST:PORT"):
        parse_endpoint(text)


@pytest.mark.parametrize(
    "text", ["h:", "h:x", "h:-1", "h:65536", "[::1]:", "[::1]x:443", "[::1:443", "]:443", "[]:443", "h:1 "]
)
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    """With or without a port to fall back on."""
    with pytest.raises(ValueError):
        parse_endpoint(text)
    with pytest.raises(ValueError):
        parse_endpoint(text, default_port=443)


@pytest.mark.parametrize("text", ["relay.example.com:443", "127.0.0.1:0", "[::1]:443"])
def test_an_endpoint_is_written_as_it_is_read(text: str) -> None:
    """IPv6 addresses get their brackets back."""
    assert str(parse_endpoint(text)) == text


@pytest.mark.parametrize(
    "text", ["relay-1.example.com", "localhost", "a_b", "192.0.2.1", "::1", "2001:DB8::1", "x" * 63]
)
def test_a_host_is_a_name_or_an_address(text: str) -> None:
    """Whether there is one or not."""
    assert is_host(text)
    assert is_dns_name(text) is (":" not in text)


CONTROLS = ["a\n", "a\x1b", "a\x9b", "fe80::1%\x1b[2J", "::1\0"]


@pytest.mark.parametrize(
    "text",
    [*CONTROLS, "", ".", "a.", "a..b", "a b", "a/b", "a@b", "é", "[::1]", "::1%eth0", "x" * 64, "x." * 126 + "xx"],
)
def test_anything_else_is_no_host(text: str) -> None:
    """What could end a line, control a terminal, lead to a path or to another machine than it seems to."""
    assert not is_host(text)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("tun.example.com", "tun.example.com", 443),
        ("tun.example.com:7400", "tun.example.com", 7400),
        ("192.0.2.1", "192.0.2.1", 443),
        ("[2001:db8::1]", "2001:db8::1", 443),
        ("[2001:db8::1]:7400", "2001:db8::1", 7400),
    ],
)
def test_a_registry_without_a_port_is_at_that_of_nodes(text: str, host: str, port: int) -> None:
    """Which is 443."""
    assert parse_registry(text) == Endpoint(host, port)


@pytest.mark.parametrize("text", ["", ":443", "a:", "a:0", "a:x", "2001:db8::1", "::1:7400", "*"])
def test_what_names_no_registry_is_refused(text: str) -> None:
    """Of an IPv6 address without brackets nobody knows whether its end is a port."""
    with pytest.raises(ValueError, match="use HOST:PORT"):
        parse_registry(text)
