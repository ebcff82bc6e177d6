"""Visitors of a mesh, each at the node of the test's choice.

Here: connecting, and what they are told. Not here: the cluster (cluster.py), tunnels by hand (hand_tunnel.py).
"""

import ssl
from pathlib import Path

from portway.tunnel import Tunnel
from portway_proto.wire.labels import Chain

from portway_testkit.clusters.cluster import DOMAIN, LOOPBACK, Cluster, RunningNode
from portway_testkit.visitors.visiting import connect_tls, receive, tls_context


def connected(cluster: Cluster) -> bool:
    """Every node believes every other: its control lane has arrived, and stays.

    That a node has dialled is not enough: one that a registry has not told of it yet ends its lane at once.
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


def connect(node: RunningNode, host: str, ca: Path, *alpn: str) -> ssl.SSLSocket:
    """A visitor of `host` at a node. Raises OSError (an ssl.SSLError where it is refused)."""
    return connect_tls(tls_context(ca, *alpn), (LOOPBACK, node.port), host)


def told(cluster: Cluster, node: str, host: str, sent: bytes = b"") -> bytes:
    """Everything that a visitor at this node is told."""
    with connect(cluster.nodes[node], host, cluster.ca) as visitor:
        if sent:
            visitor.sendall(sent)
        return receive(visitor)


def who(cluster: Cluster, node: str, host: str) -> str:
    """The name of the tunnel that answers."""
    return told(cluster, node, host).decode().partition(" ")[0]


def get(node: RunningNode, tunnel: Tunnel, ca: Path, path: str = "/") -> bytes:
    """The body of an answer to a visitor at this node."""
    with connect(node, tunnel.host, ca, "http/1.1") as visitor:
        visitor.sendall(f"GET {path} HTTP/1.1\r\nHost: {tunnel.host}\r\nConnection: close\r\n\r\n".encode())
        return receive(visitor).partition(b"\r\n\r\n")[2]


def identity(cluster: Cluster, node: str) -> tuple[Path, Path]:
    """A node's cluster certificate and key."""
    return cluster.pki / f"node-{node}.crt", cluster.pki / f"node-{node}.key"


class NodeIdentities:
    """The certificates of a cluster's nodes, for a node's side of a stream by hand (registry.NodeStream)."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    @property
    def ca(self) -> Path:
        return self._cluster.ca

    def node(self, name: str) -> tuple[bytes, bytes]:
        certificate, key = identity(self._cluster, name)
        return certificate.read_bytes(), key.read_bytes()


def name_of(chain: Chain, region: str) -> str:
    return f"{chain.label}.{region}.{DOMAIN}"
