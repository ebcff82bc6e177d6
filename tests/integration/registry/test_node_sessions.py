"""A node's session with a real registry, from its registration to its end, as other nodes and admins see it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from grpc import StatusCode
from portway_proto.v1 import admin_pb2
from portway_proto.v1.admin_pb2_grpc import AdminStub
from portway_proto.v1.mesh_pb2 import NodeMessage, ReservePortsRequest, ResolveRequest
from portway_proto.v1.mesh_pb2_grpc import MeshStub
from portway_proto.v1.types_pb2 import NODE_STATE_CORDONED, NODE_STATE_DRAINING, NodeInfo
from portway_registry.config import Config
from portway_registry.server import Registry
from portway_testkit.clusters.admin_caller import AdminCaller
from portway_testkit.clusters.node_stream import NodeStream, StreamEnded, all_known, kept_alive, stream
from portway_testkit.clusters.registry import (
    PATIENCE,
    Pki,
    bearer,
    channel,
    client_of,
    node_info,
    running,
)
from portway_testkit.signers import AnnouncedClient


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
    async with stream(registry, pki) as older, stream(registry, pki) as newer:
        ended = await older.ended()
        assert ended.code is StatusCode.ABORTED
        assert "newer session" in ended.details
        await all_known(newer)
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
    """As short as a pause of a busy machine is not."""
    return pki.config(tmp_path, store=config.store, lease_seconds=4)


async def test_a_node_that_dies_is_forgotten_with_its_tunnels(short_lease: Config, pki: Pki) -> None:
    """When the lease has run out after the stream broke, neither the node nor its tunnels are known."""
    async with running(short_lease) as registry, stream(registry, pki, "lon-1") as other, kept_alive(other):
        client = await first_client(registry, short_lease, pki)
        tunnel = client.tunnel("fra-1")
        async with stream(registry, pki) as node, kept_alive(node):
            await node.announce(tunnel, of=[client])
            await all_known(node, other)
        await other.until(lambda: other.peers == {"lon-1"})
        request = ResolveRequest(label=tunnel.label)
        async with channel(registry.mesh_address, pki.ca, pki.node("lon-1")) as mesh, asyncio.timeout(PATIENCE):
            # Tunnels have a copy of their own in the registry's memory.
            while (code := await MeshStub(mesh).Resolve(request).code()) is StatusCode.OK:
                pass
        assert code is StatusCode.NOT_FOUND


async def first_client(registry: Registry, config: Config, pki: Pki) -> AnnouncedClient:
    """A client of a registry that has just started."""
    assert config.admin_token_file is not None
    shown = bearer(config.admin_token_file.read_text().strip())
    async with channel(registry.address, pki.ca) as public:
        request = admin_pb2.CreateTokenRequest(tenant="demo", role=admin_pb2.ROLE_CLIENT)
        return await client_of(public, (await AdminStub(public).CreateToken(request, metadata=shown)).token)


async def test_a_node_that_falls_silent_is_let_go(short_lease: Config, pki: Pki) -> None:
    """A stream without KeepAlives ends after the length of a lease, though its connection lives."""
    async with running(short_lease) as registry, stream(registry, pki) as node:
        ended = await node.ended()
    assert ended.code is StatusCode.DEADLINE_EXCEEDED
    assert "no KeepAlive for 4 s" in ended.details
