"""What a test knows of a cluster's nodes as a mesh: whether they are connected, and their certificates."""

from pathlib import Path

from portway_testkit.clusters.cluster import Cluster


def connected(cluster: Cluster) -> bool:
    """Whether every node has accepted the control lane of every other.

    That a node has dialled is not enough: a node to which no registry has announced it yet closes the lane at once.
    """

    async def up() -> bool:
        nodes = [running.node for running in cluster.nodes.values()]
        return all(
            other.config.name in node._serving.inbound_lanes.connected
            for node in nodes
            for other in nodes
            if other is not node
        )

    return cluster.run(up)


def identity(cluster: Cluster, node: str) -> tuple[Path, Path]:
    """The files of a node's cluster certificate and key."""
    return cluster.pki / f"node-{node}.crt", cluster.pki / f"node-{node}.key"


class NodeIdentities:
    """The certificates of a cluster's nodes, for a stream that a test speaks in a node's name (registry.NodeStream)."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    @property
    def ca(self) -> Path:
        return self._cluster.ca

    def node(self, name: str) -> tuple[bytes, bytes]:
        certificate, key = identity(self._cluster, name)
        return certificate.read_bytes(), key.read_bytes()
