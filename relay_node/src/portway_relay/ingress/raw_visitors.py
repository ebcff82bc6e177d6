"""Raw TCP ports: a visitor of one is led to its tunnel by label, wherever that is now.

Here: what is known at once, or asked for. Not here: which port is whose (tunnels/ports.py, mesh/sibling_ports.py),
where a label is (mesh/lookup.py), visits (tunnels/visits.py).
"""

import socket
from collections.abc import Callable
from typing import Protocol

from portway_runtime.endpoints import Endpoint
from portway_runtime.rates import AddressRate
from portway_runtime.tasks import Tasks

from portway_relay.ingress.public_port import Finder
from portway_relay.visits import Destination


class Starts(Protocol):
    """Who begins visits."""

    def start_raw(self, sock: socket.socket, peer: Endpoint, destination: Destination | None, region: str) -> None: ...


class RawVisitors:
    """Every connection to a raw port."""

    def __init__(
        self,
        finder: Finder,
        visits: Starts,
        region: str,
        *,
        rate: AddressRate,
        most: int,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """`rate` is asked for each connection's address; `most` visitors may wait until their tunnel is found."""
        self._rate = rate
        self.rejected = 0
        self._finder = finder
        self._visits = visits
        self._region = region
        self._most = most
        self._tasks = Tasks("raw front", on_failure)

    def connected(self, label: str, sock: socket.socket, peer: Endpoint) -> None:
        """Owns the socket."""
        if not self._rate.take(peer.host):
            self.rejected += 1
            sock.close()
            return
        destination = self._finder.known(label, self._region)
        if destination is not None:
            self._visits.start_raw(sock, peer, destination, self._region)
        elif len(self._tasks) >= self._most:
            sock.close()
        else:
            self._tasks.spawn(self._find(label, sock, peer), name="find a raw port's tunnel", on_cut=sock.close)

    async def close(self) -> None:
        """Drop those that wait."""
        await self._tasks.close()

    async def _find(self, label: str, sock: socket.socket, peer: Endpoint) -> None:
        destination = await self._finder.find(label, self._region)
        self._visits.start_raw(sock, peer, destination, self._region)
