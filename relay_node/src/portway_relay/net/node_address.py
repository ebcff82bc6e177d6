"""Where a node listens and is reached. Made before all that tells others the address, opened when the node starts."""

import socket
from dataclasses import dataclass

from portway_runtime.endpoints import Endpoint
from portway_runtime.listening import open_sockets

from portway_relay.config import NodeConfig


@dataclass(frozen=True, slots=True)
class PublicAddress:
    """Where visitors reach this node's tunnels: at `<label>.<zone>:<port>`, raw ports at `raw_host`."""

    zone: str
    port: int
    raw_host: str


class NodeAddress:
    """The address of the public port, which visitors, clients and other nodes share."""

    def __init__(self, config: NodeConfig) -> None:
        """Nothing is opened yet: the port of `listening` is 0 until `open` is called."""
        self._config = config
        self.listening = Endpoint("", 0)

    def open(self) -> list[socket.socket]:
        """Listening sockets, which the caller owns. Raises ListenError."""
        sockets = open_sockets(self._config.listen)
        name = sockets[0].getsockname()
        self.listening = Endpoint(name[0], name[1])
        return sockets

    @property
    def advertised(self) -> Endpoint:
        """Where clients and other nodes are told to dial; without a port of its own, the one that is listened on."""
        at = self._config.advertise or self._config.listen
        return Endpoint(at.host, at.port or self.listening.port)

    def public_address(self) -> PublicAddress:
        """Where visitors reach this node's tunnels now."""
        config = self._config
        return PublicAddress(config.zone, config.public_port or self.listening.port, config.raw_host or config.zone)
