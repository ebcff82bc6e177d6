"""Visitors of a tunnel, as sockets: TLS with the right name, whatever the system's resolver thinks of it."""

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


def visit(tunnel: Tunnel, ca: Path, *alpn: str) -> ssl.SSLSocket:
    """A TLS connection to the tunnel's public address. Raises OSError (an ssl.SSLError where it is refused)."""
    plain = socket.create_connection((LOOPBACK, tunnel.port), TIMEOUT)
    try:
        return tls_context(ca, *alpn).wrap_socket(plain, server_hostname=tunnel.host)
    except BaseException:
        plain.close()
        raise


def visit_raw(tunnel: Tunnel) -> socket.socket:
    """A TCP connection to the tunnel's raw port."""
    return socket.create_connection(tunnel.tcp_socket, TIMEOUT)


def receive(connection: socket.socket) -> bytes:
    """Everything until the end."""
    received = bytearray()
    while piece := connection.recv(65_536):
        received += piece
    return bytes(received)


def ask(tunnel: Tunnel, ca: Path, path: str = "/") -> bytes:
    """The whole answer to one HTTP/1.1 request on a connection of its own."""
    with visit(tunnel, ca, "http/1.1") as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {tunnel.host}\r\nConnection: close\r\n\r\n".encode())
        return receive(connection)
