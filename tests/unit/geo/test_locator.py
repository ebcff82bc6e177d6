"""Addresses as bytes."""

import pytest
from portway_geo.locator import packed


@pytest.mark.parametrize(
    ("address", "raw"),
    [
        ("192.0.2.1", bytes([192, 0, 2, 1])),
        ("2001:db8::1", bytes.fromhex("20010db8000000000000000000000001")),
        ("::ffff:192.0.2.1", bytes([192, 0, 2, 1])),
        ("::FFFF:C000:201", bytes([192, 0, 2, 1])),
    ],
)
def test_addresses_are_packed(address: str, raw: bytes) -> None:
    """4 or 16 bytes; an IPv4-mapped address is an IPv4 address."""
    assert packed(address) == raw


@pytest.mark.parametrize(
    "text", ["", "localhost", "1.2.3", "1.2.3.4.5", "01.2.3.4", "[::1]", "::1%lo", "1.2.3.4\0", "é"]
)
def test_anything_else_is_no_address(text: str) -> None:
    """Names, brackets, zones and garbage are not known."""
    assert packed(text) is None
