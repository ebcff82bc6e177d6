"""portway_runtime.proxy_headers: which first bytes are one."""

import pytest
from portway_runtime.endpoints import Endpoint
from portway_runtime.proxy_headers import notice_header

PEER = Endpoint("192.0.2.7", 4000)


@pytest.mark.parametrize(
    "first_bytes",
    [
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 443\r\n",
        b"PROXY TCP6 2001:db8::1 2001:db8::2 5000 443\r\n",
        b"PROXY UNKNOWN\r\n",
        b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00",
        b"\r\n\r\n\x00\r\nQUIT\n\x21\x21\x00\x24",
    ],
)
def test_both_versions_are_recognised(first_bytes: bytes) -> None:
    """Of either family, and those that a load balancer sends for its own checks."""
    assert notice_header(first_bytes, PEER, port="public")


def test_those_of_one_address_are_one_fact(caplog: pytest.LogCaptureFixture) -> None:
    """The log counts what it is told in the same words: the peer's port is not among them."""
    for port in (4000, 4001):
        assert notice_header(b"PROXY UNKNOWN\r\n", Endpoint("192.0.2.7", port), port="public")
    assert {(one.__dict__["port"], one.__dict__["peer"]) for one in caplog.records} == {("public", "192.0.2.7")}


@pytest.mark.parametrize(
    "first_bytes",
    [b"", b"\r\n\r\n", b"PROXY", b"PROXYTCP4 ", b"PROXY / HTTP/1.1\r\n", b"\x16\x03\x01", b" PROXY TCP4 "],
)
def test_nothing_else_is(first_bytes: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """PROXY is a token, and so a method that HTTP may have."""
    assert not notice_header(first_bytes, PEER, port="public")
    assert not caplog.records
