"""Clients that reach a cluster's node through a link that a test can break.

Here: the link on the cluster's loop, and the address that the node advertises. Not here: how bytes are broken
(link.py).
"""

import dataclasses
from typing import Self

from portway_runtime.endpoints import Endpoint

from portway_testkit.clusters.cluster import LOOPBACK, Cluster
from portway_testkit.links.link import Link


class ClientLink:
    """`with ClientLink(cluster) as link:` puts a Link between clients and the cluster's first node.

    The node is started again for it: begin before any client is there. Visitors come to the node directly.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._link = Link(cluster.node.port)

    def __enter__(self) -> Self:
        node = self._cluster.node
        self._cluster.run(self._link.__aenter__)
        # Visitors use the node's own port, clients that of the link.
        node.config = dataclasses.replace(
            node.config, advertise=Endpoint(LOOPBACK, self._link.port), public_port=node.port
        )
        node.restart()
        node.until_shown()
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.run(self._link.__aexit__)

    def cut(self, *, refuse: bool = False) -> None:
        """Reset all connections; with `refuse` also new ones, until `mend`."""

        async def cut() -> None:
            self._link.cut(refuse=refuse)

        self._cluster.run(cut)

    def swallow_answers(self) -> None:
        """Drop what the node sends; sockets stay open."""

        async def swallow() -> None:
            self._link.swallow_answers()

        self._cluster.run(swallow)

    def mend(self) -> None:
        """Deliver everything again."""

        async def mend() -> None:
            self._link.mend()

        self._cluster.run(mend)
