"""Blocks of raw ports, reserved by many nodes at once through several replicas: no port is ever two nodes'."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from portway_proto.v1.mesh_pb2 import ReservePortsRequest, ReservePortsResponse
from portway_registry.state import keys
from portway_registry.state.records import PortBlockRecord, decoder
from portway_registry.state.views import Views
from portway_registry.store.contract import Store
from portway_registry.tunnels.port_blocks import BLOCK_SIZE, PortBlocks

NOW_MS = 1_700_000_000_000
ASK = ReservePortsRequest(first=20_000, last=20_999, blocks=2)


@asynccontextmanager
async def replica(store: Store, seed: int) -> AsyncIterator[PortBlocks]:
    failures: list[BaseException] = []
    views = Views(store, on_failure=failures.append)
    await views.start()
    try:
        yield PortBlocks(store, views, lambda: NOW_MS, random.Random(seed))
    finally:
        await views.close()
    assert not failures


def ports_of(answer: ReservePortsResponse) -> set[int]:
    return {port for block in answer.blocks for port in range(block.first, block.last + 1)}


async def test_nodes_that_reserve_at_once_share_no_port(store: Store, prefix: str) -> None:
    """Eight nodes ask two replicas that try the blocks in the same order: each gets some, and none has another's."""
    region = prefix.strip("/").replace("/", "-")
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(replica(store, seed=1)) for _ in range(2)]
        answers = await asyncio.gather(
            *(replicas[number % 2].reserve(f"node-{number}", region, ASK) for number in range(8))
        )
        given = [ports_of(answer) for answer in answers]
        assert all(len(ports) >= BLOCK_SIZE / 2 for ports in given)
        assert len(set().union(*given)) == sum(len(ports) for ports in given)
    entries = (await store.list(keys.port_block(region, 0)[: -len("00000")])).entries
    owners = [decoder(PortBlockRecord)(entry.value).node for entry in entries]
    assert sorted(set(owners)) == [f"node-{number}" for number in range(8)]


async def test_a_block_outlives_the_replica_that_reserved_it(store: Store, prefix: str) -> None:
    """What a node reserved it has again after everything that knew of it was started anew; it is not fresh then."""
    region = prefix.strip("/").replace("/", "-")
    async with replica(store, seed=1) as before:
        first = await before.reserve("node-1", region, ASK)
    assert all(block.fresh for block in first.blocks)
    async with replica(store, seed=2) as after:
        second = await after.reserve("node-1", region, ASK)
        assert ports_of(second) == ports_of(first)
        assert not any(block.fresh for block in second.blocks)
