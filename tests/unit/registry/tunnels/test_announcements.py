"""From a node's batches to the store, whatever happens in between."""

from collections.abc import Sequence

import pytest
from portway_proto.v1.mesh_pb2 import (
    EVICTION_REASON_SUPERSEDED,
)
from portway_proto.wire.statements import SigningKey
from portway_registry.errors import LeaseLost, StoreUnavailable
from portway_registry.state import keys
from portway_registry.store.contract import LeaseId, Put, Write
from portway_registry.store.embedded import EmbeddedStore
from portway_testkit.clusters.announcing import Announcing, AnnouncingNode
from portway_testkit.clusters.registry import tunnel_info
from portway_testkit.clusters.views import ViewedStore


async def test_a_batch_is_in_the_store_on_the_node_s_lease(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode
) -> None:
    """Every tunnel is written as its node's own and as its grant's tenant's, and vanishes with its lease."""
    client = await announcing.client("token9", "tenant9")
    tunnels = [client.tunnel("fra-1", region="else", tenant="someone", token_id="someone") for _ in range(3)]
    assert await node.announce(*tunnels, of=client) == []
    assert await cluster.tunnels() == {tunnel.label: ("fra-1", 1) for tunnel in tunnels}
    await cluster.settle()
    stored = cluster.views.tunnels.get(tunnels[0].label)
    assert stored is not None
    assert (stored.region, stored.tenant, stored.token_id) == ("fra", "tenant9", "token9")
    assert stored.claim == tunnels[0].claim
    await cluster.store.revoke_lease(node.lease)
    assert await cluster.tunnels() == {}


async def test_presences_stay_when_the_node_goes(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode
) -> None:
    """They are on no lease: as long as an earlier one could be believed, the later one says no."""
    client = await announcing.client()
    await node.announce(client.tunnel("fra-1"), of=client)
    await cluster.store.revoke_lease(node.lease)
    assert await cluster.store.get(keys.presence(client.signer.key.public)) is not None


async def test_a_batch_applied_twice_does_no_harm(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode
) -> None:
    """What is tried again after an outage writes nothing new."""
    client = await announcing.client()
    tunnel, session = client.tunnel("fra-1"), client.session("fra-1")
    await node.announce(tunnel, sessions=[session])
    await cluster.settle()
    revision = (await cluster.store.list("")).revision
    assert await node.announce(tunnel, sessions=[session]) == []
    assert (await cluster.store.list("")).revision == revision


async def test_a_view_that_is_late_misleads_nobody(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode, other: AnnouncingNode
) -> None:
    """What another node wrote a moment ago, and this replica has not heard of, counts all the same."""
    client, key = await announcing.client(), SigningKey()
    first = client.tunnel("fra-1", key, 2)
    second = client.tunnel("lon-1", key, 3)
    await other.announce(second, of=client)
    # The view is as it was before: nothing here has let its watch run.
    twin = await announcing.client()
    late = twin.tunnel("fra-1", key, 2)
    (gone,) = await node.evicted([late], twin)
    assert (gone.label, gone.reason, gone.claim) == (late.label, EVICTION_REASON_SUPERSEDED, second.claim)
    assert await node.announce(withdrawn=[first]) == []
    assert await cluster.tunnels() == {second.label: ("lon-1", 3)}
    await other.announce(withdrawn=[second])
    assert await cluster.tunnels() == {}


async def test_a_session_that_moved_takes_its_labels_along(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode, other: AnnouncingNode
) -> None:
    """The next epoch at the next node, with a later presence; what the first node says afterwards changes nothing."""
    client, key = await announcing.client(), SigningKey()
    here, presence = client.tunnel("fra-1", key, 5), client.session("fra-1")
    await node.announce(here, sessions=[presence])
    there = client.tunnel("lon-1", key, 6)
    assert await other.announce(there, of=client) == []
    assert await cluster.tunnels() == {here.label: ("lon-1", 6)}
    for _ in range(2):
        assert await node.announce(here, sessions=[presence]) == [(here.label, 5, EVICTION_REASON_SUPERSEDED)]
        await cluster.settle()
    assert await cluster.tunnels() == {here.label: ("lon-1", 6)}


async def test_full_state_removes_what_it_lacks(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode, other: AnnouncingNode
) -> None:
    """Only the node's own, and only what the batch does not have."""
    client, elsewhere = await announcing.client(), await announcing.client()
    stale, kept = client.tunnel("fra-1"), client.tunnel("fra-1")
    theirs = elsewhere.tunnel("lon-1")
    await node.announce(stale, kept, of=client)
    await other.announce(theirs, of=elsewhere)
    await cluster.settle()
    await node.announce(kept, of=client, full=True)
    assert await cluster.tunnels() == {kept.label: ("fra-1", 1), theirs.label: ("lon-1", 1)}


async def test_full_state_removes_what_is_seen_only_later(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode
) -> None:
    """What an earlier session of the node wrote, and the view shows after the full batch, is found stale as well."""
    client = await announcing.client()
    stale, kept = client.tunnel("fra-1"), client.tunnel("fra-1")
    await node.announce(kept, of=client, full=True)
    await AnnouncingNode(cluster, announcing, "fra-1").announce(stale, of=client)
    await cluster.settle()
    items = cluster.views.tunnels.of_node("fra-1").values()
    assert {item.name for item in items if node.announcements.is_stale(item)} == {stale.label}
    assert not any(AnnouncingNode(cluster, announcing, "fra-1").announcements.is_stale(item) for item in items)


async def test_a_lost_lease_is_told(cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode) -> None:
    """Nothing is written on a lease that is gone: the session gets a new one and comes again."""
    client = await announcing.client()
    node.lease = LeaseId(12345)
    with pytest.raises(LeaseLost):
        await node.announce(client.tunnel("fra-1"), of=client)
    assert await cluster.tunnels() == {}


class Contested(EmbeddedStore):
    """A store in which another node always writes first."""

    def __init__(self, key: SigningKey) -> None:
        super().__init__(None, on_failure=print)
        self._key = key
        self._epoch = 0

    async def write(self, writes: Sequence[Write]) -> tuple[bool, ...]:
        self._epoch += 1
        theirs = tunnel_info(self._key, self._epoch, node="lon-1")
        await super().write([Put(keys.tunnel(theirs.label), theirs.SerializeToString())])
        return await super().write(writes)


async def test_a_label_that_is_fought_over_is_left_for_later(cluster: ViewedStore, announcing: Announcing) -> None:
    """A key that changes under every try is not tried for ever: the batch is told to come again."""
    key, client = SigningKey(), await announcing.client()
    contested = Contested(key)
    node = AnnouncingNode(cluster, announcing, "fra-1", contested)
    node.lease = await contested.grant_lease(60)
    with pytest.raises(StoreUnavailable, match="changed each time"):
        await node.announce(client.tunnel("fra-1", key, 4000), of=client)
    await contested.close()
