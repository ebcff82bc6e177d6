"""Raw TCP ports as sockets: listening for a label, paused while its client is away, let go.

Here: sockets. Not here: which port it may be (ports.py), nor what happens to a connection (visits.py).
"""

import logging
import socket
from collections.abc import Callable

from portway_relay.config import Endpoint
from portway_relay.errors import ListenError, PortsUsedUp
from portway_relay.ingress.listener import Listener, open_sockets
from portway_relay.tunnels.ports import PortAccount

logger = logging.getLogger(__name__)

Connected = Callable[[str, socket.socket, Endpoint], None]


class RawPort:
    """A port that is held for a label; `listening` or not."""

    def __init__(self, ports: "RawPorts", label: str, port: int) -> None:
        self.label = label
        self.port = port
        self._ports = ports
        self._listener: Listener | None = None

    @property
    def listening(self) -> bool:
        return self._listener is not None

    def listen(self) -> None:
        """Accept connections. Raises ListenError when another process took the port meanwhile."""
        if self._listener is None:
            self._listener = self._ports.listener(self.label, self.port)

    def pause(self) -> None:
        """Refuse connections; the port stays held."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def release(self) -> None:
        """Let go of it for good."""
        self.pause()
        self._ports.released(self)


class RawPorts:
    """The raw ports of a node."""

    def __init__(self, host: str, account: PortAccount, connected: Connected) -> None:
        """`connected(label, socket, peer)` owns the socket."""
        self._host = host
        self._connected = connected
        self.account = account

    def take(self, label: str, wanted: int | None) -> RawPort:
        """A listening port for `label`, the wanted one if it may be.

        Raises PortsUsedUp, and ListenError when no other port would do better: no descriptor is left, the host is not
        this machine's.
        """
        for port in self.account.candidates(label, wanted):
            raw = RawPort(self, label, port)
            try:
                raw.listen()
            except ListenError as error:
                if not error.port_taken:
                    raise
                logger.debug("raw port skipped: %s", error)
                continue
            self.account.hold(port, label)
            return raw
        raise PortsUsedUp(
            f"all {len(self.account.range)} raw TCP ports of this node are taken; try again in a minute, or ask the "
            "operator for a larger range (--raw-ports)"
        )

    def listener(self, label: str, port: int) -> Listener:
        sockets = open_sockets(Endpoint(self._host, port))
        return Listener(sockets, lambda sock, peer: self._connected(label, sock, peer))

    def released(self, raw: RawPort) -> None:
        self.account.let_go(raw.port)
