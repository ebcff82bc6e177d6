"""Every connection between this machine's clients and a cluster, nodes and registry, for a test to break.

Nodes reach each other, and visitors reach nodes, without it. Not here: how bytes are broken (link.py).
"""

import dataclasses
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Self

from portway_carrier.contract import Stream
from portway_carrier.values import ClientTls
from portway_runtime.endpoints import Endpoint
from portway_runtime.proxies import Proxy

from portway_testkit.clusters.cluster import LOOPBACK, Cluster, Dial
from portway_testkit.links.link import Link


class ClientCable:
    """`with ClientCable(cluster) as cable:` for clients with `environment()`; every node is restarted for it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._stack = AsyncExitStack()
        self._links = {Link(running.port): running for running in cluster.nodes.values()}
        self._registry = Link(cluster.registry_config.listen.port)
        self._direct: dict[Endpoint, Endpoint] = {}

    def __enter__(self) -> Self:
        self._cluster.run(self._open)
        for link, running in self._links.items():
            self._direct[Endpoint(LOOPBACK, link.port)] = Endpoint(LOOPBACK, running.port)
            running.config = dataclasses.replace(
                running.config, advertise=Endpoint(LOOPBACK, link.port), public_port=running.port
            )
            running.dials = self._past_the_links
        for running in self._links.values():
            running.restart()
            running.until_shown()
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.run(self._stack.aclose)

    def environment(self) -> dict[str, str]:
        return self._cluster.environment() | {"PORTWAY_REGISTRY": f"{LOOPBACK}:{self._registry.port}"}

    def cut(self) -> None:
        """Reset all connections of clients, and refuse new ones until `mend`."""
        self._all(lambda link: link.cut(refuse=True))

    def mend(self, *, only: str = "") -> None:
        """Deliver everything again; or what is between clients and this node."""
        mended = [link for link, running in self._links.items() if running.config.name == only]
        self._all(lambda link: link.mend() if link in mended or not only else None)

    def _past_the_links(self, connect: Dial) -> Dial:
        def dial(address: Endpoint, tls: ClientTls | None, via: Proxy | None = None) -> Stream:
            return connect(self._direct.get(address, address), tls, via)

        return dial

    async def _open(self) -> None:
        for link in (*self._links, self._registry):
            await self._stack.enter_async_context(link)

    def _all(self, act: Callable[[Link], None]) -> None:
        async def do() -> None:
            for link in (*self._links, self._registry):
                act(link)

        self._cluster.run(do)
