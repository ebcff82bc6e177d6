"""A registry of a public domain: the operator learns that browsers do not separate its tenants."""

import dataclasses
import logging
from pathlib import Path

import pytest
from portway_testkit.clusters.node_stream import NodeStream
from portway_testkit.clusters.registry import Pki, node_info, running


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message.partition(" is not ")[0] for message in caplog.messages if "Public Suffix List" in message]


async def test_the_start_warns_of_the_clusters_domain(
    pki: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Before any node has come; a node that registers adds nothing."""
    caplog.set_level(logging.WARNING)
    domain = "tunnels.example.com"
    async with running(dataclasses.replace(pki.config(tmp_path), domain=domain)) as registry:
        assert warnings(caplog) == ["*.tunnels.example.com"]
        async with NodeStream(registry.mesh_address, pki, node_info("one", domain=domain)):
            pass
    assert warnings(caplog) == ["*.tunnels.example.com"]


async def test_without_a_domain_the_first_node_that_registers_is_looked_at(
    pki: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, however many nodes there are."""
    caplog.set_level(logging.WARNING)
    async with running(pki.config(tmp_path)) as registry:
        assert warnings(caplog) == []
        for name in ("one", "two"):
            async with NodeStream(registry.mesh_address, pki, node_info(name, domain=f"{name}.example.com")):
                pass
    assert warnings(caplog) == ["*.one.example.com"]
