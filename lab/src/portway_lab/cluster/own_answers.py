"""What a tunnel answers, so that every byte says whose it is: a pure function of its name and of what is asked.

Here: the answers, and whether bytes that came are one. Not here: who serves them (named_tunnels.py), who asks.

    GET /SIZE          the name, and SIZE bytes that no other name and no other size has
    GET /SIZE/SECONDS  the same, in pieces over that time
    POST /SIZE         the checksum of the body, under the name
"""

import hashlib
import random
from dataclasses import dataclass

_PIECES = 10


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to a tunnel."""

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
        """The whole answer of the tunnel of that name, head included."""
        if self.upload:
            return answer_upload(name, _bytes_of(f"to {name}", self.size))
        return answer(name, self.size)


def answer(name: str, size: int) -> bytes:
    return _http(name, _bytes_of(f"from {name}", size))


def answer_upload(name: str, body: bytes) -> bytes:
    return _http(name, hashlib.sha256(body).hexdigest().encode())


def pieces(whole: bytes) -> list[bytes]:
    """In order, about equally long."""
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
