"""What the registry asks of GeoIP: an address in, a position out.

Here: the contract, its value, and how an address is read. Not here: the data. table.py has the embedded
table, database.py the operator's file, opening.py chooses between them.
"""

import socket
from dataclasses import dataclass
from typing import Protocol

_MAPPED_PREFIX = b"\0" * 10 + b"\xff\xff"  # ::ffff:0:0/96, RFC 4291 §2.5.5.2


@dataclass(frozen=True, slots=True)
class Position:
    """A point in degrees, and the country around it (ISO 3166-1 alpha-2, empty when unknown)."""

    latitude: float
    longitude: float
    country: str = ""


class Locator(Protocol):
    """Answers from memory or from a mapped file; safe to call on the event loop."""

    async def load(self) -> None:
        """Make ready without holding up the event loop; until it is done `locate` answers None.

        Calling it again does nothing. Raises GeoError when the data cannot be used. Cancelled, it may
        be called again.
        """
        ...

    def locate(self, address: str) -> Position | None:
        """Where an IPv4 or IPv6 address is, an IPv4-mapped one as IPv4; None for what is not known.

        Never raises: private and reserved addresses, host names and garbage are not known.
        """
        ...

    def close(self) -> None:
        """Let go of files; `locate` is not called after it. Calling it again does nothing."""
        ...


def packed(address: str) -> bytes | None:
    """An address as 4 or 16 bytes, an IPv4-mapped one as 4; None for anything that is no address."""
    try:
        if ":" not in address:
            return socket.inet_pton(socket.AF_INET, address)
        raw = socket.inet_pton(socket.AF_INET6, address)
    except (OSError, ValueError):
        return None
    return raw[12:] if raw.startswith(_MAPPED_PREFIX) else raw
