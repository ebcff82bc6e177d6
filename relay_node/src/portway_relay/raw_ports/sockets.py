"""The sockets of raw TCP ports: open, paused or closed, for a tunnel of this node or of a sibling.

Not here: which port a label may have (account.py), what happens to a connection.
"""

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import ListenError
from portway_runtime.listener import Listener
from portway_runtime.listening import open_sockets

from portway_relay.errors import PortsUsedUp
from portway_relay.raw_ports.account import PortAccount
from portway_relay.raw_ports.tickets import Ticket

logger = logging.getLogger(__name__)

Connected = Callable[[str, socket.socket, Endpoint], None]


class _User(Enum):
    """Whose tunnel a port is open for. It has one label; while that moves between nodes, both may use the port."""

    HERE = "here"
    SIBLING = "sibling"


@dataclass(slots=True)
class _Open:
    label: str
    listener: Listener
    users: set[_User] = field(default_factory=set)


class RawPort:
    """A port that is held for a label of this node, listening or paused; `ticket` shows others that it may be."""

    def __init__(self, ports: "RawPorts", label: str, port: int) -> None:
        self.label = label
        self.ticket = b""
        self.port = port
        self.listening = False
        self._ports = ports

    def listen(self) -> None:
        """Accept connections. Raises ListenError when another process has taken the port meanwhile."""
        if not self.listening:
            self._ports.open(self.port, self.label, _User.HERE)
            self.listening = True

    def pause(self) -> None:
        """Refuse connections, unless a sibling has the tunnel by now; the port stays held."""
        if self.listening:
            self.listening = False
            self._ports.shut(self.port, self.label, _User.HERE)

    def release(self) -> None:
        """Stop listening and let the port rest."""
        self.pause()
        self._ports.account.release(self.port)


class RawPorts:
    """The raw ports that a node listens on."""

    def __init__(
        self, host: str, account: PortAccount, sign: Callable[[str, int], Ticket], connected: Connected
    ) -> None:
        """
        host: where to listen.
        sign: makes the ticket for a label's port of this node's blocks.
        connected: called with the label, the connection and the peer's address; owns the connection.
        """
        self._host = host
        self._sign = sign
        self._connected = connected
        self._open: dict[int, _Open] = {}
        self._closed = False
        self.account = account

    def __len__(self) -> int:
        return len(self._open)

    def take(self, label: str, shown: Ticket | None) -> RawPort:
        """A listening port for `label`: that of the ticket, the newest one for its port, if it may have that one.

        Raises PortsUsedUp; and ListenError when another port would fail in the same way, for want of descriptors or
        because the host is not this machine's.
        """
        for port in self.account.candidates(label, None if shown is None else shown.port):
            raw = RawPort(self, label, port)
            try:
                raw.listen()
            except ListenError as error:
                if not error.port_taken:
                    raise
                logger.debug("raw port skipped: %s", error)
                continue
            self.account.hold(port, label)
            self.endorse(raw, b"" if shown is None else shown.encoded)
            return raw
        raise PortsUsedUp(
            f"all {len(self.account.range)} raw TCP ports of this region are taken; try again in a minute, or ask the "
            "operator for a larger range (--raw-ports)"
        )

    def endorse(self, raw: RawPort, shown: bytes) -> None:
        """Give a port its ticket: a new one of this node where the block is its own, else the one that was shown."""
        raw.ticket = self._sign(raw.label, raw.port).encoded if self.account.is_mine(raw.port) else shown

    def serve(self, port: int, label: str) -> None:
        """Listen for a sibling's tunnel. A failure is logged only: the other nodes of the region serve the port too."""
        if self._closed:
            return
        try:
            self.open(port, label, _User.SIBLING)
        except ListenError as error:
            logger.warning("raw port of a sibling not served: %s", error)

    def stop_serving(self, port: int, label: str) -> None:
        """Stop listening for a sibling's tunnel."""
        self.shut(port, label, _User.SIBLING)

    @property
    def listeners(self) -> list[Listener]:
        """What accepts connections at the ports that are open."""
        return [one.listener for one in self._open.values()]

    def open_no_more(self) -> None:
        """The node stops, and the other nodes of the region serve its ports: who listens now may be finished."""
        self._closed = True

    def close(self) -> None:
        """Stop listening for good, now."""
        self.open_no_more()
        for port in list(self._open):
            self._open.pop(port).listener.close()

    def open(self, port: int, label: str, user: _User) -> None:
        """Listen on a port for this label and user. Raises ListenError."""
        if self._closed:
            raise ListenError("this node is stopping")
        current = self._open.get(port)
        if current is not None and current.label != label:
            # The newest ticket is the new label's; the old one must not get its visitors.
            self._open.pop(port).listener.close()
            current = None
        if current is None:
            sockets = open_sockets(Endpoint(self._host, port))
            listener = Listener(sockets, lambda sock, peer: self._connected(label, sock, peer))
            current = self._open[port] = _Open(label, listener)
        current.users.add(user)

    def shut(self, port: int, label: str, user: _User) -> None:
        """Close the label's port unless the other user still needs it."""
        current = self._open.get(port)
        if current is not None and current.label == label:
            current.users.discard(user)
            if not current.users:
                # Those who came before are led to where the tunnel is now.
                self._open.pop(port).listener.retire()
