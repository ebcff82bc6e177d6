"""What operators order nodes to do: what is stored, and which orders are refused."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from portway_registry.errors import InvalidRequest, NotFound
from portway_registry.nodes.operator_orders import OperatorOrders, is_removed
from portway_registry.state import keys
from portway_registry.state.audit import Audit
from portway_registry.state.records import IdentityRecord, Order, OrderRecord, PortBlockRecord, encode
from portway_registry.state.views import Views
from portway_registry.store.contract import Put, Write
from portway_registry.store.embedded import EmbeddedStore
from portway_testkit.clusters.registry import node_info
from portway_testkit.clusters.replicas import LateUntilRead
from portway_testkit.clusters.views import ViewedStore, settle

NOW_MS = 1_800_000_000_000


@pytest.fixture
def orders(cluster: ViewedStore) -> OperatorOrders:
    return OperatorOrders(cluster.store, cluster.views, Audit(cluster.store, lambda: NOW_MS), lambda: NOW_MS)


@pytest.fixture
async def behind(memory: EmbeddedStore) -> AsyncIterator[tuple[ViewedStore, OperatorOrders]]:
    """A replica that hears of nodes and orders only after it has asked the store."""
    failures: list[BaseException] = []
    late: Any = LateUntilRead(memory, owned=False)
    views = Views(late, on_failure=failures.append)
    await views.start()
    yield ViewedStore(late, views), OperatorOrders(late, views, Audit(late, lambda: NOW_MS), lambda: NOW_MS)
    await views.close()
    assert not failures


async def register(cluster: ViewedStore, *, joined: bool = False) -> None:
    """Node fra-1, with its record on a lease."""
    lease = await cluster.store.grant_lease(60)
    await cluster.store.put(keys.node("fra-1"), node_info("fra-1").SerializeToString(), lease=lease)
    if joined:
        identity = IdentityRecord("fra-1", "fra", "invitation", NOW_MS)
        await cluster.store.put(keys.identity("fra-1"), encode(identity))
    await settle(cluster.store, cluster.views.nodes.mirror, cluster.views.identities.mirror)


def hold(cluster: ViewedStore, prefix: str) -> None:
    late: Any = cluster.store
    late.hold(prefix)


async def test_an_order_is_in_force_until_it_is_taken_back(cluster: ViewedStore, orders: OperatorOrders) -> None:
    """The replica's view shows it when `give` returns; each change is in the audit with the operator's token."""
    await register(cluster)
    for order in (Order.CORDON, Order.DRAIN):
        await orders.give("fra-1", order, by="admin")
        record = cluster.views.orders.get("fra-1")
        assert record is not None
        assert (record.order, record.at_ms) == (order, NOW_MS)
    await orders.give("fra-1", None, by="admin")
    assert cluster.views.orders.get("fra-1") is None
    audited = (await Audit(cluster.store, lambda: 0).page(10))[0]
    assert {(one.actor, one.action, one.target) for one in audited} == {
        ("admin", f"node.{word}", "fra-1") for word in ("cordon", "drain", "serve")
    }


async def test_an_unknown_node_gets_no_order(cluster: ViewedStore, orders: OperatorOrders) -> None:
    """A name that neither registered nor joined is more likely misspelt; nothing is stored for it."""
    with pytest.raises(NotFound, match="node list"):
        await orders.give("fra-2", Order.CORDON, by="admin")
    assert await cluster.store.get(keys.order("fra-2")) is None


async def test_a_removed_node_is_gone_with_what_it_holds(cluster: ViewedStore, orders: OperatorOrders) -> None:
    """Its record is deleted with its lease, and every replica knows it as removed."""
    await register(cluster)
    await orders.give("fra-1", Order.REMOVE, by="admin")
    assert await cluster.store.get(keys.node("fra-1")) is None
    assert is_removed(cluster.views.orders, "fra-1")
    assert not is_removed(cluster.views.orders, "fra-2")


async def test_a_node_that_joined_stays_removed(cluster: ViewedStore, orders: OperatorOrders) -> None:
    """Its key may be in other hands: only an invitation lets it in again."""
    await register(cluster, joined=True)
    await orders.give("fra-1", Order.REMOVE, by="admin")
    for order in (None, Order.CORDON):
        with pytest.raises(InvalidRequest, match="invite it anew"):
            await orders.give("fra-1", order, by="admin")
    assert is_removed(cluster.views.orders, "fra-1")


async def test_no_other_order_lets_a_removed_node_in(cluster: ViewedStore, orders: OperatorOrders) -> None:
    """Also one whose certificate operators made, which is not invited: cordoned or draining nodes may register."""
    await register(cluster)
    await orders.give("fra-1", Order.REMOVE, by="admin")
    for order in (Order.CORDON, Order.DRAIN):
        with pytest.raises(InvalidRequest, match="node serve fra-1"):
            await orders.give("fra-1", order, by="admin")
    assert is_removed(cluster.views.orders, "fra-1")
    await orders.give("fra-1", None, by="admin")
    assert not is_removed(cluster.views.orders, "fra-1")


async def test_a_node_that_has_just_registered_gets_an_order(behind: tuple[ViewedStore, OperatorOrders]) -> None:
    """Also before this replica has heard of it."""
    cluster, orders = behind
    hold(cluster, keys.NODES)
    await cluster.store.put(keys.node("fra-1"), node_info("fra-1").SerializeToString())
    await orders.give("fra-1", Order.CORDON, by="admin")
    record = cluster.views.orders.get("fra-1")
    assert record is not None
    assert record.order is Order.CORDON


@pytest.mark.parametrize("joined", [True, False])
async def test_a_node_that_another_replica_has_just_removed_stays_removed(
    behind: tuple[ViewedStore, OperatorOrders], joined: bool
) -> None:
    """Also before this replica has heard of that."""
    cluster, orders = behind
    await register(cluster, joined=joined)
    hold(cluster, keys.ORDERS)
    removed = encode(OrderRecord("fra-1", Order.REMOVE, NOW_MS))
    await cluster.store.put(keys.order("fra-1"), removed)
    with pytest.raises(InvalidRequest, match="was removed"):
        await orders.give("fra-1", Order.DRAIN, by="admin")
    entry = await cluster.store.get(keys.order("fra-1"))
    assert entry is not None
    assert entry.value == removed


async def test_of_two_orders_at_once_none_is_lost(
    cluster: ViewedStore, orders: OperatorOrders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node is removed at another replica between the look at its order and the write of this one."""
    await register(cluster)
    put = cluster.store.put
    removed = encode(OrderRecord("fra-1", Order.REMOVE, NOW_MS))

    async def put_second(key: str, value: bytes, **more: Any) -> bool:
        if key == keys.order("fra-1"):
            await put(key, removed)
        return await put(key, value, **more)

    monkeypatch.setattr(cluster.store, "put", put_second)
    with pytest.raises(InvalidRequest, match="was removed"):
        await orders.give("fra-1", Order.CORDON, by="admin")
    entry = await cluster.store.get(keys.order("fra-1"))
    assert entry is not None
    assert entry.value == removed


async def test_an_order_that_cannot_be_read_is_replaced(cluster: ViewedStore, orders: OperatorOrders) -> None:
    """Somebody has damaged it; the node is in no other order by that."""
    await register(cluster)
    await cluster.store.put(keys.order("fra-1"), b"damaged")
    await orders.give("fra-1", Order.CORDON, by="admin")
    record = cluster.views.orders.get("fra-1")
    assert record is not None
    assert record.order is Order.CORDON


async def test_removing_a_node_frees_its_raw_ports(cluster: ViewedStore, orders: OperatorOrders) -> None:
    """After a minute's rest; another order leaves them."""
    await register(cluster, joined=True)
    key = keys.port_block("fra", 20_032)
    await cluster.store.put(key, encode(PortBlockRecord("fra-1", NOW_MS)))
    await settle(cluster.store, cluster.views.port_blocks.mirror)
    await orders.give("fra-1", Order.DRAIN, by="admin")
    entry = await cluster.store.get(key)
    assert entry is not None
    assert entry.value == encode(PortBlockRecord("fra-1", NOW_MS))
    await orders.give("fra-1", Order.REMOVE, by="admin")
    entry = await cluster.store.get(key)
    assert entry is not None
    assert entry.value == encode(PortBlockRecord("fra-1", NOW_MS - 24 * 3_600_000 + 60_000))


async def test_a_block_that_was_just_reserved_is_freed_too(behind: tuple[ViewedStore, OperatorOrders]) -> None:
    """Also before this replica has heard of it."""
    cluster, orders = behind
    await register(cluster)
    hold(cluster, keys.PORTS)
    key = keys.port_block("fra", 20_032)
    await cluster.store.put(key, encode(PortBlockRecord("fra-1", NOW_MS)))
    await orders.give("fra-1", Order.REMOVE, by="admin")
    entry = await cluster.store.get(key)
    assert entry is not None
    assert entry.value == encode(PortBlockRecord("fra-1", NOW_MS - 24 * 3_600_000 + 60_000))


async def test_a_block_that_is_renewed_meanwhile_is_freed_too(
    cluster: ViewedStore, orders: OperatorOrders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node has asked for its blocks again between the look and the write."""
    await register(cluster)
    key, write = keys.port_block("fra", 20_032), cluster.store.write
    renewals = [encode(PortBlockRecord("fra-1", NOW_MS + 1))]
    await cluster.store.put(key, encode(PortBlockRecord("fra-1", NOW_MS)))
    await settle(cluster.store, cluster.views.port_blocks.mirror)

    async def write_second(writes: Sequence[Write]) -> tuple[bool, ...]:
        if renewals and any(one.key == key for one in writes):
            await write([Put(key, renewals.pop())])
        return await write(writes)

    monkeypatch.setattr(cluster.store, "write", write_second)
    await orders.give("fra-1", Order.REMOVE, by="admin")
    entry = await cluster.store.get(key)
    assert entry is not None
    assert entry.value == encode(PortBlockRecord("fra-1", NOW_MS - 24 * 3_600_000 + 60_000))
