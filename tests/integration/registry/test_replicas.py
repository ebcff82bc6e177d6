"""Two replicas on one etcd are one registry."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from grpc import StatusCode
from portway_proto.v1 import admin_pb2
from portway_proto.v1.admin_pb2_grpc import AdminStub
from portway_proto.v1.discovery_pb2 import LocateRequest
from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub
from portway_proto.v1.mesh_pb2 import EVICTION_REASON_QUOTA, EVICTION_REASON_SUPERSEDED
from portway_proto.wire.statements import SigningKey
from portway_registry.config import Config
from portway_registry.server import Registry
from portway_testkit.clusters.admin_caller import AdminCaller
from portway_testkit.clusters.node_stream import NodeStream
from portway_testkit.clusters.registry import SESSION_KEY, Pki, bearer, channel, node_info, running
from portway_testkit.signers import label_of

pytestmark = pytest.mark.parametrize("store_text", ["etcd"], indirect=True)


@pytest.fixture
async def replica(registry: Registry, config: Config) -> AsyncIterator[Registry]:
    """A second one, started after the first."""
    async with running(config) as replica:
        yield replica


async def test_replicas_that_start_together_make_one_cluster(pki: Pki, config: Config) -> None:
    """Of several first starts at once one makes the cluster: one id, one key, one admin token that works everywhere."""
    clusters = set()
    async with AsyncExitStack() as stack:
        replicas = await asyncio.gather(*(stack.enter_async_context(running(config)) for _ in range(3)))
        assert config.admin_token_file is not None
        token = config.admin_token_file.read_text().strip()
        for number, registry in enumerate(replicas):
            async with NodeStream(registry.mesh_address, pki, node_info(f"fra-{number}")) as node:
                settings = await node.until(lambda: node.settings)
                clusters.add((settings.cluster_id, settings.grant_keys[0].public_key, len(settings.grant_keys)))
            async with channel(registry.address, pki.ca) as public:
                answer = await AdminStub(public).ListTokens(admin_pb2.ListTokensRequest(), metadata=bearer(token))
                assert [one.id for one in answer.tokens] == ["admin"]
    assert len(clusters) == 1


async def test_a_node_of_one_replica_is_located_at_the_other(
    registry: Registry, replica: Registry, pki: Pki, admin: AdminCaller
) -> None:
    """Locate knows the nodes of all replicas; a token made at one is good at the other at once."""
    async with (
        NodeStream(registry.mesh_address, pki, node_info("fra-1")),
        NodeStream(replica.mesh_address, pki, node_info("lon-1", "lon")) as second,
        channel(replica.address, pki.ca) as public,
    ):
        await second.until(lambda: second.peers == {"fra-1", "lon-1"})
        token = (await admin.new_token()).token
        found = await DiscoveryStub(public).Locate(LocateRequest(session_key=SESSION_KEY), metadata=bearer(token))
        assert {candidate.node.name for candidate in found.candidates} == {"fra-1", "lon-1"}


async def test_a_label_moves_between_replicas(
    registry: Registry, replica: Registry, pki: Pki, admin: AdminCaller
) -> None:
    """A higher epoch at one replica evicts the holder at the other; a lower one is refused there."""
    one, two, key = await admin.client(), await admin.client(), SigningKey()
    label = label_of(key)
    async with (
        NodeStream(registry.mesh_address, pki, node_info("fra-1")) as first,
        NodeStream(replica.mesh_address, pki, node_info("lon-1")) as second,
    ):
        await first.announce(one.tunnel("fra-1", key, 3), of=[one])
        await second.announce(two.tunnel("lon-1", key, 2), of=[two])
        assert second.evicted == [(label, 2, EVICTION_REASON_SUPERSEDED)]
        await second.announce(two.tunnel("lon-1", key, 4), of=[two])
        await first.until(lambda: first.evicted)
        assert first.evicted == [(label, 3, EVICTION_REASON_SUPERSEDED)]


async def test_the_last_free_place_is_given_once(
    registry: Registry, replica: Registry, pki: Pki, admin: AdminCaller
) -> None:
    """When two replicas admit more tunnels than a quota allows at the same moment, the youngest are taken back."""
    token = await admin.new_token(max_tunnels=4)
    async with (
        NodeStream(registry.mesh_address, pki, node_info("fra-1")) as first,
        NodeStream(replica.mesh_address, pki, node_info("lon-1")) as second,
    ):
        clients = [await admin.client(token) for _ in range(2)]
        await asyncio.gather(
            *(
                node.announce(*(client.tunnel(node.info.name) for _ in range(4)), of=[client])
                for node, client in zip((first, second), clients, strict=True)
            )
        )

        def evicted() -> set[str]:
            both = first.evicted + second.evicted
            assert {reason for _, _, reason in both} <= {EVICTION_REASON_QUOTA}
            return {label for label, _, _ in both}

        waiting = [asyncio.ensure_future(node.until(lambda: len(evicted()) == 4)) for node in (first, second)]
        # Whichever of the two hears the last; the other's stream may stay silent.
        _, silent = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in silent:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        left = await admin.tunnels()
        assert len(left) == 4
        assert not set(left) & evicted()


async def test_the_last_free_place_of_a_tenant_is_given_once(
    registry: Registry, replica: Registry, pki: Pki, admin: AdminCaller
) -> None:
    """With a token of its own at each node; the oldest by the store's order stay, and the others hear the number."""
    await admin.set_quota("demo", 3)
    async with (
        NodeStream(registry.mesh_address, pki, node_info("fra-1")) as first,
        NodeStream(replica.mesh_address, pki, node_info("lon-1")) as second,
    ):
        clients = [await admin.client() for _ in range(2)]
        await asyncio.gather(
            *(
                node.announce(*(client.tunnel(node.info.name) for _ in range(3)), of=[client])
                for node, client in zip((first, second), clients, strict=True)
            )
        )
        waiting = [asyncio.ensure_future(_evicted(node, first, second)) for node in (first, second)]
        _, silent = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in silent:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        told = [one for node in (first, second) for message in node.heard for one in message.evictions.evictions]
        assert {(one.reason, one.max_tunnels) for one in told} == {(EVICTION_REASON_QUOTA, 3)}
        left = await admin.tunnels()
        assert len(left) == 3
        assert not set(left) & {one.label for one in told}


async def _evicted(node: NodeStream, *nodes: NodeStream) -> None:
    await node.until(lambda: sum(len(one.evicted) for one in nodes) == 3)


async def test_a_node_that_moves_to_another_replica_ends_its_old_stream(
    registry: Registry, replica: Registry, pki: Pki
) -> None:
    """A node that registers elsewhere is let go by the replica it had, and keeps its lease when it shows it."""
    async with NodeStream(registry.mesh_address, pki, node_info("fra-1")) as old:
        async with NodeStream(replica.mesh_address, pki, node_info("fra-1"), lease=old.lease) as new:
            assert new.lease == old.lease
            ended = await old.ended()
    assert ended.code is StatusCode.ABORTED
    assert "another replica" in ended.details
