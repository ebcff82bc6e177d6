"""The nodes that clients can be sent to: by their records, and by their streams."""

from collections.abc import AsyncIterator, Callable

import pytest
from portway_geo.position import Position
from portway_proto.v1.types_pb2 import NODE_STATE_CORDONED, NODE_STATE_DRAINING, NODE_STATE_READY, NodeInfo
from portway_registry.placement.placed_nodes import placed_node
from portway_registry.placement.roster import Listed, Roster, some_of_each_region
from portway_registry.placement.round_trips import NOTHING
from portway_registry.placement.shortlist import Candidate
from portway_registry.state import keys
from portway_registry.state.records import Order, OrderRecord, decode_node, decoder, encode
from portway_registry.state.views import View
from portway_registry.store.embedded import EmbeddedStore
from portway_testkit.clusters.registry import node_info
from portway_testkit.clusters.views import settle

FRANKFURT = Position(50.1, 8.7)
_LIMIT = 200


class FakeSessions:
    """Knows which nodes have sessions here."""

    def __init__(self) -> None:
        self.streams: set[str] = set()
        self.on_end: list[Callable[[str], None]] = []

    def has(self, node: str) -> bool:
        return node in self.streams

    def end(self, node: str) -> None:
        self.streams.discard(node)
        for notify in tuple(self.on_end):
            notify(node)


class Stage:
    def __init__(self, store: EmbeddedStore, view: View[NodeInfo], orders: View[OrderRecord]) -> None:
        self._store = store
        self._view = view
        self._orders = orders
        self.hub = FakeSessions()
        self.roster = Roster(view, orders, self.hub)

    async def put(self, name: str, region: str = "fra", **more: object) -> None:
        await self._store.put(keys.node(name), node_info(name, region, **more).SerializeToString())
        await self._settle()

    async def delete(self, name: str) -> None:
        await self._store.delete(keys.node(name))
        await self._settle()

    async def order(self, name: str, order: Order | None) -> None:
        if order is None:
            await self._store.delete(keys.order(name))
        else:
            await self._store.put(keys.order(name), encode(OrderRecord(name, order)))
        await self._settle()

    def left_out(self) -> list[tuple[str, int]]:
        """Name and state of each node that is not a candidate."""
        named = self.names()
        return [(node.name, node.state) for node, _ in self.roster.all(None, NOTHING) if node.name not in named]

    def names(self, region: str = "") -> set[str]:
        return {node.name for node, _ in self.roster.candidates(FRANKFURT, region=region, limit=10)}

    async def _settle(self) -> None:
        await settle(self._store, self._view.mirror, self._orders.mirror)


@pytest.fixture
async def stage(memory: EmbeddedStore) -> AsyncIterator[Stage]:
    view: View[NodeInfo] = View(memory, keys.NODES, decode_node, on_failure=print)
    await memory.put(keys.node("there-before"), node_info("there-before").SerializeToString())
    orders: View[OrderRecord] = View(memory, keys.ORDERS, decoder(OrderRecord), on_failure=print)
    await view.start()
    await orders.start()
    stage = Stage(memory, view, orders)
    yield stage
    await stage.roster.close()
    assert stage.hub.on_end == []
    await orders.close()
    await view.close()


async def test_it_follows_the_records(stage: Stage) -> None:
    """Nodes are candidates from their record on, as they last were, until it is gone."""
    assert stage.names() == {"there-before"}
    await stage.put("fra-1")
    await stage.put("lon-1", "lon")
    assert stage.names() == {"there-before", "fra-1", "lon-1"}
    assert stage.names("lon") == {"lon-1"}
    await stage.put("fra-1", state=NODE_STATE_DRAINING)
    await stage.delete("there-before")
    assert stage.names() == {"lon-1"}


async def test_clients_are_not_told_what_only_registries_use(stage: Stage) -> None:
    """Each answer has several records."""
    await stage.put("fra-1", grant_keys=["1", "2"], port=444)
    told = {node.name: node for node, _ in stage.roster.candidates(FRANKFURT, region="", limit=10)}
    assert (list(told["fra-1"].grant_keys), told["fra-1"].port) == ([], 444)


async def test_regions_count_every_node(stage: Stage) -> None:
    """A region is there while it has a node, whether that takes clients or not."""
    await stage.put("lon-1", "lon", state=NODE_STATE_DRAINING)
    assert stage.roster.regions() == {"fra": 1, "lon": 1}
    await stage.delete("lon-1")
    assert stage.roster.regions() == {"fra": 1}


async def test_a_stream_keeps_a_node_whose_record_is_gone(stage: Stage) -> None:
    """A store that forgot a lease does not take away a node that is talked to; the end of the stream does."""
    await stage.put("fra-1")
    stage.hub.streams.add("fra-1")
    await stage.delete("fra-1")
    assert "fra-1" in stage.names()
    stage.hub.end("fra-1")
    assert "fra-1" not in stage.names()


async def test_a_record_keeps_a_node_whose_stream_is_gone(stage: Stage) -> None:
    """A node that lost its stream is known until its lease ends: it may be at another replica."""
    await stage.put("fra-1")
    stage.hub.streams.add("fra-1")
    stage.hub.end("fra-1")
    assert "fra-1" in stage.names()
    stage.hub.end("never-known")


@pytest.mark.parametrize(
    ("order", "state"),
    [
        (Order.CORDON, NODE_STATE_CORDONED),
        (Order.DRAIN, NODE_STATE_DRAINING),
        (Order.REMOVE, NODE_STATE_DRAINING),
    ],
)
async def test_an_order_counts_before_its_node_has_heard_of_it(stage: Stage, order: Order, state: int) -> None:
    """The node still says that it is ready, again and again, and is no candidate until the order is taken back."""
    await stage.put("fra-1")
    await stage.order("fra-1", order)
    assert stage.names() == {"there-before"}
    await stage.put("fra-1", sessions=3, state=NODE_STATE_READY)
    assert stage.names() == {"there-before"}
    assert stage.left_out() == [("fra-1", state)]
    await stage.order("fra-1", None)
    assert stage.names() == {"there-before", "fra-1"}
    await stage.order("never-known", order)
    assert stage.left_out() == []


async def test_all_of_them_are_those_that_take_clients_and_then_the_others(stage: Stage) -> None:
    """With what each one says of itself."""
    await stage.put("full-1", sessions=5, max_sessions=5)
    await stage.put("lon-1", "lon", state=NODE_STATE_DRAINING)
    found = [node.name for node, _ in stage.roster.all(FRANKFURT, NOTHING)]
    assert found == ["there-before", "full-1", "lon-1"]
    assert stage.left_out() == [("full-1", NODE_STATE_READY), ("lon-1", NODE_STATE_DRAINING)]


def listed(**regions: int) -> list[Listed]:
    """This number of nodes of each region, in this order."""
    nodes = [NodeInfo(name=f"{region}-{n}", region=region) for region, number in regions.items() for n in range(number)]
    return [(node, Candidate(placed_node(node), 0)) for node in nodes]


def test_a_small_cluster_is_shown_whole() -> None:
    """In its order."""
    everything = listed(fra=_LIMIT - 1, syd=1)
    assert some_of_each_region(everything, _LIMIT) == everything


def test_of_a_large_one_each_region_is_shown() -> None:
    """With its best nodes, in their order, no more than may be."""
    everything = listed(fra=1000, lon=1, syd=500)
    shown = [node.name for node, _ in some_of_each_region(everything, _LIMIT)]
    assert len(shown) == _LIMIT
    assert shown[:2] == ["fra-0", "fra-1"]
    assert shown[-1] == "syd-98"
    assert "lon-0" in shown
    assert shown == [node.name for node, _ in everything if node.name in shown]
