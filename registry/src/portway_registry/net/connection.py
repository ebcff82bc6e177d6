"""What is decided about one connection of a port (admission.py), apart from its sockets (splice.py)."""

import ipaddress
from enum import Enum, auto
from typing import Protocol

from portway_runtime.endpoints import Endpoint


class Stage(Enum):
    """How far a connection has come."""

    WAITING = auto()  # its ClientHello is there; it waits for its turn
    STRANGER = auto()  # gRPC has it; no caller on it has been identified
    KNOWN = auto()  # a caller on it has been identified
    CLOSED = auto()


class Sockets(Protocol):
    """What moves a connection's bytes."""

    def open(self) -> None:
        """Begin to pass bytes on to gRPC."""

    def let_go(self) -> None:
        """Read no more, and close when answers have had time to be sent."""

    def close(self) -> None:
        """Close at once. May be called again."""


class Connection:
    """A connection, from its ClientHello to its end.

    peer, address: where it comes from, for everything that asks whose call one is.
    ingress: the node that has passed it on; "" for one that came here by itself.
    calls: those in progress; a known connection with one is not evicted.
    """

    __slots__ = ("address", "calls", "ingress", "let_go", "peer", "sockets", "stage", "used")

    def __init__(self, peer: Endpoint, sockets: Sockets, ingress: str = "") -> None:
        self.peer = peer
        self.ingress = ingress
        self.address = ipaddress.ip_address(peer.host)
        self.sockets = sockets
        self.stage = Stage.WAITING
        self.calls = 0
        self.used = 0.0  # about when its last call ended, by the clock of its port
        self.let_go = False  # whether it gets no further answers
