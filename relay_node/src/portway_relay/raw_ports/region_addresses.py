"""What a raw tunnel's BIND waits for: a free port, and listening siblings.

Here: the order of these, each with a time limit; nothing is waited for where this node knows enough. Not here: the
account (account.py), tickets, the calls to a registry and to siblings.
"""

import asyncio
from typing import Final, Protocol

from portway_relay.raw_ports.account import PortAccount

# Seconds that `forward()` waits for the nodes of the region to listen on the new port: it has to be quick.
SIBLINGS_LISTEN_TIME: Final = 0.02


class Siblings(Protocol):
    """The other nodes of the region."""

    def unacknowledged(self) -> list[asyncio.Future[None]]:
        """For each sibling with unconfirmed announcements of raw ports: a future, done when it listens on them."""
        ...


class Reservation(Protocol):
    """Gets more ports from a registry."""

    async def room(self) -> bool:
        """Ask for more. Whether there may be a free port now."""
        ...

    def taken(self) -> None:
        """A port was given to a tunnel."""
        ...


class RegionAddresses:
    """Raw addresses of the region, as this node gives them to tunnels."""

    def __init__(self, account: PortAccount, reservation: Reservation, siblings: Siblings) -> None:
        self._account = account
        self._reservation = reservation
        self._siblings = siblings

    async def prepare(self, label: str, wanted: int | None) -> None:
        """Make room for the label's port where there is none; without a turn of the loop where there is. May be
        cancelled.

        wanted: the port that its newest ticket names.
        """
        while not self._has(label, wanted) and next(self._account.candidates(label, wanted), None) is None:
            # Other BINDs that wait may take what was reserved first.
            if not await self._reservation.room():
                break

    def taken(self) -> list[asyncio.Future[None]]:
        """Note that a port was given and announced; the futures of siblings that do not listen on it yet."""
        self._reservation.taken()
        return self._siblings.unacknowledged()

    async def listening(self, unacknowledged: list[asyncio.Future[None]]) -> None:
        """Wait for those siblings, for at most 20 ms. May be cancelled."""
        await asyncio.wait(unacknowledged, timeout=SIBLINGS_LISTEN_TIME)

    def _has(self, label: str, port: int | None) -> bool:
        return port is not None and self._account.holder(port) == label
