"""Every connection between one node and the rest of its cluster, for a test to break: bytes dropped, connections reset.

Here: links before the node (for clients and other nodes), between it and the registry, and between it and each other
node. Visitors reach the node directly. Not here: how bytes are broken (link.py).
"""

import dataclasses
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Self

from portway_carrier.contract import Stream
from portway_carrier.values import ClientTls
from portway_runtime.endpoints import Endpoint
from portway_runtime.proxies import Proxy

from portway_testkit.clusters.cluster import LOOPBACK, Cluster, Dial, RunningNode
from portway_testkit.links.link import Link


class Cable:
    """`with Cable(cluster, name) as cable:`; the node is restarted for it, so enter before clients attach."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self._running = cluster.nodes[name]
        self._stack = AsyncExitStack()
        self._front = Link(self._running.port)
        self._registry = Link(cluster.registry_config.mesh_listen.port)
        self._outward: dict[Endpoint, Link] = {}

    def __enter__(self) -> Self:
        running = self._running
        self.cluster.run(self._open)
        registry = (Endpoint(LOOPBACK, self._registry.port),)
        # Visitors use the node's own port, clients and nodes that of the link.
        running.config = dataclasses.replace(
            running.config,
            advertise=Endpoint(LOOPBACK, self._front.port),
            public_port=running.port,
            registry=registry,
        )
        running.stop()
        running.dials = self._dials
        running.start()
        running.until_shown()
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.run(self._stack.aclose)

    def drop(self) -> None:
        """Put the node into a black hole: drop everything in both directions, silently."""
        self._all(lambda link: link.swallow())

    def cut(self) -> None:
        """Reset all connections of the node, and refuse new ones until `mend`."""
        self._all(lambda link: link.cut(refuse=True))

    def mend(self) -> None:
        """Deliver everything again."""
        self._all(lambda link: link.mend())

    def cut_registry(self) -> None:
        """Cut the node off from the registry only."""
        self._do(lambda: self._registry.cut(refuse=True))

    def mend_registry(self) -> None:
        """Connect the node with the registry again."""
        self._do(self._registry.mend)

    def _dials(self, connect: Dial) -> Dial:
        """The function with which the node dials: through a link for each address."""

        def dial(address: Endpoint, tls: ClientTls | None, via: Proxy | None = None) -> Stream:
            link = self._outward.get(address)
            return connect(address if link is None else Endpoint(LOOPBACK, link.port), tls, via)

        return dial

    async def _open(self) -> None:
        for link in (self._front, self._registry):
            await self._stack.enter_async_context(link)
        for other in self._others():
            reached_at = other.config.advertise or other.config.listen
            link = await self._stack.enter_async_context(Link(reached_at.port))
            self._outward[Endpoint(reached_at.host, reached_at.port)] = link

    def _others(self) -> list[RunningNode]:
        return [running for running in self.cluster.nodes.values() if running is not self._running]

    def _all(self, act: Callable[[Link], None]) -> None:
        def do() -> None:
            for link in (self._front, self._registry, *self._outward.values()):
                act(link)

        self._do(do)

    def _do(self, act: Callable[[], None]) -> None:
        async def do() -> None:
            act()

        self.cluster.run(do)
