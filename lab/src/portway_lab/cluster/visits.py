"""Named tunnels and their visitors: every byte says which tunnel it is from, so that a wrong one is noticed.

An answer is a pure function of the tunnel's name and the request:

    GET /SIZE          the name, and SIZE bytes that differ for each name and size
    GET /SIZE/SECONDS  the same, in pieces spread over that time
    POST /SIZE         the checksum of the body, with the name

Here: the answers, and a visitor that connects, asks and checks. Not here: the program that answers (named_tunnels.py).
"""

import hashlib
import random
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from portway_lab.cluster.clients import NamedTunnel

_PIECES = 10


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to a tunnel: `size` bytes down, or up for an upload; the answer spread over `seconds` if not 0."""

    size: int
    upload: bool = False
    seconds: float = 0.0

    def request(self, name: str, host: str) -> bytes:
        head = f"Host: {host}\r\n"
        if self.upload:
            body = _bytes_of(f"to {name}", self.size)
            return f"POST /{self.size} HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        path = f"/{self.size}/{self.seconds}" if self.seconds else f"/{self.size}"
        return f"GET {path} HTTP/1.1\r\n{head}\r\n".encode()

    def expected(self, name: str) -> bytes:
        """The whole answer of the tunnel with this name, with its head."""
        if self.upload:
            return answer_upload(name, _bytes_of(f"to {name}", self.size))
        return answer(name, self.size)


def answer(name: str, size: int) -> bytes:
    return _http(name, _bytes_of(f"from {name}", size))


def answer_upload(name: str, body: bytes) -> bytes:
    return _http(name, hashlib.sha256(body).hexdigest().encode())


def pieces(whole: bytes) -> list[bytes]:
    """The answer in ten pieces of about the same length."""
    step = len(whole) // _PIECES + 1
    return [whole[start : start + step] for start in range(0, len(whole), step)]


def _http(name: str, body: bytes) -> bytes:
    checksum = hashlib.sha256(body).hexdigest()
    return (
        f"HTTP/1.1 200 OK\r\nX-Tunnel: {name}\r\nX-Checksum: {checksum}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


def _bytes_of(whose: str, size: int) -> bytes:
    return random.Random(f"{whose} {size}").randbytes(size)


_READ = 65_536
# Answers of a node itself, with its certificate for the name: no local server listens, or no client takes the visit.
_PAGES_OF_NODES = (b"HTTP/1.1 502 Bad Gateway\r\n", b"HTTP/1.1 503 Service Unavailable\r\n")


class WrongBytes(Exception):
    """A visitor got bytes that its tunnel did not send, which must never happen."""


class NotServed(ConnectionError):
    """The tunnel was not reached: the node answered so, or the connection ended before the answer was complete."""


def visitor_context(ca: Path) -> ssl.SSLContext:
    """Verifies names as a browser does; each connection makes a full handshake."""
    context = ssl.create_default_context(cafile=str(ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def connect(context: ssl.SSLContext, address: str, tunnel: NamedTunnel, timeout: float) -> ssl.SSLSocket:
    """A visitor's connection to the tunnel at the node that listens at `address`, host:port. Raises OSError."""
    host, _, port = address.rpartition(":")
    plain = connect_raw(host, int(port), timeout)
    try:
        return context.wrap_socket(plain, server_hostname=tunnel.host)
    except BaseException:
        plain.close()
        raise


def connect_raw(host: str, port: int, timeout: float) -> socket.socket:
    """A visitor's connection without TLS, to a tunnel's raw port. Raises OSError."""
    plain = socket.create_connection((host, port), timeout)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return plain


def ask(connection: socket.socket, tunnel: NamedTunnel, question: Ask) -> None:
    """Ask, and read the whole answer. Raises WrongBytes, or NotServed or another OSError when the answer does not
    come."""
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
