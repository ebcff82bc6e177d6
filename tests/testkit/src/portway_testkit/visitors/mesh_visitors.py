"""Visitors of a mesh, each at a node of the test's choice.

Here: connecting, and the answers. Not here: the cluster (clusters/), tunnels by hand (links/hand_tunnel.py).
"""

import ssl
from pathlib import Path

from portway.tunnel import Tunnel
from portway_proto.wire.statements import SigningKey

from portway_testkit.clusters.cluster import DOMAIN, LOOPBACK, Cluster, RunningNode
from portway_testkit.signers import label_of
from portway_testkit.visitors.visiting import connect_tls, receive, tls_context


def connect(node: RunningNode, host: str, ca: Path, *alpn: str) -> ssl.SSLSocket:
    """A visitor's connection to `host` at a node. Raises OSError; ssl.SSLError when it is refused."""
    return connect_tls(tls_context(ca, *alpn), (LOOPBACK, node.port), host)


def answer_at(cluster: Cluster, node: str, host: str, sent: bytes = b"") -> bytes:
    """Everything that a visitor reads at this node until the end."""
    with connect(cluster.nodes[node], host, cluster.ca) as visitor:
        if sent:
            visitor.sendall(sent)
        return receive(visitor)


def answered_by(cluster: Cluster, node: str, host: str) -> str:
    """The name of the tunnel that answers."""
    return answer_at(cluster, node, host).decode().partition(" ")[0]


def get(node: RunningNode, tunnel: Tunnel, ca: Path, path: str = "/") -> bytes:
    """The body of the answer to a GET at this node."""
    with connect(node, tunnel.host, ca, "http/1.1") as visitor:
        visitor.sendall(f"GET {path} HTTP/1.1\r\nHost: {tunnel.host}\r\nConnection: close\r\n\r\n".encode())
        return receive(visitor).partition(b"\r\n\r\n")[2]


def name_of(key: SigningKey, region: str) -> str:
    return f"{label_of(key)}.{region}.{DOMAIN}"
