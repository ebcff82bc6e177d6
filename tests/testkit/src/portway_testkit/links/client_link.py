"""Clients that reach a cluster's node through a link which a test can break, from the test's own thread.

Here: the link on the cluster's loop, the node told to advertise it. Not here: what a break does to bytes (link.py).
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
        # Visitors are told the port they come to, clients the link's.
        node.config = dataclasses.replace(
            node.config, advertise=Endpoint(LOOPBACK, self._link.port), public_port=node.port
        )
        node.restart()
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.run(self._link.__aexit__)

    def cut(self, *, refuse: bool = False) -> None:
        """Reset all connections; with `refuse`, new ones too until `mend`."""

        async def cut() -> None:
            self._link.cut(refuse=refuse)

        self._cluster.run(cut)

    def swallow_answers(self) -> None:
        """Sockets stay open, and what the node sends does not arrive."""

        async def swallow() -> None:
            self._link.swallow_answers()

        self._cluster.run(swallow)

    def mend(self) -> None:
        """Carry everything again."""

        async def mend() -> None:
            self._link.mend()

        self._cluster.run(mend)
