"""Visitors of raw TCP ports: each connection is led to its tunnel by label, wherever that is now.

Here: what is known at once and what is looked up. Not here: which label a port belongs to (raw_ports/), where a label
is (routing/lookup.py), visits (visits.py).
"""

import socket
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from portway_runtime.balancers import BalancedConnections, Network
from portway_runtime.clocks import Monotonic
from portway_runtime.endpoints import Endpoint
from portway_runtime.rates import AddressRate
from portway_runtime.shares import PrefixShares
from portway_runtime.tasks import Tasks

from portway_relay.routing.lookup import Destination, DestinationFinder


class RawVisitStarter(Protocol):
    """Begins visits."""

    def start_raw(self, sock: socket.socket, peer: Endpoint, destination: Destination | None, region: str) -> None: ...


class RawVisitors:
    """Every connection to a raw port."""

    def __init__(
        self,
        finder: DestinationFinder,
        visits: RawVisitStarter,
        region: str,
        *,
        balancers: Sequence[Network],
        rate: AddressRate,
        header_time: float,
        max_waiting: int,
        clock: Monotonic,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """
        balancers: networks of load balancers in front, whose connections begin with a PROXY header within `header_time`
            seconds.
        rate: limits new connections of one address.
        max_waiting: visitors that wait for a lookup, in all, their prefixes share it; and connections of balancers that
            wait for their header.
        """
        self._balanced = BalancedConnections(
            "raw",
            balancers,
            time_limit=header_time,
            capacity=max_waiting,
            clock=clock,
            refused=self._count_rejected,
            opaque=True,
        )
        self._rate = rate
        self.rejected: Counter[str] = Counter()  # by reason
        self._finder = finder
        self._visits = visits
        self._region = region
        self._waiting = PrefixShares(max_waiting, clock)
        self._tasks = Tasks("raw visitors", on_failure)

    @property
    def half_open(self) -> int:
        """Connections whose first bytes are awaited."""
        return len(self._balanced)

    @property
    def evicted(self) -> int:
        """Connections that were closed before their PROXY header came, to make room."""
        return self._balanced.evicted

    def connected(self, label: str, sock: socket.socket, peer: Endpoint) -> None:
        """Take over a connection to the raw port of a label, and its socket."""
        self._balanced.add(sock, peer, partial(self._accept, label))

    def _count_rejected(self, reason: str) -> None:
        self.rejected[reason] += 1

    def _accept(self, label: str, sock: socket.socket, peer: Endpoint) -> None:
        if not self._rate.take(peer.host):
            self._count_rejected("raw_rate")
            sock.close()
            return
        destination = self._finder.known(label)
        if destination is not None:
            self._visits.start_raw(sock, peer, destination, self._region)
        elif not self._waiting.take(peer.host):
            sock.close()
        else:
            finding = self._tasks.spawn(
                self._find(label, sock, peer), name="find a raw port's tunnel", on_cut=sock.close
            )
            finding.add_done_callback(lambda _: self._waiting.give_back(peer.host))

    async def over(self) -> None:
        """Wait until no connection waits for its header or for a lookup."""
        await self._balanced.over()
        await self._tasks.over()

    async def close(self) -> None:
        """Close the connections that wait for their header or for a lookup."""
        self._balanced.close()
        await self._tasks.close()

    async def _find(self, label: str, sock: socket.socket, peer: Endpoint) -> None:
        destination = await self._finder.find(label, self._region, peer.host)
        self._visits.start_raw(sock, peer, destination, self._region)
