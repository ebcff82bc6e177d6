"""The contract of GeoIP: an address in, a position out.

Here: the contract, and how the text of an address is read. Not here: the data (table.py, database.py).
"""

import socket
from typing import Final, Protocol

from portway_geo.position import Position

_MAPPED_PREFIX: Final = b"\0" * 10 + b"\xff\xff"  # ::ffff:0:0/96, RFC 4291 §2.5.5.2


class Locator(Protocol):
    """Answers from memory or from a mapped file, so it may be called on the event loop."""

    async def load(self) -> None:
        """Read the data without blocking the event loop; until this is done `locate` returns None.

        Further calls do nothing. Raises GeoError when the data cannot be used. After a cancellation it may be called
        again.
        """
        ...

    def locate(self, address: str) -> Position | None:
        """The position of an IPv4 or IPv6 address (an IPv4-mapped one as IPv4), None when it is unknown.

        Never raises: private and reserved addresses, host names and garbage are unknown.
        """
        ...

    def made_at(self) -> int:
        """When the data was made, in seconds since the Unix epoch; 0 when it does not say, and before it is loaded."""
        ...

    def close(self) -> None:
        """Close files; `locate` is not called after this. Further calls do nothing."""
        ...


def packed(address: str) -> bytes | None:
    """An address as 4 or 16 bytes, an IPv4-mapped one as 4; None for text that is not an address."""
    try:
        if ":" not in address:
            return socket.inet_pton(socket.AF_INET, address)
        raw = socket.inet_pton(socket.AF_INET6, address)
    except (OSError, ValueError):
        return None
    return raw[12:] if raw.startswith(_MAPPED_PREFIX) else raw
