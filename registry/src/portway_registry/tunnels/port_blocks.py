"""Which node gives which raw ports of its region to tunnels: blocks in the store, each one node's.

Here: reserving by compare-and-swap, keeping, taking over from a node that is long gone. Not here: which port of a block
a tunnel gets (the node decides alone, so that opening one waits for nobody).

Blocks begin at multiples of their size whatever ranges nodes are told, so that those of two ranges never overlap.
"""

import logging
import random
from collections.abc import Callable, Iterator
from typing import Final

from portway_proto.v1.mesh_pb2 import HeldPort, PortBlock, ReservePortsRequest, ReservePortsResponse

from portway_registry.state import keys
from portway_registry.state.records import PortBlockRecord, encode
from portway_registry.state.views import Item, Views
from portway_registry.store.contract import ABSENT, Revision, Store
from portway_registry.store.update import revision_of

logger = logging.getLogger(__name__)

BLOCK_SIZE: Final = 64  # more raw tunnels than a node opens in a minute; the default range has 157 blocks
# A client comes back to its port with a ticket as long as it is away no longer than its grant is honoured (DESIGN §11).
_KEPT_MS: Final = 24 * 3_600_000
# A block that is in use is written again this often, so that a node which is away for a moment is not taken for gone.
_SAID_AGAIN_MS: Final = 3_600_000
# For one call: a node that needs more asks again, and none takes the whole range at once.
_MOST_NEW: Final = 16


class PortBlocks:
    """The blocks of every region, as this replica sees them; the store has the last word."""

    def __init__(
        self, store: Store, views: Views, now_ms: Callable[[], int], chance: random.Random | None = None
    ) -> None:
        self._store = store
        self._views = views
        self._now_ms = now_ms
        # Nodes that ask at once should not all try for the same block.
        self._chance = chance or random.Random()  # noqa: S311 - spreads writes only

    async def reserve(self, node: str, region: str, request: ReservePortsRequest) -> ReservePortsResponse:
        """What the node has, with as many new blocks as it asks for and there are. Raises StoreUnavailable."""
        wanted = range(request.first, request.last + 1)
        mine = [first for first in _blocks(wanted) if self._owner(region, first) == node]
        await self._say_again(node, region, mine)
        fresh = await self._take(node, region, wanted, min(request.blocks - len(mine), _MOST_NEW))
        answer = ReservePortsResponse()
        for first in sorted([*mine, *fresh]):
            ports = _cut(first, wanted)
            answer.blocks.append(PortBlock(first=ports[0], last=ports[-1], fresh=first in fresh))
            answer.held.extend(self._held(region, ports))
        return answer

    async def _take(self, node: str, region: str, wanted: range, most: int) -> set[int]:
        """At most so many blocks: those that nobody has, then those of nodes that are long gone."""
        taken: set[int] = set()
        blocks = list(_blocks(wanted))
        self._chance.shuffle(blocks)
        # The first that are free; in a range that is used up, the first that may be taken over.
        for free in (True, False):
            for first in blocks:
                if len(taken) >= most:
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
        return gone and item.value.asked_at_ms <= self._now_ms() - _KEPT_MS

    async def _say_again(self, node: str, region: str, blocks: list[int]) -> None:
        for first in blocks:
            item = self._item(region, first)
            if item is not None and item.value.asked_at_ms <= self._now_ms() - _SAID_AGAIN_MS:
                await self._write(node, region, first, item.modified)

    async def _write(self, node: str, region: str, first: int, expected: Revision) -> bool:
        record = PortBlockRecord(node, self._now_ms())
        done = await self._store.put(keys.port_block(region, first), encode(record), expected=expected)
        if done and expected == ABSENT:
            logger.info("ports reserved", extra={"node": node, "region": region, "first": first})
        elif done:
            logger.debug("ports kept", extra={"node": node, "region": region, "first": first})
        return done

    def _item(self, region: str, first: int) -> Item[PortBlockRecord] | None:
        return self._views.port_blocks.items.get(keys.port_block(region, first).removeprefix(keys.PORTS))

    def _owner(self, region: str, first: int) -> str | None:
        item = self._item(region, first)
        return None if item is None else item.value.node

    def _held(self, region: str, ports: range) -> Iterator[HeldPort]:
        for port in ports:
            for label in self._views.tunnels.of_port(region, port):
                yield HeldPort(port=port, label=label)


def _blocks(ports: range) -> range:
    """Where the blocks begin that have ports of the range."""
    return range(ports.start - ports.start % BLOCK_SIZE, ports.stop, BLOCK_SIZE)


def _cut(first: int, ports: range) -> range:
    """The block's part of the range."""
    return range(max(first, ports.start), min(first + BLOCK_SIZE, ports.stop))
