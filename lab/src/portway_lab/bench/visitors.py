"""Program: the load of one measure, as visitors of one endpoint.

A process of its own, so that the CPU time it uses is not counted and its interpreter lock delays nobody else.

usage: python -m portway_lab.bench.visitors KIND ENDPOINT ARGUMENTS; ENDPOINT is `Endpoint.to_json()`

    download BYTES                one connection; prints {"bytes", "seconds"}
    requests SECONDS              one connection, one request after the other; prints {"latencies_us", "seconds"}
    connections AT_ONCE SECONDS   connect, verify, ask, read to the end, leave; prints {"connections", "failures",
                                  "seconds"}
    answers COUNT                 new connections, one after the other, each until its first answer; prints
                                  {"nodelay_ms", "without_ms"}, with and without TCP_NODELAY
    idle COUNT                    ask once each, then stay connected; prints {"held"}, ends at end of file on stdin
"""

import contextlib
import errno
import json
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from portway_lab.bench.endpoint import Endpoint, read_head

_BUFFER: Final = 1 << 20
_WARM_UP: Final = 50  # requests before latencies are recorded: the first ones fill caches and open lanes


def download(endpoint: Endpoint, size: int) -> dict[str, Any]:
    """At least `size` bytes over one connection, in whole responses."""
    buffer = bytearray(_BUFFER)
    with endpoint.connect(endpoint.context()) as connection:
        received = 0
        started = time.perf_counter()
        while received < size:
            connection.sendall(endpoint.request("/big"))
            length, first = read_head(connection)
            remaining = length - len(first)
            while remaining > 0:
                count = connection.recv_into(buffer, min(remaining, _BUFFER))
                if count == 0:
                    raise ConnectionError(f"the download broke off {remaining} bytes early")
                remaining -= count
            received += length
        seconds = time.perf_counter() - started
    return {"bytes": received, "seconds": seconds}


def requests(endpoint: Endpoint, duration: float) -> dict[str, Any]:
    """Requests in sequence over one connection."""
    request = endpoint.request("/")
    latencies: list[float] = []
    clock = time.perf_counter_ns
    with endpoint.connect(endpoint.context()) as connection:
        for _ in range(_WARM_UP):
            _ask(connection, request)
        started = clock()
        end = started + int(duration * 1e9)
        while (before := clock()) < end:
            _ask(connection, request)
            latencies.append((clock() - before) / 1000)
        seconds = (clock() - started) / 1e9
    return {"latencies_us": latencies, "seconds": seconds}


def first_answers(endpoint: Endpoint, count: int) -> dict[str, Any]:
    """New connections, by turns with and without TCP_NODELAY: programs that leave it out wait for acknowledgements."""
    context, request = endpoint.context(), endpoint.request("/", close=True)
    taken: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(count):
        for nodelay, times in taken.items():
            started = time.perf_counter()
            with endpoint.connect(context, nodelay=nodelay) as connection:
                _ask(connection, request)
                times.append((time.perf_counter() - started) * 1000)
    return {"nodelay_ms": taken[True], "without_ms": taken[False]}


def _ask(connection: socket.socket, request: bytes) -> None:
    connection.sendall(request)
    length, body = read_head(connection)
    while len(body) < length:
        body += connection.recv(65_536)


def idle(endpoint: Endpoint, count: int) -> dict[str, Any]:
    """`count` visitors that have asked once and stay; returns once stdin has ended."""
    context = endpoint.context()
    connections = []
    for _ in range(count):
        connection = endpoint.connect(context)
        _ask(connection, endpoint.request("/"))
        connections.append(connection)
    print(json.dumps({"held": len(connections)}), flush=True)
    sys.stdin.read()
    return {}


def connections(endpoint: Endpoint, at_once: int, duration: float) -> dict[str, Any]:
    """Visitors that connect, ask, read the answer to its end and leave; each does a full TLS handshake."""
    visitors = _Visitors(endpoint)
    seconds = visitors.run(at_once, duration)
    return {"connections": visitors.done, "failures": visitors.failures, "seconds": seconds}


class _Visitors:
    """A constant number of visitors on one epoll: each that has finished is followed by a new one."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.done = 0
        self.failures = 0
        self._endpoint = endpoint
        self._context = endpoint.context()
        self._request = endpoint.request("/", close=True)
        self._epoll = select.epoll()
        self._visitors: dict[int, _Visitor] = {}

    def run(self, at_once: int, duration: float) -> float:
        """Returns the seconds that it took."""
        started = time.perf_counter()
        for _ in range(at_once):
            self._begin()
        while (elapsed := time.perf_counter() - started) < duration:
            for descriptor, _ in self._epoll.poll(0.1):
                self._advance(self._visitors[descriptor])
        for visitor in self._visitors.values():
            visitor.socket.close()
        self._epoll.close()
        return elapsed

    def _begin(self) -> None:
        visitor = _Visitor(self._endpoint, self._context)
        self._visitors[visitor.socket.fileno()] = visitor
        self._epoll.register(visitor.socket.fileno(), select.EPOLLOUT)

    def _advance(self, visitor: "_Visitor") -> None:
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
        with contextlib.suppress(OSError):  # a failed handshake has closed the descriptor already
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
        """Advance until the socket would block.

        Returns the epoll event to wait for, None at the end of the visit. Raises OSError.
        """
        if self._context is not None and not isinstance(self.socket, ssl.SSLSocket):  # wraps a connected socket only
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


_KINDS: Final[dict[str, Callable[[Endpoint, list[str]], dict[str, Any]]]] = {
    "download": lambda endpoint, given: download(endpoint, int(given[0])),
    "requests": lambda endpoint, given: requests(endpoint, float(given[0])),
    "connections": lambda endpoint, given: connections(endpoint, int(given[0]), float(given[1])),
    "answers": lambda endpoint, given: first_answers(endpoint, int(given[0])),
    "idle": lambda endpoint, given: idle(endpoint, int(given[0])),
}


def main() -> None:
    kind, endpoint, *given = sys.argv[1:]
    if result := _KINDS[kind](Endpoint.from_json(endpoint), given):
        print(json.dumps(result))


if __name__ == "__main__":
    main()
