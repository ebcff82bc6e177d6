"""Where a visitor connects: an address, and a TLS name and CA when it is a TLS one."""

import json
import socket
import ssl
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Endpoint:
    host: str
    port: int
    server_name: str | None = None  # None: no TLS
    ca: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Endpoint":
        return cls(**json.loads(text))

    def context(self) -> ssl.SSLContext | None:
        """Verifies as a browser would; never resumes a session, so that every connection pays for its handshake."""
        if self.server_name is None:
            return None
        context = ssl.create_default_context(cafile=self.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return context

    def connect(self, context: ssl.SSLContext | None) -> socket.socket:
        """A connected blocking socket, its handshake done."""
        plain = socket.create_connection((self.host, self.port), timeout=30)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is None:
            return plain
        return context.wrap_socket(plain, server_hostname=self.server_name)

    def request(self, path: str, *, close: bool = False) -> bytes:
        host = self.server_name or self.host
        ending = "Connection: close\r\n" if close else ""
        return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{ending}\r\n".encode()


def read_head(connection: socket.socket) -> tuple[int, bytes]:
    """Length of a response's body, and what of the body came with the head. Raises ConnectionError."""
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = connection.recv(65_536)
        if not chunk:
            raise ConnectionError(f"closed before the response's head was complete: {received!r}")
        received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    if status.split(" ")[1] != "200":
        raise ConnectionError(f"unexpected answer: {status}")
    for field in fields:
        name, _, value = field.partition(":")
        if name.lower() == "content-length":
            return int(value), body
    raise ConnectionError("a response without Content-Length")
