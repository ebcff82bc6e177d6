"""Visitors that speak HTTP without TLS: each is answered by the node itself, with a redirect to https or a page.

Here: how many answers are in progress. Not here: reading the request (net/plain_http.py), what the answers say
(net/http_pages.py).
"""

import socket
from collections import Counter
from collections.abc import Callable, Container
from typing import Final

from portway_carrier.contract import Carrier
from portway_runtime.clocks import Monotonic
from portway_runtime.endpoints import Endpoint
from portway_runtime.shares import PrefixShares

from portway_relay.net.http_pages import redirect, secure_location, use_https
from portway_relay.net.plain_http import Request

# Seconds for which an answer counts: a visitor that does not close its side takes a descriptor for that long.
_ANSWER_TIME: Final = 2.0


class PlainVisitors:
    """Every request that came in clear text, at the public port or at the plain HTTP port."""

    def __init__(
        self,
        carrier: Carrier,
        zones: Callable[[], Container[str]],
        public_port: Callable[[], int],
        *,
        max_answers: int,
        clock: Monotonic,
    ) -> None:
        """
        zones: the `<region>.<domain>` of the names that requests are redirected to.
        public_port: the port in tunnels' URLs.
        max_answers: answers in progress in all; the prefixes of addresses share them.
        """
        self._carrier = carrier
        self._zones = zones
        self._public_port = public_port
        self._answers = PrefixShares(max_answers, clock, window=_ANSWER_TIME)
        self.turned_away: Counter[str] = Counter()  # by reason

    def answer(self, sock: socket.socket, peer: Endpoint, request: Request) -> None:
        """Answer a request, and end the connection. Owns the socket."""
        if not self._answers.take(peer.host):
            self.turned_away["answers"] += 1
            sock.close()
            return
        port = self._public_port()
        location = secure_location(request, self._zones(), port)
        self.turned_away["plain_http" if location is None else "redirected"] += 1
        answer = use_https(request, port) if location is None else redirect(location)
        self._carrier.finish(self._carrier.accept(sock, None), answer)
