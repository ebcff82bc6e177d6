"""Visitors of named tunnels: they know every byte that they must get.

Here: connecting to a node, asking, and telling another tunnel's bytes from a visit that failed. Not here: what
tunnels answer (own_answers.py), who visits when.
"""

import socket
import ssl
from pathlib import Path

from portway_lab.cluster.clients import NamedTunnel
from portway_lab.cluster.own_answers import Ask

_READ = 65_536
# What a node says itself, over a certificate that it has for the name: nobody listens, nobody takes it.
_PAGES_OF_NODES = (b"HTTP/1.1 502 Bad Gateway\r\n", b"HTTP/1.1 503 Service Unavailable\r\n")


class WrongBytes(Exception):
    """A visitor got what its tunnel did not send it: what must never be."""


class NotServed(ConnectionError):
    """Nobody was there: the node said so, or the connection ended before the answer did."""


def visitor_context(ca: Path) -> ssl.SSLContext:
    """Verifies names as a browser does, and pays for a whole handshake each time."""
    context = ssl.create_default_context(cafile=str(ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def connect(context: ssl.SSLContext, address: str, tunnel: NamedTunnel, timeout: float) -> ssl.SSLSocket:
    """A visitor of the tunnel at the node that listens at `address`, host:port. Raises OSError."""
    host, _, port = address.rpartition(":")
    plain = connect_raw(host, int(port), timeout)
    try:
        return context.wrap_socket(plain, server_hostname=tunnel.host)
    except BaseException:
        plain.close()
        raise


def connect_raw(host: str, port: int, timeout: float) -> socket.socket:
    """A visitor without TLS: of a raw port of a tunnel. Raises OSError."""
    plain = socket.create_connection((host, port), timeout)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return plain


def ask(connection: socket.socket, tunnel: NamedTunnel, question: Ask) -> None:
    """Ask, and read the whole answer. Raises WrongBytes; NotServed or another OSError when it does not come."""
    connection.sendall(question.request(tunnel.name, tunnel.host))
    expected = memoryview(question.expected(tunnel.name))
    at = 0
    while at < len(expected):
        piece = connection.recv(_READ)
        if not piece:
            raise NotServed(f"the connection ended {len(expected) - at} bytes early")
        if piece != expected[at : at + len(piece)]:
            if at == 0 and piece.startswith(_PAGES_OF_NODES):
                raise NotServed(f"the node answered {piece[9:12].decode()}")
            raise WrongBytes(f"{tunnel.name} was asked for {question}; at byte {at} came {piece[:200]!r}")
        at += len(piece)
