"""Which node gives which raw ports: reserving, keeping, taking over."""

import random

import pytest
from portway_proto.v1.mesh_pb2 import ReservePortsRequest, ReservePortsResponse
from portway_proto.v1.types_pb2 import NodeInfo, TunnelInfo
from portway_proto.wire.statements import SigningKey
from portway_registry.state import keys
from portway_registry.state.records import PortBlockRecord, encode
from portway_registry.tunnels.port_blocks import BLOCK_SIZE, PortBlocks, release_blocks
from portway_testkit.clusters.registry import tunnel_info
from portway_testkit.clusters.views import ViewedStore
from portway_testkit.signers import label_of

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
# Four whole blocks begin in it: 19,968 is a multiple of 64.
FIRST = 19_968
KEY = SigningKey(b"\x01" * 32)


class Replica:
    """PortBlocks with a clock, and a range of four blocks unless another is given."""

    def __init__(self, cluster: ViewedStore) -> None:
        self.now_ms = NOW_MS
        self._cluster = cluster
        self._blocks = PortBlocks(cluster.store, cluster.views, lambda: self.now_ms, random.Random(1))

    async def reserve(
        self, node: str, blocks: int = 1, *, region: str = "fra", first: int = FIRST, last: int = FIRST + 255
    ) -> ReservePortsResponse:
        request = ReservePortsRequest(first=first, last=last, blocks=blocks)
        answer = await self._blocks.reserve(node, region, request)
        await self._cluster.settle()
        return answer

    async def owns(self, node: str, first: int, *, hours_ago: float = 0) -> None:
        record = PortBlockRecord(node, self.now_ms - int(hours_ago * HOUR_MS))
        await self._cluster.store.put(keys.port_block("fra", first), encode(record))
        await self._cluster.settle()

    async def alive(self, node: str) -> None:
        await self._cluster.store.put(keys.node(node), NodeInfo(name=node, region="fra").SerializeToString())
        await self._cluster.settle()


@pytest.fixture
def replica(cluster: ViewedStore) -> Replica:
    return Replica(cluster)


def blocks(answer: ReservePortsResponse) -> list[tuple[int, int]]:
    return [(block.first, block.last) for block in answer.blocks]


async def test_a_node_gets_the_blocks_that_it_asks_for(replica: Replica) -> None:
    """Whole blocks within the range, each fresh the first time it is told."""
    answer = await replica.reserve("a", 2)
    assert len(answer.blocks) == 2
    for block in answer.blocks:
        assert (block.first - FIRST) % BLOCK_SIZE == 0
        assert block.last == block.first + BLOCK_SIZE - 1
        assert block.fresh
    again = await replica.reserve("a", 2)
    assert blocks(again) == blocks(answer)
    assert not any(block.fresh for block in again.blocks)


async def test_a_used_up_range_gives_fewer(replica: Replica) -> None:
    """What others have is not given; what is left is."""
    first = await replica.reserve("a", 3)
    second = await replica.reserve("b", 3)
    assert (len(first.blocks), len(second.blocks)) == (3, 1)
    assert not set(blocks(first)) & set(blocks(second))
    assert not (await replica.reserve("c")).blocks


async def test_regions_have_the_same_ports_each_for_itself(replica: Replica) -> None:
    """An address is a region's host and a port."""
    assert len((await replica.reserve("a", 4)).blocks) == 4
    assert len((await replica.reserve("b", 4, region="nyc")).blocks) == 4


async def test_a_block_is_cut_to_the_range(replica: Replica) -> None:
    """Ranges need not begin where blocks do, and two that overlap still share no port between nodes."""
    mine = await replica.reserve("a", 9, first=FIRST + 10, last=FIRST + 100)
    assert blocks(mine) == [(FIRST + 10, FIRST + 63), (FIRST + 64, FIRST + 100)]
    other = await replica.reserve("b", 9, first=FIRST + 30, last=FIRST + 140)
    assert blocks(other) == [(FIRST + 128, FIRST + 140)]


async def test_a_block_is_kept_for_a_node_that_is_gone(replica: Replica) -> None:
    """Its tunnels' clients show their tickets elsewhere, and it may come back: its lease says nothing of its blocks."""
    for number in range(4):
        await replica.owns("gone", FIRST + number * BLOCK_SIZE, hours_ago=23.9)
    assert not (await replica.reserve("b")).blocks
    assert len((await replica.reserve("gone", 4)).blocks) == 4


async def test_a_block_of_a_node_that_is_long_gone_is_taken_over(replica: Replica) -> None:
    """After a day, and only when no block is free."""
    for number in range(3):
        await replica.owns("gone", FIRST + number * BLOCK_SIZE, hours_ago=24)
    assert blocks(await replica.reserve("b")) == [(FIRST + 192, FIRST + 255)]
    assert len((await replica.reserve("b", 2)).blocks) == 2
    assert len((await replica.reserve("gone", 0)).blocks) == 2


async def test_a_block_of_a_node_that_lives_is_never_taken(replica: Replica) -> None:
    """Not even when it said nothing of its blocks for long."""
    for number in range(4):
        await replica.owns("quiet", FIRST + number * BLOCK_SIZE, hours_ago=100)
    await replica.alive("quiet")
    assert not (await replica.reserve("b")).blocks


async def test_a_block_with_a_tunnel_in_it_is_not_taken(replica: Replica, cluster: ViewedStore) -> None:
    """A tunnel that took its port along from a dead node has it still: a new owner would give it once more."""
    for number in range(4):
        await replica.owns("gone", FIRST + number * BLOCK_SIZE, hours_ago=100)
    tunnel = tunnel_info(KEY, node="b", region="fra", unencrypted_port=FIRST + 70)
    await cluster.put_tunnel(tunnel)
    taken = await replica.reserve("c", 9)
    assert blocks(taken) == [(FIRST, FIRST + 63), (FIRST + 128, FIRST + 191), (FIRST + 192, FIRST + 255)]


async def test_a_node_hears_which_of_its_ports_are_held(replica: Replica, cluster: ViewedStore) -> None:
    """By tunnels of its region at any node; another region's ports are other ports."""
    await replica.owns("a", FIRST)
    here = tunnel_info(KEY, node="b", region="fra", unencrypted_port=FIRST + 1)
    there = tunnel_info(SigningKey(b"\x02" * 32), node="c", region="nyc", unencrypted_port=FIRST + 2)
    await cluster.put_tunnel(here)
    await cluster.put_tunnel(there)
    answer = await replica.reserve("a")
    assert [(held.port, held.label) for held in answer.held] == [(FIRST + 1, label_of(KEY))]


async def test_a_node_that_goes_on_asking_is_not_taken_for_gone(replica: Replica, cluster: ViewedStore) -> None:
    """Asking again after an hour is written down, before that nothing is."""
    await replica.owns("a", FIRST)
    before = await cluster.store.get(keys.port_block("fra", FIRST))
    await replica.reserve("a")
    assert await cluster.store.get(keys.port_block("fra", FIRST)) == before
    replica.now_ms += HOUR_MS
    await replica.reserve("a")
    entry = await cluster.store.get(keys.port_block("fra", FIRST))
    assert entry is not None
    assert entry.value == encode(PortBlockRecord("a", replica.now_ms))


async def test_a_node_without_raw_tunnels_gets_four_blocks(replica: Replica) -> None:
    """Whatever it asks for, in one range or in many."""
    assert len((await replica.reserve("a", 1_000, first=1, last=65_535)).blocks) == 4
    for first in range(1, 65_535, 1_000):
        await replica.reserve("a", 100, first=first, last=first + 999)
    assert len((await replica.reserve("a", 0, first=1, last=65_535)).blocks) == 4


async def test_blocks_grow_with_the_ports_that_tunnels_hold(replica: Replica, cluster: ViewedStore) -> None:
    """Two for each block's worth, since as many ports may rest. Tunnels that moved to a sibling count: the ports are
    not free."""
    answer = await replica.reserve("a", 1_000, first=1, last=65_535)
    ports = [port for block in answer.blocks for port in range(block.first, block.last + 1)]
    for number, port in enumerate(ports[:65]):
        await cluster.put_tunnel(
            TunnelInfo(label=f"label{number}", node="ab"[number % 2], region="fra", unencrypted_port=port)
        )
    assert len((await replica.reserve("a", 1_000, first=1, last=65_535)).blocks) == 8
    assert len((await replica.reserve("b", 1_000, first=1, last=65_535)).blocks) == 4


async def test_blocks_of_a_removed_node_are_free_after_a_minute(replica: Replica, cluster: ViewedStore) -> None:
    """Ports that its tunnels kept at other nodes are not; blocks of other nodes stay."""
    for number, owner in enumerate(("gone", "gone", "gone", "quiet")):
        await replica.owns(owner, FIRST + number * BLOCK_SIZE)
    await cluster.put_tunnel(tunnel_info(KEY, node="b", region="fra", unencrypted_port=FIRST + 70))
    await release_blocks(cluster.store, cluster.views, "gone", replica.now_ms)
    await cluster.settle()
    assert not (await replica.reserve("b", 4)).blocks
    replica.now_ms += 60_000
    assert blocks(await replica.reserve("b", 4)) == [(FIRST, FIRST + 63), (FIRST + 128, FIRST + 191)]
