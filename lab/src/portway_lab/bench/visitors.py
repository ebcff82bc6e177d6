"""Program: visitors that connect, ask once, read the answer to its end and leave, so many at a time.

Every one does a full TLS handshake and verifies the certificate. Prints {"connections", "failures", "seconds"}.
"""

import contextlib
import errno
import json
import select
import socket
import ssl
import sys
import time

from portway_lab.bench.endpoint import Endpoint


class Visitors:
    """A fixed number of visitors on one epoll; each that is done is followed by the next."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.done = 0
        self.failures = 0
        self._endpoint = endpoint
        self._context = endpoint.context()
        self._request = endpoint.request("/", close=True)
        self._epoll = select.epoll()
        self._visitors: dict[int, _Visitor] = {}

    def run(self, at_once: int, duration: float) -> float:
        started = time.perf_counter()
        for _ in range(at_once):
            self._begin()
        while (elapsed := time.perf_counter() - started) < duration:
            for descriptor, _ in self._epoll.poll(0.1):
                self._go_on(self._visitors[descriptor])
        for visitor in self._visitors.values():
            visitor.socket.close()
        self._epoll.close()
        return elapsed

    def _begin(self) -> None:
        visitor = _Visitor(self._endpoint, self._context)
        self._visitors[visitor.socket.fileno()] = visitor
        self._epoll.register(visitor.socket.fileno(), select.EPOLLOUT)

    def _go_on(self, visitor: "_Visitor") -> None:
        descriptor = visitor.socket.fileno()
        try:
            wanted = visitor.step(self._request)
        except (OSError, ValueError):
            wanted = None
            visitor.answer = b""
        if wanted is not None:
            self._epoll.modify(descriptor, wanted)
            return
        if visitor.answer.startswith(b"HTTP/1.1 200 "):
            self.done += 1
        else:
            self.failures += 1
        with contextlib.suppress(OSError):  # a handshake that failed has closed it already
            self._epoll.unregister(descriptor)
        del self._visitors[descriptor]
        visitor.socket.close()
        self._begin()


class _Visitor:
    def __init__(self, endpoint: Endpoint, context: ssl.SSLContext | None) -> None:
        plain = socket.socket()
        plain.setblocking(False)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = plain.connect_ex((endpoint.host, endpoint.port))
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, "connect")
        self._context = context
        self._server_name = endpoint.server_name
        self._greeted = context is None
        self._asked = False
        self.answer = b""
        self.socket = plain

    def step(self, request: bytes) -> int | None:
        """Go on as far as it goes; what to wait for next, or None at the end. Raises OSError."""
        if self._context is not None and not isinstance(self.socket, ssl.SSLSocket):  # only a connected one is wrapped
            self.socket = self._context.wrap_socket(
                self.socket, server_hostname=self._server_name, do_handshake_on_connect=False
            )
        try:
            if not self._greeted:
                assert isinstance(self.socket, ssl.SSLSocket)
                self.socket.do_handshake()
                self._greeted = True
            if not self._asked:
                self.socket.send(request)
                self._asked = True
            while chunk := self.socket.recv(65_536):
                self.answer += chunk
        except (ssl.SSLWantReadError, BlockingIOError):
            return select.EPOLLIN
        except ssl.SSLWantWriteError:
            return select.EPOLLOUT
        return None


def main() -> None:
    endpoint = Endpoint.from_json(sys.argv[1])
    visitors = Visitors(endpoint)
    seconds = visitors.run(int(sys.argv[2]), float(sys.argv[3]))
    print(json.dumps({"connections": visitors.done, "failures": visitors.failures, "seconds": seconds}))


if __name__ == "__main__":
    main()
