"""Which nodes are the domain's name servers, and which proofs nobody took back.

A name server keeps its number for as long as its node is in the cluster, away or not: the zone above names it, and
resolvers keep its address for long. Of two replicas that decide at once one comes first in the store.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Final, NoReturn

from portway_proto.v1.types_pb2 import NodeInfo

from portway_registry.state import keys
from portway_registry.state.domain_records import ChallengeRecord, NameServerRecord
from portway_registry.state.lookout import Lookout
from portway_registry.state.records import Order, encode
from portway_registry.state.views import Item, Views
from portway_registry.store.contract import ABSENT, Revision, Store

logger = logging.getLogger(__name__)

# Two are usual, and what most zones above demand; resolvers try the nearest of them. Beyond the first four there is one
# for each region that has none, so that a lookup from there does not cross an ocean for each of its questions.
MOST_NAME_SERVERS: Final = 8
_OF_ANY_REGION: Final = 4
_LOOK_EVERY: Final = 60.0  # seconds
_CHALLENGE_LIFE_MS: Final = 3_600_000  # an order of a certificate takes minutes


class DnsUpkeep:
    """Keeps the records of name servers and proofs right."""

    def __init__(self, store: Store, views: Views, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._views = views
        self._now_ms = now_ms
        self._lookout = Lookout(self.look, every=_LOOK_EVERY, trouble="name servers not looked at")

    async def run(self) -> NoReturn:
        """Look, for ever, whenever nodes or orders change."""
        views = self._views
        await self._lookout.run(
            [
                views.nodes.subscribe(self._node_changed),
                views.orders.subscribe(self._lookout.notice),
            ]
        )

    async def look(self) -> None:
        """Free the numbers of nodes that were removed or answer DNS no more, take up other addresses, give free numbers
        to nodes that answer, and delete proofs that are an hour old. Raises StoreUnavailable."""
        await self._delete_old_proofs()
        nodes = self._views.nodes
        removed = {one.node for one in self._views.orders.values() if one.order is Order.REMOVE}
        held: dict[int, str] = {}
        for server, modified in self._name_servers():
            node = nodes.get(server.node)
            if server.node in removed or (node is not None and not node.dns):
                logger.info("a name server answers no more", extra={"node": server.node, "number": server.number})
                await self._store.delete(keys.name_server(server.number), expected=modified)
                continue
            held[server.number] = server.node
            if node is not None and node.addresses and tuple(node.addresses) != server.addresses:
                await self._write(server.number, node, expected=modified)
        taken = set(held.values())
        regions = {node.region for node in nodes.values() if node.name in taken}
        free = [number for number in range(1, MOST_NAME_SERVERS + 1) if number not in held]
        fit = [node for node in nodes.values() if node.dns and node.addresses and node.name not in taken | removed]
        for node in _far_apart(fit, regions):
            if not free or (free[0] > _OF_ANY_REGION and node.region in regions):
                continue
            number = free.pop(0)
            regions.add(node.region)
            if not await self._write(number, node, expected=ABSENT):
                self._lookout.notice()  # another replica was first: it may have given this node the next number
                return
            logger.info("a name server", extra={"node": node.name, "number": number})

    def _name_servers(self) -> list[tuple[NameServerRecord, Revision]]:
        items = self._views.dns.items.values()
        return [(item.value, item.modified) for item in items if isinstance(item.value, NameServerRecord)]

    async def _delete_old_proofs(self) -> None:
        oldest = self._now_ms() - _CHALLENGE_LIFE_MS
        for item in list(self._views.dns.items.values()):
            if isinstance(item.value, ChallengeRecord) and item.value.created_at_ms < oldest:
                await self._store.delete(keys.DNS + item.name, expected=item.modified)

    async def _write(self, number: int, node: NodeInfo, *, expected: Revision) -> bool:
        """Whether it was written; the view shows it then, or what is there instead, so that the next look sees it."""
        record, key = NameServerRecord(number, node.name, tuple(node.addresses)), keys.name_server(number)
        written = await self._store.put(key, encode(record), expected=expected)
        await self._views.dns.caught_up(key.removeprefix(keys.DNS))
        return written

    def _node_changed(self, old: Item[NodeInfo] | None, new: Item[NodeInfo] | None) -> None:
        """Counts change often, and are no news."""
        if new is not None and (old is None or _named(old.value) != _named(new.value)):
            self._lookout.notice()


def _named(node: NodeInfo) -> tuple[bool, list[str]]:
    return node.dns, list(node.addresses)


def _far_apart(nodes: Iterable[NodeInfo], regions: set[str]) -> Iterable[NodeInfo]:
    """Nodes of regions that have no name server first, one of each, then the others; by their names."""
    rest, seen = [], set(regions)
    for node in sorted(nodes, key=lambda node: node.name):
        if node.region in seen:
            rest.append(node)
        else:
            seen.add(node.region)
            yield node
    yield from rest
