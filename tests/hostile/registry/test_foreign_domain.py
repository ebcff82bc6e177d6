"""A node with a valid certificate that states a domain of its own, to which clients' addresses would lead."""

import dataclasses
from pathlib import Path

import pytest
from grpc import StatusCode
from portway_testkit.clusters.node_stream import NodeStream, StreamEnded
from portway_testkit.clusters.registry import Pki, node_info, running


async def test_a_node_cannot_state_a_domain_of_its_own(pki: Pki, tmp_path: Path) -> None:
    """Where the registry knows the cluster's. A node of the cluster's domain is registered."""
    config = dataclasses.replace(pki.config(tmp_path), domain="tunnels.example")
    async with running(config) as registry:
        async with NodeStream(registry.mesh_address, pki, node_info("good", domain="tunnels.example")) as good:
            with pytest.raises(StreamEnded, match=r"domain is tunnels\.example, .* 'evil\.example'") as refused:
                async with NodeStream(registry.mesh_address, pki, node_info("evil", domain="evil.example")):
                    pass
            assert refused.value.code is StatusCode.PERMISSION_DENIED
            await good.until(lambda: good.peers == {"good"})


async def test_without_one_each_node_states_its_own(pki: Pki, tmp_path: Path) -> None:
    """As in a cluster that moves from one domain to another."""
    async with running(pki.config(tmp_path)) as registry:
        for name in ("one", "two"):
            async with NodeStream(registry.mesh_address, pki, node_info(name, domain=f"{name}.example")) as node:
                assert node.registrations
