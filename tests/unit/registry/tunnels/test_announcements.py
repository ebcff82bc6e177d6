"""From a node's batches to the store, whatever happens in between."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import pytest
from portway_proto.v1.mesh_pb2 import (
    EVICTION_REASON_QUOTA,
    EVICTION_REASON_SUPERSEDED,
    Announce,
    Eviction,
    Withdrawal,
)
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.labels import Chain
from portway_registry.errors import LeaseLost, StoreUnavailable
from portway_registry.state import keys
from portway_registry.state.tunnel_limits import TunnelLimits
from portway_registry.state.views import Views
from portway_registry.store.contract import LeaseId, Put, Write
from portway_registry.store.embedded import EmbeddedStore
from portway_registry.tunnels import announcements as announcements_module
from portway_registry.tunnels.announcements import Announcements
from portway_registry.tunnels.quota import Quota
from portway_testkit.clusters.registry import tunnel_info


class Cluster(Protocol):
    store: EmbeddedStore
    views: Views

    async def settle(self) -> None: ...

    async def put_token(self, token_id: str, *, max_tunnels: int = ..., revoked_at_ms: int = ...) -> None: ...

    async def put_tunnel(self, tunnel: TunnelInfo) -> None: ...

    async def tunnels(self) -> dict[str, tuple[str, int]]: ...


class Node:
    """What one node announces."""

    def __init__(self, cluster: Cluster, name: str, store: EmbeddedStore | None = None) -> None:
        self._cluster = cluster
        quota = Quota(TunnelLimits(cluster.views.tokens, cluster.views.tenants, default=100), cluster.views.tunnels)
        self.announcements = Announcements(
            store or cluster.store, cluster.views.tunnels, quota, node=name, region="fra"
        )
        self.lease = LeaseId(0)

    async def announce(
        self, *bound: TunnelInfo, withdrawn: Sequence[TunnelInfo] = (), full: bool = False
    ) -> list[tuple[str, int, int]]:
        """What it is told to drop: label, epoch, reason."""
        if not self.lease:
            self.lease = await self._cluster.store.grant_lease(60)
        gone = [Withdrawal(label=one.label, epoch=one.epoch) for one in withdrawn]
        batch = Announce(batch=1, bound=bound, withdrawn=gone, full=full)
        return read(await self.announcements.apply(batch, self.lease))


def read(evictions: list[Eviction]) -> list[tuple[str, int, int]]:
    return [(one.label, one.epoch, one.reason) for one in evictions]


async def test_a_batch_is_in_the_store_on_the_node_s_lease(cluster: Cluster) -> None:
    """Every tunnel is written as its node's own and vanishes with its lease."""
    node = Node(cluster, "fra-1")
    tunnels = [tunnel_info(Chain(), node="someone", region="else") for _ in range(3)]
    assert await node.announce(*tunnels) == []
    assert await cluster.tunnels() == {tunnel.label: ("fra-1", 1) for tunnel in tunnels}
    await cluster.store.revoke_lease(node.lease)
    assert await cluster.tunnels() == {}


async def test_a_batch_applied_twice_does_no_harm(cluster: Cluster) -> None:
    """What is tried again after an outage writes nothing new."""
    node, tunnel = Node(cluster, "fra-1"), tunnel_info(Chain())
    await node.announce(tunnel)
    await cluster.settle()
    revision = (await cluster.store.list("")).revision
    assert await node.announce(tunnel) == []
    assert (await cluster.store.list("")).revision == revision


async def test_a_view_that_is_late_misleads_nobody(cluster: Cluster) -> None:
    """What another node wrote a moment ago, and this replica has not heard of, counts all the same."""
    first, second = Node(cluster, "fra-1"), Node(cluster, "lon-1")
    chain = Chain()
    await first.announce(tunnel_info(chain, 2))
    # The view is as it was before: nothing here has let its watch run.
    assert await second.announce(tunnel_info(chain, 2)) == [(chain.label, 2, EVICTION_REASON_SUPERSEDED)]
    assert await second.announce(tunnel_info(chain, 3)) == []
    assert await first.announce(withdrawn=[tunnel_info(chain, 2)]) == []
    assert await cluster.tunnels() == {chain.label: ("lon-1", 3)}
    await second.announce(withdrawn=[tunnel_info(chain, 3)])
    assert await cluster.tunnels() == {}


async def test_one_forged_tunnel_does_not_spoil_its_batch(cluster: Cluster) -> None:
    """The others of the batch are written."""
    good, bad = tunnel_info(Chain()), tunnel_info(Chain(), proof=b"\1" * 32)
    node = Node(cluster, "fra-1")
    assert await node.announce(bad, good) == [(bad.label, 1, EVICTION_REASON_SUPERSEDED)]
    assert set(await cluster.tunnels()) == {good.label}


async def test_a_quota_holds_within_one_batch(cluster: Cluster) -> None:
    """Of a batch over the quota as many are taken as there is room for; another token's are not touched."""
    await cluster.put_token("small", max_tunnels=2)
    tunnels = [tunnel_info(Chain(), token_id="small") for _ in range(4)]
    other = tunnel_info(Chain(), token_id="other")
    node = Node(cluster, "fra-1")
    told = await node.announce(*tunnels, other)
    assert {reason for _, _, reason in told} == {EVICTION_REASON_QUOTA}
    assert set(await cluster.tunnels()) == {tunnel.label for tunnel in tunnels[:2]} | {other.label}


@pytest.mark.parametrize("batches", [1, 2])
async def test_a_place_given_back_can_be_taken_at_once(cluster: Cluster, batches: int) -> None:
    """Close one, open another: in one batch or two, and before the view shows that there is room."""
    await cluster.put_token("small", max_tunnels=1)
    old, new, further = (tunnel_info(Chain(), token_id="small") for _ in range(3))
    node = Node(cluster, "fra-1")
    await node.announce(old)
    await cluster.settle()
    if batches == 1:
        assert await node.announce(new, withdrawn=[old]) == []
    else:
        await node.announce(withdrawn=[old])
        assert await node.announce(new) == []
    assert set(await cluster.tunnels()) == {new.label}
    await cluster.settle()
    assert await node.announce(further) == [(further.label, 1, EVICTION_REASON_QUOTA)]


async def test_a_tunnel_that_moves_needs_no_further_place(cluster: Cluster) -> None:
    """A full quota does not keep a client from another node: its labels are counted already."""
    await cluster.put_token("small", max_tunnels=1)
    chain = Chain()
    await Node(cluster, "fra-1").announce(tunnel_info(chain, 1, token_id="small"))
    await cluster.settle()
    assert await Node(cluster, "lon-1").announce(tunnel_info(chain, 2, token_id="small")) == []
    assert await cluster.tunnels() == {chain.label: ("lon-1", 2)}


async def test_full_state_removes_what_it_lacks(cluster: Cluster) -> None:
    """Only the node's own, and only what the batch does not have."""
    node, other = Node(cluster, "fra-1"), Node(cluster, "lon-1")
    stale, kept, theirs = (tunnel_info(Chain()) for _ in range(3))
    await node.announce(stale, kept)
    await other.announce(theirs)
    await cluster.settle()
    await node.announce(kept, full=True)
    assert await cluster.tunnels() == {kept.label: ("fra-1", 1), theirs.label: ("lon-1", 1)}


async def test_full_state_removes_what_is_seen_only_later(cluster: Cluster) -> None:
    """What an earlier session of the node wrote, and the view shows after the full batch, is found stale as well."""
    stale, kept = tunnel_info(Chain()), tunnel_info(Chain())
    node = Node(cluster, "fra-1")
    await node.announce(kept, full=True)
    await Node(cluster, "fra-1").announce(stale)
    await cluster.settle()
    items = cluster.views.tunnels.of_node("fra-1").values()
    assert {item.name for item in items if node.announcements.is_stale(item)} == {stale.label}
    assert not any(Node(cluster, "fra-1").announcements.is_stale(item) for item in items)


async def test_a_lost_lease_is_told(cluster: Cluster) -> None:
    """Nothing is written on a lease that is gone: the session gets a new one and comes again."""
    node = Node(cluster, "fra-1")
    node.lease = LeaseId(12345)
    with pytest.raises(LeaseLost):
        await node.announce(tunnel_info(Chain()))
    assert await cluster.tunnels() == {}


class Contested(EmbeddedStore):
    """A store in which another node always writes first."""

    def __init__(self, chain: Chain) -> None:
        super().__init__(None, on_failure=print)
        self._chain = chain
        self._epoch = 0

    async def write(self, writes: Sequence[Write]) -> tuple[bool, ...]:
        self._epoch += 1
        theirs = tunnel_info(self._chain, self._epoch, node="lon-1")
        await super().write([Put(keys.tunnel(theirs.label), theirs.SerializeToString())])
        return await super().write(writes)


async def test_a_label_that_is_fought_over_is_left_for_later(cluster: Cluster) -> None:
    """A key that changes under every try is not tried for ever: the batch is told to come again."""
    chain = Chain()
    contested = Contested(chain)
    node = Node(cluster, "fra-1", contested)
    node.lease = await contested.grant_lease(60)
    with pytest.raises(StoreUnavailable, match="changed each time"):
        await node.announce(tunnel_info(chain, 4000))
    await contested.close()


async def test_proofs_that_cost_too_much_make_their_node_wait(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its own pace and nobody else's; what does not fit costs as much as what does."""
    monkeypatch.setattr(announcements_module, "_HASH_RATE", 10_000)
    monkeypatch.setattr(announcements_module, "_HASH_BURST", 4_000)
    loop = asyncio.get_running_loop()
    hostile, honest = Node(cluster, "hostile"), Node(cluster, "honest")
    made_up = tunnel_info(Chain(), 4_000, proof=bytes(32))
    began = loop.time()
    await hostile.announce(made_up)
    waiting = asyncio.ensure_future(hostile.announce(made_up))
    assert await honest.announce(tunnel_info(Chain())) == []
    assert not waiting.done()
    assert len(await waiting) == 1
    assert loop.time() - began >= 0.4
