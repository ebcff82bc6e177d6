"""Visitors that keep coming, to names of several addresses, each trying the next address when one refuses him.

Here: TLS, raw TCP and plain HTTP, on threads. Not here: one visitor at a time (visiting.py).
"""

import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from portway.tunnel import Tunnel

from portway_testkit.visitors.going_on import GoingOn
from portway_testkit.visitors.visiting import TIMEOUT, connect_tls, receive, tls_context
from portway_testkit.waiting import eventually

Connect = Callable[[str], socket.socket]
_EACH = 3  # threads of each kind
# Seconds between two visits of a thread: together they stay below what a node takes of one address.
_PAUSE = 0.05
_REQUEST = "GET /events/5/0.05 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
_LAST_EVENT = b"data: 4 "


class SteadyVisitors(GoingOn):
    """`with SteadyVisitors(tunnel, ca, addresses) as visitors:` visits until the block ends. The tunnel's server is an
    HttpOrigin.

    The first visitor of each kind tries the first address first, the others any. Each stays until his next visit has
    begun, so that at the first address some visit is in progress for as long as it takes visitors.

    failures: every visit that was not served whole.
    """

    def __init__(
        self, tunnel: Tunnel, ca: Path, addresses: Sequence[str], http_port: int = 0, *, may_be_refused: bool = False
    ) -> None:
        """
        http_port: where plain HTTP is redirected; 0 if nowhere. A tunnel without a raw port has no raw visitors.
        may_be_refused: a visitor whom all addresses refuse (nobody listens) comes again, and is no failure.
        """
        self._may_be_refused = may_be_refused
        self._tunnel = tunnel
        self._addresses = addresses
        self._context = tls_context(ca, "http/1.1")
        self._request = _REQUEST.format(host=tunnel.host).encode()
        kinds: dict[str, tuple[Connect, bytes]] = {"tls": (self._tls, _LAST_EVENT)}
        if tunnel.unencrypted_port:
            kinds["raw"] = (lambda address: _tcp(address, tunnel.unencrypted_port), _LAST_EVENT)
        if http_port:
            kinds["http"] = (lambda address: _tcp(address, http_port), b"HTTP/1.1 308 ")
        super().__init__(
            threading.Thread(target=self._keep_coming, args=(kind, *how, number), name=f"{kind} visitor {number}")
            for kind, how in kinds.items()
            for number in range(_EACH)
        )
        self.served: Counter[tuple[str, str]] = Counter()  # by kind and address
        self.failures: list[str] = []

    def wait_served(self, *addresses: str) -> None:
        """Return when every kind of visitor was served some more times at one of these addresses, or one has failed."""
        before = self.served.copy()
        kinds = {thread.name.partition(" ")[0] for thread in self._threads}

        def served(kind: str) -> int:
            return sum(self.served[kind, address] - before[kind, address] for address in addresses)

        eventually(lambda: self.failures or all(served(kind) >= _EACH for kind in kinds))

    def _keep_coming(self, kind: str, connect: Connect, last: bytes, number: int) -> None:
        rng = random.Random(f"{kind} {number}")
        addresses = list(self._addresses)
        with ExitStack() as before:
            while not self._over.wait(_PAUSE):
                if number:
                    rng.shuffle(addresses)
                try:
                    address, connection = _first(connect, addresses)
                    before.close()
                    before.enter_context(connection)
                    connection.sendall(self._request)
                    answer = receive(connection)
                except OSError as error:
                    if self._may_be_refused and isinstance(error, ConnectionRefusedError):
                        before.close()
                        continue
                    self.failures.append(f"{kind} at {addresses}: {error!r}")
                    continue
                if last in answer:
                    self.served[kind, address] += 1
                else:
                    self.failures.append(f"{kind} at {address}: {answer!r}")

    def _tls(self, address: str) -> socket.socket:
        return connect_tls(self._context, (address, self._tunnel.port), self._tunnel.host)


def _tcp(address: str, port: int) -> socket.socket:
    return socket.create_connection((address, port), TIMEOUT)


def _first(connect: Connect, addresses: Sequence[str]) -> tuple[str, socket.socket]:
    """A connection to the first address that does not refuse it. Raises OSError."""
    for address in addresses[:-1]:
        try:
            return address, connect(address)
        except ConnectionRefusedError:
            continue
    return addresses[-1], connect(addresses[-1])
