"""A node that reserves every raw port of its region."""

import asyncio

from portway_proto.v1.mesh_pb2 import ReservePortsRequest
from portway_proto.v1.mesh_pb2_grpc import MeshStub
from portway_registry.server import Registry
from portway_testkit.clusters.node_stream import NodeStream
from portway_testkit.clusters.registry import Pki, channel, node_info

BLOCK = 64
EVERY_BLOCK = 1_023


async def test_a_node_cannot_reserve_its_region(registry: Registry, pki: Pki) -> None:
    """Thirty calls at once, for each block by itself: it gets what a node without raw tunnels needs, and another node
    of the region still gets its own."""
    async with (
        NodeStream(registry.mesh_address, pki, node_info("evil")),
        NodeStream(registry.mesh_address, pki, node_info("good")),
        channel(registry.mesh_address, pki.ca, pki.node("evil"), mesh=True) as evil,
        channel(registry.mesh_address, pki.ca, pki.node("good"), mesh=True) as good,
    ):
        firsts = iter(range(BLOCK, EVERY_BLOCK * BLOCK + 1, BLOCK))

        async def reserve() -> int:
            got = 0
            for first in firsts:
                request = ReservePortsRequest(first=first, last=first + BLOCK - 1, blocks=1)
                got += len((await MeshStub(evil).ReservePorts(request)).blocks)
            return got

        assert sum(await asyncio.gather(*(reserve() for _ in range(30)))) == 4
        answer = await MeshStub(good).ReservePorts(ReservePortsRequest(first=20_000, last=29_999, blocks=1))
        assert len(answer.blocks) == 1
