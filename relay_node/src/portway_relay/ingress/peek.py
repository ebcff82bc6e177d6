"""Peeking at connections until each has sent a whole ClientHello, or something else.

Here: when the first bytes are enough. Not here: waiting for them (portway_runtime.first_bytes), parsing
(client_hello.py), what becomes of a connection (public_port.py).
"""

import socket
from collections.abc import Callable

from portway_runtime.clocks import Monotonic
from portway_runtime.endpoints import Endpoint
from portway_runtime.first_bytes import FirstBytes

from portway_relay.ingress.client_hello import Invalid, NeedMore, Parsed, parse
from portway_relay.net.plain_http import LONGEST_METHOD, may_become_http

# peeked(socket, peer, hello, first_bytes): takes the socket over.
Peeked = Callable[[socket.socket, Endpoint, Parsed | Invalid, bytes], None]


class Peek(FirstBytes[Parsed | Invalid]):
    """The connections whose hellos are awaited. Limits are those of FirstBytes."""

    def __init__(
        self, peeked: Peeked, *, time_limit: float, capacity: int, capacity_per_address: int, clock: Monotonic
    ) -> None:
        super().__init__(
            _hello,
            peeked,
            time_limit=time_limit,
            capacity=capacity,
            capacity_per_address=capacity_per_address,
            clock=clock,
        )


def _hello(data: bytes) -> Parsed | Invalid | int:
    hello = parse(data)
    if isinstance(hello, NeedMore):
        return hello.size
    if isinstance(hello, Invalid) and may_become_http(data):
        return LONGEST_METHOD
    return hello
