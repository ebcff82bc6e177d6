"""Nodes that join a cluster by invitation, inside the test process.

Here: inviting, joining, and what a node stores. Not here: the cluster (cluster.py).
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portway_proto.v1 import admin_pb2
from portway_registry.pki.ca_folder import CaFolder
from portway_relay.config import NodeConfig
from portway_relay.membership.joining import ensure_certificate
from portway_relay.membership.state_folder import CA, CERTIFICATE, CURRENT, KEY

from portway_testkit.clusters.cluster import DOMAIN, Cluster, NodePlan, RunningNode


@dataclass(frozen=True, slots=True)
class Joiner:
    """A cluster, and the folders of nodes that join it."""

    cluster: Cluster
    folder: Path

    def invite(self, region: str = "fra", *, node: str = "", ttl: int = 0, of: Cluster | None = None) -> str:
        """A new invitation token for a node."""
        cluster = of or self.cluster
        request = admin_pb2.InviteNodeRequest(region=region, node=node, ttl_seconds=ttl)
        return f"{cluster.admin.invite(request).token}@{cluster.registry_address}"

    def config(
        self, name: str, region: str = "fra", *, token: str | None = None, state: str = "", **settings: Any
    ) -> NodeConfig:
        """A node as its command line would make it, with a region's certificate from the cluster's folder and the state
        folder `state`."""
        authority = CaFolder.open(self.cluster.pki)
        if not (self.cluster.pki / f"region-{region}.crt").exists():
            authority.add_region(region, DOMAIN)
        folder = self.folder / (state or f"state-{name}")
        files: dict[str, Any] = {
            "state_dir": folder,
            "cluster_ca": folder / CURRENT / CA,
            "cert": folder / CURRENT / CERTIFICATE,
            "key": folder / CURRENT / KEY,
            "tls_cert": (self.cluster.pki / f"region-{region}.crt",),
            "tls_key": (self.cluster.pki / f"region-{region}.key",),
        }
        given = {"join": token, "registry_ca": self.cluster.ca} | files | settings
        return dataclasses.replace(self.cluster.node_config(NodePlan(name, region)), **given)

    def enter(self, config: NodeConfig) -> None:
        """Join, as the command does before it makes the node. Raises JoinError."""

        async def call() -> None:
            await ensure_certificate(config)

        self.cluster.run(call)

    def join(self, name: str, region: str = "fra", **settings: Any) -> RunningNode:
        """Invite a node, let it join and start it."""
        config = self.config(name, region, token=self.invite(region), **settings)
        self.enter(config)
        return self.run(config)

    def run(self, config: NodeConfig) -> RunningNode:
        """Start a node that has joined; the cluster stops it."""
        node = RunningNode(self.cluster, config)
        self.cluster.nodes[config.name] = node
        node.start()
        return node
