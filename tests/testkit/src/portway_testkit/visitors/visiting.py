"""Visitors of a tunnel as sockets: TLS with its name, independent of the system's resolver."""

import socket
import ssl
from pathlib import Path

from portway.tunnel import Tunnel

LOOPBACK = "127.0.0.1"
TIMEOUT = 30.0


def tls_context(ca: Path, *alpn: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca))
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def connect_tls(
    context: ssl.SSLContext,
    address: tuple[str, int],
    server_name: str | None,
    *,
    timeout: float = TIMEOUT,
    source: str = "",
    suppress_ragged_eofs: bool = True,
) -> ssl.SSLSocket:
    """A connection to an IP address and port, its handshake done. Raises OSError; ssl.SSLError when it is refused.

    It is wrapped before it connects: of a socket that is connected, and reset by the other end before it is wrapped,
    CPython's `wrap_socket` leaves one open that nobody can close (`SSLSocket._create`, in 3.11 to 3.13).
    """
    plain = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    connection = context.wrap_socket(plain, server_hostname=server_name, suppress_ragged_eofs=suppress_ragged_eofs)
    try:
        connection.settimeout(timeout)
        if source:
            connection.bind((source, 0))
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def visit(tunnel: Tunnel, ca: Path, *alpn: str) -> ssl.SSLSocket:
    """A TLS connection to the tunnel's public address. Raises OSError; ssl.SSLError when it is refused."""
    return connect_tls(tls_context(ca, *alpn), (LOOPBACK, tunnel.port), tunnel.host)


def visit_raw(tunnel: Tunnel) -> socket.socket:
    """A TCP connection to the tunnel's raw port."""
    return socket.create_connection(tunnel.tcp_socket, TIMEOUT)


def receive(connection: socket.socket) -> bytes:
    """Everything that is read until the end."""
    received = bytearray()
    while piece := connection.recv(65_536):
        received += piece
    return bytes(received)


def ask(tunnel: Tunnel, ca: Path, path: str = "/") -> bytes:
    """The whole answer to one HTTP/1.1 request on a connection of its own."""
    with visit(tunnel, ca, "http/1.1") as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {tunnel.host}\r\nConnection: close\r\n\r\n".encode())
        return receive(connection)
