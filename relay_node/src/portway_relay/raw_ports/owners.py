"""Whose word about a raw port counts: the owner of its block, and of its tickets the newest.

Here: a registry's list of owners, and the newest ticket of each port. Pure. Not here: signatures (tickets.py).
"""

from collections.abc import Callable, Iterable

from portway_relay.config import PortRange
from portway_relay.raw_ports.tickets import Ticket


class PortOwners:
    """The owners of a region's ports. Without a registry the last list stays."""

    def __init__(self, node: str, is_mine: Callable[[int], bool]) -> None:
        """`node` is this one. is_mine: whether a port is of one of its own blocks, which it knows first."""
        self._node = node
        self._is_mine = is_mine
        self._blocks: list[tuple[PortRange, str]] = []
        self._newest: dict[int, Ticket] = {}  # by port
        self._subscribers: list[Callable[[], None]] = []

    def subscribe(self, learned: Callable[[], None]) -> None:
        """Call `learned()` after each list that is taken up."""
        self._subscribers.append(learned)

    def learn(self, blocks: Iterable[tuple[PortRange, str]]) -> None:
        """Take up a registry's whole list: blocks and the nodes that they are reserved for."""
        self._blocks = list(blocks)
        for port, ticket in list(self._newest.items()):
            if self.owner(port) != ticket.node:
                del self._newest[port]
        for learned in self._subscribers:
            learned()

    @property
    def mine(self) -> list[PortRange]:
        """The blocks that the list names this node for."""
        return [ports for ports, node in self._blocks if node == self._node]

    def owner(self, port: int) -> str | None:
        """The node that gives this port to labels."""
        if self._is_mine(port):
            return self._node
        return next((node for ports, node in self._blocks if port in ports and node != self._node), None)

    def signed(self, ticket: Ticket) -> Ticket:
        """Remember a ticket that this node has signed for a port of its own: an earlier one does not count."""
        self._newest[ticket.port] = ticket
        return ticket

    def newest(self, ticket: Ticket) -> Ticket | None:
        """The newest ticket for this one's port, when that is for the same label: the port is the label's then.

        None for a ticket of a node that does not own the port. It is remembered, the number of ports bounds the memory.
        """
        if self.owner(ticket.port) != ticket.node:
            return None
        newest = self._newest.get(ticket.port)
        if newest is None or newest.node != ticket.node or newest.time_ms < ticket.time_ms:
            newest = self._newest[ticket.port] = ticket
        return newest if newest.label == ticket.label else None
