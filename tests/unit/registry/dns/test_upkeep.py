"""Which nodes are name servers, and for how long."""

import asyncio

import pytest
from portway_registry.dns.upkeep import DnsUpkeep
from portway_registry.state import keys
from portway_registry.state.domain_records import ChallengeRecord, NameServerRecord
from portway_registry.state.records import Order, OrderRecord, encode
from portway_testkit.clusters.registry import node_info
from portway_testkit.clusters.views import ViewedStore

HOUR_MS = 3_600_000


class Kept:
    """Name servers of a cluster, looked at when a test says so."""

    def __init__(self, cluster: ViewedStore) -> None:
        self.cluster = cluster
        self.now_ms = HOUR_MS
        self.upkeep = DnsUpkeep(cluster.store, cluster.views, lambda: self.now_ms)

    async def node(self, name: str, *addresses: str, dns: bool = True) -> None:
        info = node_info(name, name.partition("-")[0], addresses=addresses, dns=dns)
        await self.cluster.store.put(keys.node(name), info.SerializeToString())

    async def look(self) -> dict[int, tuple[str, tuple[str, ...]]]:
        await self.cluster.settle()
        await self.upkeep.look()
        await self.cluster.settle()
        found = [one for one in self.cluster.views.dns.values() if isinstance(one, NameServerRecord)]
        return {one.number: (one.node, one.addresses) for one in found}


@pytest.fixture
def kept(cluster: ViewedStore) -> Kept:
    return Kept(cluster)


async def test_nodes_that_answer_dns_are_name_servers_of_far_regions_first(kept: Kept) -> None:
    """Four at most of regions that have one: a name server is asked when the nearest one does not answer."""
    for name, address in (("fra-1", "192.0.2.1"), ("fra-2", "192.0.2.2"), ("iad-1", "192.0.2.3")):
        await kept.node(name, address)
    await kept.node("sin-1", dns=True)  # without an address
    await kept.node("syd-1", "192.0.2.9", dns=False)
    assert await kept.look() == {
        1: ("fra-1", ("192.0.2.1",)),
        2: ("iad-1", ("192.0.2.3",)),
        3: ("fra-2", ("192.0.2.2",)),
    }
    for number in range(3, 9):
        await kept.node(f"fra-{number}", f"192.0.2.1{number}")
    assert len(await kept.look()) == 4


async def test_a_region_that_comes_later_has_a_name_server_too(kept: Kept) -> None:
    """Up to eight regions, one each. When such a node is removed, another one of the region takes its number."""
    for name in ("fra-1", "fra-2", "fra-3", "fra-4"):
        await kept.node(name, f"192.0.2.{name[-1]}")
        await kept.look()
    for name in ("fra-5", "nrt-1", "nrt-2"):
        await kept.node(name, f"198.51.100.{name[-1]}")
    assert {number: node for number, (node, _) in (await kept.look()).items() if number > 4} == {5: "nrt-1"}
    removed = OrderRecord("nrt-1", Order.REMOVE)
    await kept.cluster.store.put(keys.order("nrt-1"), encode(removed))
    await kept.look()
    assert {number: node for number, (node, _) in (await kept.look()).items() if number > 4} == {5: "nrt-2"}
    for number, region in enumerate(("iad", "sin", "syd", "gru", "jnb")):
        await kept.node(f"{region}-1", f"203.0.113.{number}")
    assert len(await kept.look()) == 8


async def test_a_name_server_stays_when_its_node_is_away_or_others_come(kept: Kept) -> None:
    """The zone above names it, and an operator has written that by hand."""
    await kept.node("fra-1", "192.0.2.1")
    before = await kept.look()
    await kept.cluster.store.delete(keys.node("fra-1"))
    await kept.node("aaa-1", "192.0.2.2")
    after = await kept.look()
    assert after[1] == before[1]
    assert after[2] == ("aaa-1", ("192.0.2.2",))
    assert await kept.look() == after


async def test_other_addresses_of_a_name_server_are_taken_up(kept: Kept) -> None:
    await kept.node("fra-1", "192.0.2.1")
    await kept.look()
    await kept.node("fra-1", "192.0.2.7", "2001:db8::7")
    assert await kept.look() == {1: ("fra-1", ("192.0.2.7", "2001:db8::7"))}


async def test_the_number_of_a_node_that_was_removed_is_given_again(kept: Kept) -> None:
    await kept.node("fra-1", "192.0.2.1")
    await kept.node("iad-1", "192.0.2.2")
    await kept.look()
    await kept.cluster.store.put(keys.order("fra-1"), encode(OrderRecord("fra-1", Order.REMOVE)))
    assert await kept.look() == {2: ("iad-1", ("192.0.2.2",))}
    await kept.node("sin-1", "192.0.2.3")
    assert (await kept.look())[1] == ("sin-1", ("192.0.2.3",))


async def test_of_two_replicas_one_comes_first_and_no_node_has_two_numbers(kept: Kept) -> None:
    """The other one has not heard of all nodes yet, and the first not of what the other has written."""
    await kept.node("fra-1", "192.0.2.1")
    await kept.node("iad-1", "192.0.2.2")
    await kept.cluster.settle()
    written = encode(NameServerRecord(1, "iad-1", ("192.0.2.2",)))
    looking = asyncio.ensure_future(kept.upkeep.look())
    await kept.cluster.store.put(keys.name_server(1), written)
    await looking
    assert await kept.look() == {1: ("iad-1", ("192.0.2.2",)), 2: ("fra-1", ("192.0.2.1",))}


async def test_the_number_of_a_node_that_answers_no_more_is_given_again(kept: Kept) -> None:
    """Its settings say so, while it is there."""
    await kept.node("fra-1", "192.0.2.1")
    await kept.look()
    await kept.node("fra-1", "192.0.2.1", dns=False)
    assert await kept.look() == {}


async def test_proofs_that_nobody_took_back_go_after_an_hour(kept: Kept) -> None:
    store, views = kept.cluster.store, kept.cluster.views
    await store.put(keys.challenge("old"), encode(ChallengeRecord("a.example", "x", kept.now_ms - HOUR_MS - 1)))
    await store.put(keys.challenge("new"), encode(ChallengeRecord("a.example", "y", kept.now_ms)))
    await kept.look()
    assert set(views.dns.items) == {"challenges/new"}
