"""A node's session with a real registry, from its registration to its end, as other nodes and admins see it."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import grpc
import pytest
from grpc import StatusCode
from portway_proto.v1 import admin_pb2
from portway_proto.v1.mesh_pb2 import (
    EVICTION_REASON_QUOTA,
    EVICTION_REASON_SUPERSEDED,
    NodeMessage,
    ResolveManyRequest,
    ResolveRequest,
)
from portway_proto.v1.mesh_pb2_grpc import MeshStub
from portway_proto.v1.types_pb2 import NODE_STATE_CORDONED, NODE_STATE_DRAINING, NodeInfo
from portway_proto.wire.labels import Chain
from portway_registry.config import Config
from portway_registry.server import Registry
from portway_runtime.tasks import Tasks
from portway_testkit.clusters.registry import (
    PATIENCE,
    NodeStream,
    Pki,
    StreamEnded,
    channel,
    node_info,
    running,
    tunnel_info,
)

if TYPE_CHECKING:  # the stubs of asynchronous calls exist for type checkers alone
    from portway_proto.v1.admin_pb2_grpc import AdminAsyncStub


class Admin(Protocol):
    stub: "AdminAsyncStub"
    shown: Any

    async def new_token(self, *, role: Any = ..., max_tunnels: int = ...) -> admin_pb2.CreateTokenResponse: ...

    async def set_quota(self, tenant: str, max_tunnels: int) -> None: ...

    async def revoke(self, token_id: str) -> None: ...

    async def tunnels(self) -> dict[str, tuple[str, int]]: ...

    async def nodes(self) -> list[str]: ...


def stream(registry: Registry, pki: Pki, name: str = "fra-1", **more: Any) -> NodeStream:
    return NodeStream(registry.mesh_address, pki, node_info(name), **more)


async def shown(admin: Admin, fits: Callable[[NodeInfo], bool]) -> None:
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


async def test_a_node_that_registers_is_known(registry: Registry, pki: Pki, admin: Admin) -> None:
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


async def test_what_a_keep_alive_says_is_shown(registry: Registry, pki: Pki, admin: Admin) -> None:
    """Counts and state of a KeepAlive become the node's."""
    async with stream(registry, pki) as node:
        await node.keep_alive(sessions=3, tunnels=4, visits=5, state=NODE_STATE_CORDONED)
        wanted = (3, 4, 5, NODE_STATE_CORDONED)
        await shown(admin, lambda told: (told.sessions, told.tunnels, told.visits, told.state) == wanted)


async def test_announced_tunnels_are_found_until_withdrawn(registry: Registry, pki: Pki, admin: Admin) -> None:
    """After Announced a tunnel is listed and another node resolves it; after its withdrawal neither."""
    one, other = tunnel_info(Chain()), tunnel_info(Chain(), epoch=7)
    async with (
        stream(registry, pki) as node,
        channel(registry.mesh_address, pki.ca, pki.node("lon-1")) as mesh,
    ):
        await node.announce(one, other)
        assert await admin.tunnels() == {one.label: ("fra-1", 1), other.label: ("fra-1", 7)}
        found = await MeshStub(mesh).Resolve(ResolveRequest(label=other.label))
        assert (found.tunnel.node, found.tunnel.proof, found.node.name) == ("fra-1", other.proof, "fra-1")
        await node.announce(withdrawn=(other,))
        assert await admin.tunnels() == {one.label: ("fra-1", 1)}
        gone = await MeshStub(mesh).Resolve(ResolveRequest(label=other.label))
        assert (gone.HasField("tunnel"), gone.last.node, gone.last.epoch) == (False, "fra-1", 7)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await MeshStub(mesh).Resolve(ResolveRequest(label=Chain().label))
        assert raised.value.code() is StatusCode.NOT_FOUND


async def test_many_labels_are_answered_in_their_order(registry: Registry, pki: Pki) -> None:
    """Who has each, who had it last, or nothing; too many at once are refused."""
    held, let_go = tunnel_info(Chain()), tunnel_info(Chain(), epoch=7)
    async with (
        stream(registry, pki) as node,
        channel(registry.mesh_address, pki.ca, pki.node("lon-1")) as mesh,
    ):
        await node.announce(held, let_go)
        await node.announce(withdrawn=(let_go,))
        labels = [Chain().label, let_go.label, held.label]
        told = await MeshStub(mesh).ResolveMany(ResolveManyRequest(labels=labels))
        assert [(one.tunnel.label, one.node.name, one.last.node, one.last.epoch) for one in told.answers] == [
            ("", "", "", 0),
            ("", "", "fra-1", 7),
            (held.label, "fra-1", "", 0),
        ]
        with pytest.raises(grpc.aio.AioRpcError, match="257 labels at once: ask for at most 256"):
            await MeshStub(mesh).ResolveMany(ResolveManyRequest(labels=["a" * 16] * 257))


async def test_a_full_announcement_removes_what_it_lacks(registry: Registry, pki: Pki, admin: Admin) -> None:
    """What a node does not hold any more is gone after a full batch, and only what was its own."""
    stale, kept, others = tunnel_info(Chain()), tunnel_info(Chain()), tunnel_info(Chain())
    async with stream(registry, pki) as node, stream(registry, pki, "lon-1") as second:
        await second.announce(others)
        await node.announce(stale, kept)
        await node.announce(kept, full=True)
        assert await admin.tunnels() == {kept.label: ("fra-1", 1), others.label: ("lon-1", 1)}


@pytest.mark.parametrize("epoch", [4, 5])
async def test_a_lower_or_equal_epoch_elsewhere_is_refused(
    registry: Registry, pki: Pki, admin: Admin, epoch: int
) -> None:
    """A second node with the same label and no higher epoch is told to drop it; the first one keeps it."""
    chain = Chain()
    async with stream(registry, pki) as first, stream(registry, pki, "lon-1") as second:
        await first.announce(tunnel_info(chain, 5))
        await second.announce(tunnel_info(chain, epoch))
        assert second.evicted == [(chain.label, epoch, EVICTION_REASON_SUPERSEDED)]
        assert first.evicted == []
        assert await admin.tunnels() == {chain.label: ("fra-1", 5)}


async def test_a_higher_epoch_takes_the_label_at_once(registry: Registry, pki: Pki, admin: Admin) -> None:
    """The new holder has it with the next epoch, the old one is evicted, and its late withdrawal removes nothing."""
    chain = Chain()
    old = tunnel_info(chain, 1)
    async with stream(registry, pki) as first, stream(registry, pki, "lon-1") as second:
        await first.announce(old)
        await second.announce(tunnel_info(chain, 2))
        await first.until(lambda: first.evicted)
        assert first.evicted == [(chain.label, 1, EVICTION_REASON_SUPERSEDED)]
        await first.announce(withdrawn=(old,))
        await first.announce(full=True)
        assert await admin.tunnels() == {chain.label: ("lon-1", 2)}


async def test_a_forged_proof_wins_nothing(registry: Registry, pki: Pki, admin: Admin) -> None:
    """Whoever saw one epoch cannot announce the next: neither a made-up proof nor the one that was seen is taken."""
    chain = Chain()
    async with stream(registry, pki) as first, stream(registry, pki, "evil-1") as thief:
        await first.announce(tunnel_info(chain, 1))
        for proof in (b"\0" * 32, chain.proof(1), b"", b"short"):
            await thief.announce(tunnel_info(chain, 2, proof=proof))
        assert thief.evicted == [(chain.label, 2, EVICTION_REASON_SUPERSEDED)] * 4
        assert first.evicted == []
        assert await admin.tunnels() == {chain.label: ("fra-1", 1)}


async def test_a_node_speaks_for_itself_alone(registry: Registry, pki: Pki, admin: Admin) -> None:
    """Whatever node and region an announcement names, it is the announcing node's; it withdraws no one else's."""
    theirs, mine = tunnel_info(Chain()), tunnel_info(Chain(), node="lon-1", region="lon")
    async with stream(registry, pki, "lon-1") as victim, stream(registry, pki) as node:
        await victim.announce(theirs)
        await node.announce(mine, withdrawn=(theirs,))
        assert await admin.tunnels() == {theirs.label: ("lon-1", 1), mine.label: ("fra-1", 1)}


async def test_a_token_has_no_more_tunnels_than_its_quota(registry: Registry, pki: Pki, admin: Admin) -> None:
    """Announcements beyond the quota are evicted, on whichever node; room that is made is used."""
    token = (await admin.new_token(max_tunnels=2)).info.id
    first, second, third = (tunnel_info(Chain(), token_id=token) for _ in range(3))
    async with stream(registry, pki) as node, stream(registry, pki, "lon-1") as other:
        await node.announce(first, second)
        await other.announce(third)
        assert other.evicted == [(third.label, 1, EVICTION_REASON_QUOTA)]
        assert set(await admin.tunnels()) == {first.label, second.label}
        await node.announce(withdrawn=(first,))
        await other.announce(third)
        assert set(await admin.tunnels()) == {second.label, third.label}


async def test_a_tenant_has_no_more_tunnels_than_its_quota(registry: Registry, pki: Pki, admin: Admin) -> None:
    """Whichever tokens they are of: the newest is evicted with the number; a lower quota evicts the newest at once."""
    await admin.set_quota("demo", 2)
    first, second, third = (tunnel_info(Chain(), token_id=f"t{number}") for number in range(3))
    async with stream(registry, pki) as node, stream(registry, pki, "lon-1") as other:
        await node.announce(first)
        await other.announce(second)
        await node.announce(third)
        assert node.evicted == [(third.label, 1, EVICTION_REASON_QUOTA)]
        assert set(await admin.tunnels()) == {first.label, second.label}
        await admin.set_quota("demo", 1)
        await other.until(lambda: other.evicted)
        (eviction,) = [one for message in other.heard for one in message.evictions.evictions]
        assert (eviction.label, eviction.max_tunnels, eviction.of_token) == (second.label, 1, False)
        assert set(await admin.tunnels()) == {first.label}


async def test_what_is_over_the_quota_of_a_node_that_was_away_is_evicted_when_it_is_back(
    registry: Registry, pki: Pki, admin: Admin
) -> None:
    """Nobody could tell it when the quota was lowered."""
    tunnels = [tunnel_info(Chain()) for _ in range(2)]
    async with stream(registry, pki) as node:
        for tunnel in tunnels:
            await node.announce(tunnel)
        lease = node.lease
    await admin.set_quota("demo", 1)
    assert len(await admin.tunnels()) == 2
    async with stream(registry, pki, lease=lease) as again:
        await again.until(lambda: again.evicted)
        assert again.evicted == [(tunnels[1].label, 1, EVICTION_REASON_QUOTA)]
        assert set(await admin.tunnels()) == {tunnels[0].label}


async def test_a_lease_outlives_its_stream(registry: Registry, pki: Pki, admin: Admin) -> None:
    """A node that comes back with its lease keeps it, and every tunnel on it."""
    tunnel = tunnel_info(Chain())
    async with stream(registry, pki) as node:
        await node.announce(tunnel)
        lease = node.lease
    assert await admin.tunnels() == {tunnel.label: ("fra-1", 1)}
    async with stream(registry, pki, lease=lease) as again:
        assert again.lease == lease
        assert await admin.tunnels() == {tunnel.label: ("fra-1", 1)}


async def test_a_lease_that_is_another_node_s_is_not_resumed(registry: Registry, pki: Pki) -> None:
    """A lease is a node's own: another one that names it gets a new one."""
    async with stream(registry, pki) as node, stream(registry, pki, "lon-1", lease=node.lease) as other:
        assert other.lease != node.lease


async def test_a_newer_session_replaces_the_older(registry: Registry, pki: Pki, admin: Admin) -> None:
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


async def test_a_node_may_not_take_another_s_name(registry: Registry, pki: Pki, admin: Admin) -> None:
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
    tunnel = tunnel_info(Chain())
    async with running(short_lease) as registry, stream(registry, pki, "lon-1") as other:
        async with stream(registry, pki) as node:
            await node.announce(tunnel)
        tasks = Tasks("test")
        tasks.spawn(_keep_alive(other), name="keep alive")
        await other.until(lambda: other.peers == {"fra-1", "lon-1"})
        await other.until(lambda: other.peers == {"lon-1"})
        await tasks.close()
        async with channel(registry.mesh_address, pki.ca, pki.node("lon-1")) as mesh:
            gone = await MeshStub(mesh).Resolve(ResolveRequest(label=tunnel.label))
        assert (gone.HasField("tunnel"), gone.last.node) == (False, "fra-1")


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
