"""The tunnels that nodes announce to a real registry: who finds them, whose a label is, and how many there may be."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from portway_proto.v1.mesh_pb2 import (
    EVICTION_REASON_QUOTA,
    EVICTION_REASON_SUPERSEDED,
    ResolveManyRequest,
    ResolveRequest,
)
from portway_proto.v1.mesh_pb2_grpc import MeshStub
from portway_proto.wire.statements import SigningKey
from portway_registry.server import Registry
from portway_registry.state import keys
from portway_registry.state.views import TunnelView
from portway_registry.store.open import open_store
from portway_testkit.clusters.admin_caller import AdminCaller
from portway_testkit.clusters.node_stream import all_known, stream
from portway_testkit.clusters.registry import PATIENCE, Pki, channel
from portway_testkit.clusters.replicas import LateStore
from portway_testkit.signers import label_of

# Labels that a node may have looked up in the store at once (services/mesh.py).
LOOKS_BURST = 100


async def test_announced_tunnels_are_found_until_withdrawn(registry: Registry, pki: Pki, admin: AdminCaller) -> None:
    """After Announced a tunnel is listed and another node resolves it, without whose it is; after its withdrawal
    neither."""
    client = await admin.client()
    one, other = client.tunnel("fra-1"), client.tunnel("fra-1", epoch=7)
    async with (
        stream(registry, pki) as node,
        channel(registry.mesh_address, pki.ca, pki.node("lon-1")) as mesh,
    ):
        await all_known(node)
        session = client.session("fra-1")
        await node.announce(one, other, sessions=[session])
        assert await admin.tunnels() == {one.label: ("fra-1", 1), other.label: ("fra-1", 7)}
        async with asyncio.timeout(PATIENCE):  # presences have a copy of their own in the registry's memory
            while not (found := await MeshStub(mesh).Resolve(ResolveRequest(label=other.label))).presence:
                pass
        assert (found.tunnel.node, found.tunnel.claim, found.node.name) == ("fra-1", other.claim, "fra-1")
        assert found.presence == session.presence
        assert (found.tunnel.tenant, found.tunnel.token_id) == ("", "")
        await node.announce(withdrawn=(other,))
        assert await admin.tunnels() == {one.label: ("fra-1", 1)}
        for label in (other.label, "a" * 16):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await MeshStub(mesh).Resolve(ResolveRequest(label=label))
            assert raised.value.code() is StatusCode.NOT_FOUND


async def test_the_store_is_asked_for_labels_at_a_bounded_rate(
    registry: Registry, pki: Pki, admin: AdminCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a node that knows that a label is not where the registry has it. Beyond the rate, which is each node's own,
    memory answers, and says the same of a label that has not changed."""
    looked: list[str] = []
    read = TunnelView.read

    async def counted(self: TunnelView, names: Iterable[str]) -> Any:
        looked.extend(wanted := list(names))
        return await read(self, wanted)

    client = await admin.client()
    tunnel = client.tunnel("fra-1")
    async with (
        stream(registry, pki) as node,
        channel(registry.mesh_address, pki.ca, pki.node("lon-1"), mesh=True) as mesh,
        channel(registry.mesh_address, pki.ca, pki.node("nrt-1"), mesh=True) as other,
    ):
        await all_known(node)
        await node.announce(tunnel, of=[client])
        assert await admin.tunnels() == {tunnel.label: ("fra-1", 1)}  # the replica's memory has it then
        monkeypatch.setattr(TunnelView, "read", counted)
        request = ResolveRequest(label=tunnel.label, current=True)
        for _ in range(LOOKS_BURST + 300):
            assert (await MeshStub(mesh).Resolve(request)).tunnel.node == "fra-1"
        assert LOOKS_BURST <= len(looked) < LOOKS_BURST + 300
        looked.clear()
        await MeshStub(mesh).Resolve(ResolveRequest(label=tunnel.label))
        assert not looked
        await MeshStub(other).Resolve(request)
        assert looked == [tunnel.label]


async def test_many_labels_are_answered_in_their_order(registry: Registry, pki: Pki, admin: AdminCaller) -> None:
    """Who has each, or nothing; too many at once are refused."""
    client = await admin.client()
    held, let_go = client.tunnel("fra-1"), client.tunnel("fra-1", epoch=7)
    async with (
        stream(registry, pki) as node,
        channel(registry.mesh_address, pki.ca, pki.node("lon-1")) as mesh,
    ):
        await all_known(node)
        await node.announce(held, let_go, of=[client])
        await node.announce(withdrawn=(let_go,))
        assert await admin.tunnels() == {held.label: ("fra-1", 1)}
        labels = ["a" * 16, let_go.label, held.label]
        async with asyncio.timeout(PATIENCE):  # presences have a copy of their own in the registry's memory
            while not (told := await MeshStub(mesh).ResolveMany(ResolveManyRequest(labels=labels))).answers[2].presence:
                pass
        assert [(one.tunnel.label, one.node.name, bool(one.presence)) for one in told.answers] == [
            ("", "", False),
            ("", "", False),
            (held.label, "fra-1", True),
        ]
        with pytest.raises(grpc.aio.AioRpcError, match="257 labels at once: ask for at most 256"):
            await MeshStub(mesh).ResolveMany(ResolveManyRequest(labels=["a" * 16] * 257))


async def test_a_full_announcement_removes_what_it_lacks(registry: Registry, pki: Pki, admin: AdminCaller) -> None:
    """What a node does not hold any more is gone after a full batch, and only what was its own."""
    client, other = await admin.client(), await admin.client()
    stale, kept, others = client.tunnel("fra-1"), client.tunnel("fra-1"), other.tunnel("lon-1")
    async with stream(registry, pki) as node, stream(registry, pki, "lon-1") as second:
        await second.announce(others, of=[other])
        await node.announce(stale, kept, of=[client])
        await node.announce(kept, of=[client], full=True)
        # What the registry did not show yet when the full batch came goes when it does.
        async with asyncio.timeout(PATIENCE):
            while stale.label in await admin.tunnels():
                pass
        assert await admin.tunnels() == {kept.label: ("fra-1", 1), others.label: ("lon-1", 1)}


async def test_a_lower_epoch_elsewhere_is_refused(registry: Registry, pki: Pki, admin: AdminCaller) -> None:
    """A second node with the same label and no higher epoch is told to drop it, by which claim; the first one keeps
    it."""
    one, two, key = await admin.client(), await admin.client(), SigningKey()
    owner = one.tunnel("fra-1", key, 5)
    async with stream(registry, pki) as first, stream(registry, pki, "lon-1") as second:
        await first.announce(owner, of=[one])
        await second.announce(two.tunnel("lon-1", key, 4), of=[two])
        assert second.evicted == [(label_of(key), 4, EVICTION_REASON_SUPERSEDED)]
        assert second.evicted_by == [owner.claim]
        assert first.evicted == []
        assert await admin.tunnels() == {label_of(key): ("fra-1", 5)}


async def test_a_higher_epoch_takes_the_label_at_once(registry: Registry, pki: Pki, admin: AdminCaller) -> None:
    """The new holder has it with the next epoch, the old one is evicted, and its late withdrawal removes nothing."""
    client, key = await admin.client(), SigningKey()
    old = client.tunnel("fra-1", key, 1)
    async with stream(registry, pki) as first, stream(registry, pki, "lon-1") as second:
        await first.announce(old, of=[client])
        new = client.tunnel("lon-1", key, 2)
        await second.announce(new, of=[client])
        await first.until(lambda: first.evicted)
        assert first.evicted == [(label_of(key), 1, EVICTION_REASON_SUPERSEDED)]
        assert first.evicted_by == [new.claim]
        await first.announce(withdrawn=(old,))
        await first.announce(full=True)
        assert await admin.tunnels() == {label_of(key): ("lon-1", 2)}


async def test_a_node_speaks_for_itself_alone(registry: Registry, pki: Pki, admin: AdminCaller) -> None:
    """Whatever region an announcement names, it is the announcing node's; it withdraws no one else's."""
    one, two = await admin.client(), await admin.client()
    theirs, mine = one.tunnel("lon-1"), two.tunnel("fra-1", region="lon")
    async with stream(registry, pki, "lon-1") as victim, stream(registry, pki) as node:
        await victim.announce(theirs, of=[one])
        await node.announce(mine, withdrawn=(theirs,), of=[two])
        assert await admin.tunnels() == {theirs.label: ("lon-1", 1), mine.label: ("fra-1", 1)}


async def test_a_token_has_no_more_tunnels_than_its_quota(registry: Registry, pki: Pki, admin: AdminCaller) -> None:
    """Announcements beyond the quota are evicted, on whichever node; room that is made is used."""
    token = await admin.new_token(max_tunnels=2)
    one, two = await admin.client(token), await admin.client(token)
    first, second, third = one.tunnel("fra-1"), one.tunnel("fra-1"), two.tunnel("lon-1")
    async with stream(registry, pki) as node, stream(registry, pki, "lon-1") as other:
        await node.announce(first, second, of=[one])
        await other.announce(third, of=[two])
        await other.until(lambda: other.evicted)  # once the replica shows the first two
        assert other.evicted == [(third.label, 1, EVICTION_REASON_QUOTA)]
        assert set(await admin.tunnels()) == {first.label, second.label}
        await node.announce(withdrawn=(first,))
        await other.announce(third, of=[two])
        assert set(await admin.tunnels()) == {second.label, third.label}


async def test_a_tenant_has_no_more_tunnels_than_its_quota(registry: Registry, pki: Pki, admin: AdminCaller) -> None:
    """Whichever tokens they are of: the newest is evicted with the number; a lower quota evicts the newest at once."""
    await admin.set_quota("demo", 2)
    one, two, three = [await admin.client() for _ in range(3)]
    first, second, third = one.tunnel("fra-1"), two.tunnel("lon-1"), three.tunnel("fra-1")
    async with stream(registry, pki) as node, stream(registry, pki, "lon-1") as other:
        await node.announce(first, of=[one])
        await other.announce(second, of=[two])
        await node.announce(third, of=[three])
        await node.until(lambda: node.evicted)  # once the replica shows the first two
        assert node.evicted == [(third.label, 1, EVICTION_REASON_QUOTA)]
        assert set(await admin.tunnels()) == {first.label, second.label}
        await admin.set_quota("demo", 1)
        await other.until(lambda: other.evicted)
        (eviction,) = [one for message in other.heard for one in message.evictions.evictions]
        assert (eviction.label, eviction.max_tunnels, eviction.of_token) == (second.label, 1, False)
        assert set(await admin.tunnels()) == {first.label}


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> list[LateStore]:
    """The store of a registry that is started from now on, whose watches can be held back."""
    opened: list[LateStore] = []

    def open_late(spec: Any, *, on_failure: Callable[[BaseException], None]) -> LateStore:
        opened.append(LateStore(open_store(spec, on_failure=on_failure), owned=True))
        return opened[0]

    monkeypatch.setattr("portway_registry.cluster.open_store", open_late)
    return opened


async def test_what_is_admitted_while_the_replica_is_behind_is_evicted_once_it_is_not(
    late: list[LateStore], registry: Registry, pki: Pki, admin: AdminCaller
) -> None:
    """Whoever announces before the replica shows the tunnels of others finds room; the newest goes then."""
    token = await admin.new_token(max_tunnels=2)
    one, two = await admin.client(token), await admin.client(token)
    first, second, third = one.tunnel("fra-1"), one.tunnel("fra-1"), two.tunnel("lon-1")
    async with stream(registry, pki) as node, stream(registry, pki, "lon-1") as other:
        late[0].hold(keys.TUNNELS)
        await node.announce(first, second, of=[one])
        await other.announce(third, of=[two])
        assert other.evicted == []
        late[0].release()
        await other.until(lambda: other.evicted)
        assert other.evicted == [(third.label, 1, EVICTION_REASON_QUOTA)]
        assert set(await admin.tunnels()) == {first.label, second.label}
        assert node.evicted == []


async def test_what_is_over_the_quota_of_a_node_that_was_away_is_evicted_when_it_is_back(
    registry: Registry, pki: Pki, admin: AdminCaller
) -> None:
    """Nobody could tell it when the quota was lowered."""
    client = await admin.client()
    tunnels = [client.tunnel("fra-1") for _ in range(2)]
    async with stream(registry, pki) as node:
        for tunnel in tunnels:
            await node.announce(tunnel, of=[client])
        lease = node.lease
        await node.leave()
    await admin.set_quota("demo", 1)
    assert len(await admin.tunnels()) == 2
    async with stream(registry, pki, lease=lease) as again:
        await again.until(lambda: again.evicted)
        assert again.evicted == [(tunnels[1].label, 1, EVICTION_REASON_QUOTA)]
        assert set(await admin.tunnels()) == {tunnels[0].label}
