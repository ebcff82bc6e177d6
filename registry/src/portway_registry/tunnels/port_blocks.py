"""Blocks of raw ports: each is reserved for one node of a region, which gives its ports to tunnels.

Here: reserving by compare-and-swap, renewing, taking over from a node that is long gone. Not here: which port of a
block a tunnel gets: its node decides alone, so that opening a tunnel waits for no other party.

Blocks begin at multiples of their size whatever ranges nodes are configured with, so that blocks never overlap.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from typing import Final
from weakref import WeakValueDictionary

from portway_proto.v1.mesh_pb2 import HeldPort, PortBlock, ReservePortsRequest, ReservePortsResponse

from portway_registry.errors import StoreUnavailable
from portway_registry.state import keys
from portway_registry.state.records import PortBlockRecord, encode
from portway_registry.state.views import Item, Views
from portway_registry.store.contract import ABSENT, Put, Revision, Store
from portway_registry.store.update import TRIES, revision_of

logger = logging.getLogger(__name__)

BLOCK_SIZE: Final = 64  # ports: more than a node opens in a minute; the default range has 157 blocks
# A block of a node that is gone is reserved this long. A client regains its port with a ticket while nodes honour its
# grant, which is 24 h past the grant's end.
_RESERVED_MS: Final = 24 * 3_600_000
# A block in use is renewed this often, so that a node that is away for a moment does not count as gone.
_RENEWED_EVERY_MS: Final = 3_600_000
# Blocks of a node without raw tunnels: a program may open 256 of them before the first is announced.
_SPARE: Final = 4
# Blocks for each block's worth of ports that tunnels hold: as many again may rest after their tunnels were closed.
_PER_FULL_BLOCK: Final = 2
# After a node was removed its blocks stay reserved this long, as a released port rests: visitors may still hold its
# addresses. Its tunnels' clients are at other nodes within seconds, and ports that they kept are not taken.
_REST_AFTER_REMOVAL_MS: Final = 60_000
_ALL_PORTS: Final = range(1, 65_536)


class PortBlocks:
    """The blocks of every region, as this replica's views show them; the store's compare-and-swap decides."""

    def __init__(
        self, store: Store, views: Views, now_ms: Callable[[], int], chance: random.Random | None = None
    ) -> None:
        self._store = store
        self._views = views
        self._now_ms = now_ms
        # Nodes that reserve at the same time should not all try the same block.
        self._chance = chance or random.Random()  # noqa: S311 - spreads writes only
        # A node's calls come one after another, or each would count only the blocks of before.
        self._calling: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def reserve(self, node: str, region: str, request: ReservePortsRequest) -> ReservePortsResponse:
        """Renew the node's blocks in the requested range, and reserve more until it has `request.blocks`, if there are
        free ones, or as many as its raw tunnels allow.

        Returns all its blocks in that range, and which of their ports tunnels hold. Raises StoreUnavailable.
        """
        wanted = range(request.first, request.last + 1)
        async with self._calling.setdefault(node, asyncio.Lock()):
            mine = [first for first in _blocks(wanted) if self._owner(region, first) == node]
            await self._renew(node, region, mine)
            count = min(request.blocks - len(mine), self._allowed(node, region))
            fresh = await self._take(node, region, wanted, count)
            for first in fresh:
                await self._views.port_blocks.caught_up(_name(region, first))
        answer = ReservePortsResponse()
        for first in sorted([*mine, *fresh]):
            ports = _cut(first, wanted)
            answer.blocks.append(PortBlock(first=ports[0], last=ports[-1], fresh=first in fresh))
            answer.held.extend(self._held(region, ports))
        return answer

    def _allowed(self, node: str, region: str) -> int:
        """How many more blocks the node may reserve, in proportion to the ports of its blocks that tunnels hold.

        All its blocks of the region count, whatever range it asks for now.
        """
        mine = [first for first in _blocks(_ALL_PORTS) if self._owner(region, first) == node]
        held = sum(1 for first in mine for _ in self._held(region, range(first, first + BLOCK_SIZE)))
        return _SPARE + _PER_FULL_BLOCK * -(-held // BLOCK_SIZE) - len(mine)

    async def _take(self, node: str, region: str, wanted: range, count: int) -> set[int]:
        """Reserve at most `count` blocks: unreserved ones first, then those of nodes that are long gone."""
        taken: set[int] = set()
        blocks = list(_blocks(wanted))
        self._chance.shuffle(blocks)
        for free in (True, False):
            for first in blocks:
                if len(taken) >= count:
                    return taken
                item = self._item(region, first)
                takeable = (item is None) is free and self._may_take(region, first, item)
                if takeable and await self._write(node, region, first, revision_of(item)):
                    taken.add(first)
        return taken

    def _may_take(self, region: str, first: int, item: Item[PortBlockRecord] | None) -> bool:
        if any(self._held(region, range(first, first + BLOCK_SIZE))):
            return False  # a tunnel kept its port when it moved; it is served at every node of the region
        if item is None:
            return True
        gone = self._views.nodes.get(item.value.node) is None
        return gone and item.value.asked_at_ms <= self._now_ms() - _RESERVED_MS

    async def _renew(self, node: str, region: str, blocks: list[int]) -> None:
        for first in blocks:
            item = self._item(region, first)
            if item is not None and item.value.asked_at_ms <= self._now_ms() - _RENEWED_EVERY_MS:
                await self._write(node, region, first, item.modified)

    async def _write(self, node: str, region: str, first: int, expected: Revision) -> bool:
        record = PortBlockRecord(node, self._now_ms())
        done = await self._store.put(keys.port_block(region, first), encode(record), expected=expected)
        if done and expected == ABSENT:
            logger.info("port block reserved", extra={"node": node, "region": region, "first": first})
        elif done:
            logger.debug("port block renewed", extra={"node": node, "region": region, "first": first})
        return done

    def _item(self, region: str, first: int) -> Item[PortBlockRecord] | None:
        return self._views.port_blocks.items.get(_name(region, first))

    def _owner(self, region: str, first: int) -> str | None:
        item = self._item(region, first)
        return None if item is None else item.value.node

    def _held(self, region: str, ports: range) -> Iterator[HeldPort]:
        for port in ports:
            for label in self._views.tunnels.of_port(region, port):
                yield HeldPort(port=port, label=label)


async def release_blocks(store: Store, views: Views, node: str, now_ms: int) -> None:
    """Free the blocks of a node that was removed, after a minute's rest, all that the store has: the view may not show
    the last ones yet. Raises StoreUnavailable."""
    record = PortBlockRecord(node, now_ms - _RESERVED_MS + _REST_AFTER_REMOVAL_MS)
    for _ in range(TRIES):
        items = [views.port_blocks.item(entry) for entry in (await store.list(keys.PORTS)).entries]
        writes = [
            Put(keys.PORTS + item.name, encode(record), item.modified)
            for item in items
            if item is not None and item.value.node == node and item.value.asked_at_ms > record.asked_at_ms
        ]
        if not writes:
            return
        if all(await store.write(writes)):
            logger.info("port blocks released", extra={"node": node, "blocks": len(writes)})
            return
    raise StoreUnavailable("blocks of ports changed at each try to release them")


def _name(region: str, first: int) -> str:
    return keys.port_block(region, first).removeprefix(keys.PORTS)


def _blocks(ports: range) -> range:
    """The first ports of the blocks that have ports in the range."""
    return range(ports.start - ports.start % BLOCK_SIZE, ports.stop, BLOCK_SIZE)


def _cut(first: int, ports: range) -> range:
    """The ports of the block that are in the range."""
    return range(max(first, ports.start), min(first + BLOCK_SIZE, ports.stop))
