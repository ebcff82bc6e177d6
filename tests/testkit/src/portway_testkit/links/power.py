"""A node of a cluster in this process without power: from one moment to the next no packet reaches or leaves it.

Here: all its lanes, and its public port, at both ends. Not here: its link with the registry, which goes on naming it to
everybody; how packets are dropped (links/silence.py); links that acknowledge what they drop (links/cable.py).
"""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from portway_carrier.contract import Stream
from portway_carrier.values import ClientTls
from portway_runtime.endpoints import Endpoint
from portway_runtime.proxies import Proxy

from portway_testkit.clusters.cluster import LOOPBACK, Cluster
from portway_testkit.links.silence import hear_again, silence


class Power:
    """Of one node. Connections of visitors to its own public port count as its lanes do."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster = cluster
        self._node = cluster.nodes[name]
        self._silent: list[socket.socket] = []

    def off(self) -> None:
        """Nothing reaches it, or comes from it, any more."""
        self._cluster.run(self._switch_off)

    def on(self) -> None:
        """What is left of its connections goes on."""
        for sock in self._silent:
            with suppress(OSError):
                hear_again(sock)

    def close(self) -> None:
        for sock in self._silent:
            sock.close()

    async def _switch_off(self) -> None:
        node = self._node.node
        carrier: Any = node._base.carrier
        own = [connection.transport.get_extra_info("socket") for connection in carrier._core.connections]
        addresses = {sock.getsockname() for sock in own if sock.fileno() >= 0}
        for listener in node._serving.public_port.arrivals.listeners:
            own += listener._sockets
        nowhere = socket.create_server((LOOPBACK, 0))
        self._silence(nowhere)
        connect, at = carrier.connect, Endpoint(*nowhere.getsockname())

        def dial(address: Endpoint, tls: ClientTls | None, via: Proxy | None = None) -> Stream:
            stream: Stream = connect(at, tls, via)
            return stream

        carrier.connect = dial
        for sock in own:
            if sock.fileno() >= 0:
                self._silence(sock)
        for sock in _sockets():
            if sock.getpeername() in addresses:
                self._silence(sock)
        nowhere.close()

    def _silence(self, sock: Any) -> None:
        same = socket.socket(fileno=socket.dup(sock.fileno()))
        silence(same)
        self._silent.append(same)


def _sockets() -> Iterator[socket.socket]:
    """The connected TCP sockets of this process. One counts until the next is asked for."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - a path object for each would open more of them
        with suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as sock:
                if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.getpeername():
                    yield sock


@contextmanager
def power_of(cluster: Cluster, name: str) -> Iterator[Power]:
    """The power of a node, which is on."""
    power = Power(cluster, name)
    try:
        yield power
    finally:
        power.on()
        power.close()
