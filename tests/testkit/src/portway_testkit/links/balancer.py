"""A load balancer that sends PROXY headers, and connections as it makes them, from an address of its own.

Here: both ends on loopback, on threads. Not here: real ones (the end-to-end tests start those).
"""

import socket
import threading
from collections.abc import Callable

from portway_runtime.endpoints import Endpoint
from portway_runtime.proxy_protocol import ProxyHeader, encode_v2

from portway_testkit.visitors.visiting import TIMEOUT

# Where it dials from: no other part of a test does.
BALANCER = "127.0.0.9"
# Where visitors say that they have connected to.
FRONT = Endpoint("198.51.100.1", 443)


def header_of(source: Endpoint, encode: Callable[[ProxyHeader], bytes] = encode_v2) -> bytes:
    return encode(ProxyHeader(source, FRONT))


def balanced(port: int, first: bytes, host: str = "127.0.0.1") -> socket.socket:
    """A connection of the balancer's to this port, which begins with these bytes. Raises OSError."""
    sock = socket.create_connection((host, port), TIMEOUT, source_address=(BALANCER, 0))
    try:
        sock.sendall(first)
    except BaseException:
        sock.close()
        raise
    return sock


def pass_on(incoming: socket.socket, port: int, source: Endpoint) -> None:
    """Serve a connection that came to the balancer: pass it on to `port` as that of `source`, until both ends end."""
    with balanced(port, header_of(source)) as onward:
        back = threading.Thread(target=_copy, args=(onward, incoming), name="balancer")
        back.start()
        _copy(incoming, onward)
        back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        source.settimeout(None)
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for sock in (source, target):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
