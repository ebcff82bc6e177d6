"""A node's session with a real registry, from its registration to its end, as other nodes and admins see it."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from portway_proto.v1 import admin_pb2
from portway_proto.v1.admin_pb2_grpc import AdminStub
from portway_proto.v1.mesh_pb2 import (
    EVICTION_REASON_QUOTA,
    EVICTION_REASON_SUPERSEDED,
    NodeMessage,
    ReservePortsRequest,
    ResolveManyRequest,
    ResolveRequest,
)
from portway_proto.v1.mesh_pb2_grpc import MeshStub
from portway_proto.v1.types_pb2 import NODE_STATE_CORDONED, NODE_STATE_DRAINING, NodeInfo
from portway_proto.wire.statements import SigningKey
from portway_registry.config import Config
from portway_registry.server import Registry
from portway_registry.state.views import TunnelView
from portway_runtime.tasks import Tasks
from portway_testkit.clusters.admin_caller import AdminCaller
from portway_testkit.clusters.registry import (
    PATIENCE,
    NodeStream,
    Pki,
    StreamEnded,
    bearer,
    channel,
    client_of,
    node_info,
    running,
)
from portway_testkit.signers import AnnouncedClient, label_of

# Labels that a node may have looked up in the store at once (services/mesh.py).
LOOKS_BURST = 100


def stream(registry: Registry, pki: Pki, name: str = "fra-1", **more: Any) -> NodeStream:
    return NodeStream(registry.mesh_address, pki, node_info(name), **more)


async def shown(admin: AdminCaller, fits: Callable[[NodeInfo], bool]) -> None:
    """Wait until an admin who watches is shown a node that fits."""
    watch = admin.stub.WatchNodes(admin_pb2.WatchNodesRequest(), metadata=admin.shown)
    try:
        async with asyncio.timeout(PATIENCE):
            async for change in watch:
                if fits(change.node):
                    return
    finally:
        watch.cancel()
    raise AssertionError("the watch ended")


async def test_a_node_that_registers_is_known(registry: Registry, pki: Pki, admin: AdminCaller) -> None:
    """After Registered the node is listed as it described itself, and has been told the cluster's keys."""
    async with stream(registry, pki) as node:
        await node.until(lambda: node.peers == {"fra-1"})
        assert await admin.nodes() == ["fra-1"]
        answer = await admin.stub.GetNode(admin_pb2.GetNodeRequest(name="fra-1"), metadata=admin.shown)
        assert (answer.node.region, answer.node.host, answer.node.port) == ("fra", "127.0.0.1", 443)
        assert node.registrations[0].lease_seconds == 15
        (settings,) = [message.settings for message in node.heard if message.HasField("settings")]
        assert settings.cluster_id.startswith("portway-")
        assert [(key.kid, len(key.public_key)) for key in settings.grant_keys] == [("1", 32)]


async def test_what_a_keep_alive_says_is_shown(registry: Registry, pki: Pki, admin: AdminCaller) -> None:
    """Counts and state of a KeepAlive become the node's."""
    async with stream(registry, pki) as node:
        await node.keep_alive(sessions=3, tunnels=4, visits=5, state=NODE_STATE_CORDONED)
        wanted = (3, 4, 5, NODE_STATE_CORDONED)
        await shown(admin, lambda told: (told.sessions, told.tunnels, told.visits, told.state) == wanted)


async def test_announced_tunnels_are_found_until_withdrawn(registry: Registry, pki: Pki, admin: AdminCaller) -> None:
    """After Announced a tunnel is listed and another node resolves it, without whose it is; after its withdrawal
    neither."""
    client = await admin.client()
    one, other = client.tunnel("fra-1"), client.tunnel("fra-1", epoch=7)
    async with (
        stream(registry, pki) as node,
        channel(registry.mesh_address, pki.ca, pki.node("lon-1")) as mesh,
    ):
        session = client.session("fra-1")
        await node.announce(one, other, sessions=[session])
        assert await admin.tunnels() == {one.label: ("fra-1", 1), other.label: ("fra-1", 7)}
        found = await MeshStub(mesh).Resolve(ResolveRequest(label=other.label))
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
        await node.announce(tunnel, of=[client])
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
        await node.announce(held, let_go, of=[client])
        await node.announce(withdrawn=(let_go,))
        labels = ["a" * 16, let_go.label, held.label]
        told = await MeshStub(mesh).ResolveMany(ResolveManyRequest(labels=labels))
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
        assert node.evicted == [(third.label, 1, EVICTION_REASON_QUOTA)]
        assert set(await admin.tunnels()) == {first.label, second.label}
        await admin.set_quota("demo", 1)
        await other.until(lambda: other.evicted)
        (eviction,) = [one for message in other.heard for one in message.evictions.evictions]
        assert (eviction.label, eviction.max_tunnels, eviction.of_token) == (second.label, 1, False)
        assert set(await admin.tunnels()) == {first.label}


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
    await admin.set_quota("demo", 1)
    assert len(await admin.tunnels()) == 2
    async with stream(registry, pki, lease=lease) as again:
        await again.until(lambda: again.evicted)
        assert again.evicted == [(tunnels[1].label, 1, EVICTION_REASON_QUOTA)]
        assert set(await admin.tunnels()) == {tunnels[0].label}


async def test_nodes_of_a_region_know_whose_its_ports_are(registry: Registry, pki: Pki) -> None:
    """A block that a node reserves is told to its region, and to no other."""
    async with (
        stream(registry, pki) as node,
        stream(registry, pki, "fra-2") as sibling,
        NodeStream(registry.mesh_address, pki, node_info("lon-1", "lon")) as far,
        channel(registry.mesh_address, pki.ca, pki.node("fra-1"), mesh=True) as mesh,
    ):
        request = ReservePortsRequest(first=20_032, last=20_095, blocks=1)
        await MeshStub(mesh).ReservePorts(request)
        for one in (node, sibling):
            assert await one.until(lambda one=one: one.port_owners) == {20_032: "fra-1"}  # type: ignore[misc]
        await far.announce()
        assert far.port_owners == {}


async def test_a_lease_outlives_its_stream(registry: Registry, pki: Pki, admin: AdminCaller) -> None:
    """A node that comes back with its lease keeps it, and every tunnel on it."""
    client = await admin.client()
    tunnel = client.tunnel("fra-1")
    async with stream(registry, pki) as node:
        await node.announce(tunnel, of=[client])
        lease = node.lease
    assert await admin.tunnels() == {tunnel.label: ("fra-1", 1)}
    async with stream(registry, pki, lease=lease) as again:
        assert again.lease == lease
        assert await admin.tunnels() == {tunnel.label: ("fra-1", 1)}


async def test_a_lease_that_is_another_node_s_is_not_resumed(registry: Registry, pki: Pki) -> None:
    """A lease is a node's own: another one that names it gets a new one."""
    async with stream(registry, pki) as node, stream(registry, pki, "lon-1", lease=node.lease) as other:
        assert other.lease != node.lease


async def test_a_newer_session_replaces_the_older(registry: Registry, pki: Pki, admin: AdminCaller) -> None:
    """A node that registers again ends its own older stream at once; it is known once."""
    async with stream(registry, pki) as older, stream(registry, pki):
        ended = await older.ended()
        assert ended.code is StatusCode.ABORTED
        assert "newer session" in ended.details
        assert await admin.nodes() == ["fra-1"]


async def test_nodes_know_their_peers(registry: Registry, pki: Pki) -> None:
    """Whoever registers is told to all, and so is who drains and leaves."""
    async with stream(registry, pki) as node:
        async with stream(registry, pki, "lon-1") as other:
            await node.until(lambda: node.peers == {"fra-1", "lon-1"})
            await other.until(lambda: other.peers == {"fra-1", "lon-1"})
            await other.keep_alive(state=NODE_STATE_DRAINING)
            await other.leave()
        await node.until(lambda: node.peers == {"fra-1"})


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"region": "Not A Region"}, "region"),
        ({"domain": "no_domain!"}, "domain"),
        ({"host": "no host"}, "host|DNS"),
        ({"port": 0}, "port 0"),
        ({"port": 65536}, "port 65536"),
        ({"latitude": 91.0}, "latitude"),
        ({"server_name": "else.example"}, "server_name"),
    ],
)
async def test_a_registration_that_cannot_be_used_is_refused(
    registry: Registry, pki: Pki, changed: dict[str, Any], says: str
) -> None:
    """What clients could not dial is told to the node instead of to them."""
    with pytest.raises(StreamEnded) as raised:
        async with NodeStream(registry.mesh_address, pki, node_info("fra-1", **changed)):
            pass
    assert raised.value.code is StatusCode.INVALID_ARGUMENT
    assert any(part in raised.value.details for part in says.split("|"))


async def test_a_node_may_not_take_another_s_name(registry: Registry, pki: Pki, admin: AdminCaller) -> None:
    """A registration under a name that is not the certificate's is denied, and the name's owner stays."""
    async with stream(registry, pki) as owner:
        await owner.until(lambda: owner.peers == {"fra-1"})
        with pytest.raises(StreamEnded) as raised:
            async with stream(registry, pki, certified="evil-1"):
                pass
        assert raised.value.code is StatusCode.PERMISSION_DENIED
        await owner.keep_alive()
        assert await admin.nodes() == ["fra-1"]


async def test_a_session_begins_with_register_and_has_one(registry: Registry, pki: Pki) -> None:
    """Anything else first, or a second Register, ends the stream with what was wrong."""
    async with channel(registry.mesh_address, pki.ca, pki.node("fra-1")) as mesh:
        early = MeshStub(mesh).Session()
        await early.write(NodeMessage())
        assert await early.code() is StatusCode.INVALID_ARGUMENT
    async with stream(registry, pki) as node:
        await node.register()
        ended = await node.ended()
    assert ended.code is StatusCode.INVALID_ARGUMENT
    assert "one registration" in ended.details


@pytest.fixture
def short_lease(pki: Pki, config: Config, tmp_path: Any) -> Config:
    return pki.config(tmp_path, store=config.store, lease_seconds=2)


async def test_a_node_that_dies_is_forgotten_with_its_tunnels(short_lease: Config, pki: Pki) -> None:
    """When the lease has run out after the stream broke, neither the node nor its tunnels are known."""
    async with running(short_lease) as registry, stream(registry, pki, "lon-1") as other:
        client = await first_client(registry, short_lease, pki)
        tunnel = client.tunnel("fra-1")
        async with stream(registry, pki) as node:
            await node.announce(tunnel, of=[client])
        tasks = Tasks("test")
        tasks.spawn(_keep_alive(other), name="keep alive")
        await other.until(lambda: other.peers == {"fra-1", "lon-1"})
        await other.until(lambda: other.peers == {"lon-1"})
        await tasks.close()
        async with channel(registry.mesh_address, pki.ca, pki.node("lon-1")) as mesh:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await MeshStub(mesh).Resolve(ResolveRequest(label=tunnel.label))
        assert raised.value.code() is StatusCode.NOT_FOUND


async def first_client(registry: Registry, config: Config, pki: Pki) -> AnnouncedClient:
    """A client of a registry that has just started."""
    assert config.admin_token_file is not None
    shown = bearer(config.admin_token_file.read_text().strip())
    async with channel(registry.address, pki.ca) as public:
        request = admin_pb2.CreateTokenRequest(tenant="demo", role=admin_pb2.ROLE_CLIENT)
        return await client_of(public, (await AdminStub(public).CreateToken(request, metadata=shown)).token)


async def _keep_alive(node: NodeStream) -> None:
    """As a living node does."""
    while True:
        await node.keep_alive()
        await asyncio.sleep(0.5)


async def test_a_node_that_falls_silent_is_let_go(short_lease: Config, pki: Pki) -> None:
    """A stream without KeepAlives ends after the length of a lease, though its connection lives."""
    async with running(short_lease) as registry, stream(registry, pki) as node:
        ended = await node.ended()
    assert ended.code is StatusCode.DEADLINE_EXCEEDED
    assert "no KeepAlive for 2 s" in ended.details
