"""Where the load connects, as a value that goes on a command line: an address and, for TLS, a server name and a CA."""

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
        """None without TLS. Verifies as a browser does; never resumes a session: every connection costs a full
        handshake."""
        if self.server_name is None:
            return None
        context = ssl.create_default_context(cafile=self.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return context

    def connect(self, context: ssl.SSLContext | None, *, nodelay: bool = True) -> socket.socket:
        """A connected blocking socket, its handshake done."""
        plain = socket.create_connection((self.host, self.port), timeout=30)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, nodelay)
        if context is None:
            return plain
        return context.wrap_socket(plain, server_hostname=self.server_name)

    def request(self, path: str, *, close: bool = False) -> bytes:
        host = self.server_name or self.host
        ending = "Connection: close\r\n" if close else ""
        return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{ending}\r\n".encode()


def read_head(connection: socket.socket) -> tuple[int, bytes]:
    """The length of a response's body, and the part of the body that was read with the head.

    Raises ConnectionError when the status is not 200 or the response has no Content-Length.
    """
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
