"""A node with a valid certificate that sends records of any size."""

from typing import Any

import grpc
import pytest
from grpc import StatusCode
from portway_proto.v1 import admin_pb2
from portway_proto.v1.discovery_pb2 import LocateRequest
from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub
from portway_proto.v1.mesh_pb2 import Announce, AnnouncedSession, NodeMessage, Withdrawal
from portway_proto.v1.types_pb2 import NodeInfo, TunnelInfo
from portway_registry.server import Registry
from portway_testkit.clusters.admin_caller import AdminCaller
from portway_testkit.clusters.node_stream import NodeStream, StreamEnded
from portway_testkit.clusters.registry import SESSION_KEY, Pki, bearer, node_info, tunnel_info

HUGE = "a" * (5 << 20)
# The tag and length of 5 MiB of a field that no release knows, and its bytes.
UNKNOWN_FIELD = b"\xc2\x3e\x80\x80\xc0\x02" + HUGE.encode()


async def answers(admin: AdminCaller, public: grpc.aio.Channel) -> list[NodeInfo]:
    """The nodes that an operator is listed and a client located; both must fit into a message."""
    listed = await admin.stub.ListNodes(admin_pb2.ListNodesRequest(), metadata=admin.shown)
    token = (await admin.new_token()).token
    located = await DiscoveryStub(public).Locate(LocateRequest(session_key=SESSION_KEY), metadata=bearer(token))
    return [*listed.nodes, *(one.node for one in located.candidates)]


@pytest.mark.parametrize("field", ["name", "region", "host", "server_name", "version", "domain"])
async def test_a_registration_with_a_huge_field_is_refused(
    registry: Registry, pki: Pki, public: grpc.aio.Channel, admin: AdminCaller, field: str
) -> None:
    """The answer names the field; other nodes, operators and clients see only the node that is well-formed."""
    async with NodeStream(registry.mesh_address, pki, node_info("good")) as good:
        info = node_info("evil")
        setattr(info, field, HUGE)
        huge = NodeStream(registry.mesh_address, pki, info, certified="evil")
        with pytest.raises(StreamEnded) as refused:
            async with huge:
                pass
        assert refused.value.code is StatusCode.INVALID_ARGUMENT
        assert field in refused.value.details
        assert len(refused.value.details) < 300
        await good.until(lambda: good.peers == {"good"})
        assert {node.name for node in await answers(admin, public)} == {"good"}


async def test_unknown_fields_reach_nobody(
    registry: Registry, pki: Pki, public: grpc.aio.Channel, admin: AdminCaller
) -> None:
    """A later release may send them, so the node is accepted; what is passed on has known fields only."""
    info = node_info("evil")
    info.MergeFromString(UNKNOWN_FIELD)
    assert info.ByteSize() > len(HUGE)
    async with (
        NodeStream(registry.mesh_address, pki, node_info("good")) as good,
        NodeStream(registry.mesh_address, pki, info),
    ):
        await good.until(lambda: good.peers == {"good", "evil"})
        assert max(message.ByteSize() for message in good.heard) < 2_000
        found = await answers(admin, public)
        assert {node.name for node in found} == {"good", "evil"}
        assert max(node.ByteSize() for node in found) < 500


@pytest.mark.parametrize(
    "more",
    [
        {"host": HUGE},
        {"tenant": HUGE},
        {"token_id": HUGE},
        {"node": HUGE},
        {"region": HUGE},
        {"claim": HUGE.encode()},
        {"ticket": HUGE.encode()},
        {"label": HUGE},
        {"unencrypted_port": 1 << 20},
    ],
    ids=lambda more: next(iter(more)),
)
async def test_an_announcement_with_a_huge_field_is_refused(
    registry: Registry, pki: Pki, admin: AdminCaller, more: dict[str, Any]
) -> None:
    """The node's session ends, and the answer names the field; the tunnels of others are listed as before."""
    client = await admin.client()
    kept = client.tunnel("good")
    async with (
        NodeStream(registry.mesh_address, pki, node_info("good")) as good,
        NodeStream(registry.mesh_address, pki, node_info("evil")) as evil,
    ):
        await good.announce(kept, of=[client])
        with pytest.raises(StreamEnded) as refused:
            await evil.announce(tunnel_with(**more))
        assert refused.value.code is StatusCode.INVALID_ARGUMENT
        assert next(iter(more)) in refused.value.details
        assert list(await admin.tunnels()) == [kept.label]


def tunnel_with(**fields: Any) -> TunnelInfo:
    tunnel = tunnel_info(node="evil")
    for name, value in fields.items():
        setattr(tunnel, name, value)
    return tunnel


@pytest.mark.parametrize("more", [{"grant": HUGE}, {"presence": HUGE.encode()}], ids=lambda more: next(iter(more)))
async def test_a_session_with_a_huge_field_is_refused(registry: Registry, pki: Pki, more: dict[str, Any]) -> None:
    """Likewise."""
    async with NodeStream(registry.mesh_address, pki, node_info("evil")) as evil:
        with pytest.raises(StreamEnded) as refused:
            await evil.announce(sessions=[AnnouncedSession(**more)])
        assert refused.value.code is StatusCode.INVALID_ARGUMENT
        assert next(iter(more)) in refused.value.details


async def test_a_withdrawal_of_a_huge_label_is_refused(registry: Registry, pki: Pki) -> None:
    """It is never looked up: no store takes a key of that length, and the batch would be tried for ever."""
    async with NodeStream(registry.mesh_address, pki, node_info("evil")) as evil:
        await evil.send(NodeMessage(announce=Announce(batch=1, withdrawn=[Withdrawal(label=HUGE, epoch=1)])))
        assert (await evil.ended()).code is StatusCode.INVALID_ARGUMENT


async def test_unknown_fields_of_an_announcement_are_dropped(registry: Registry, pki: Pki, admin: AdminCaller) -> None:
    """The tunnel is taken up; what is stored and listed has known fields only."""
    client = await admin.client()
    tunnel = client.tunnel("evil")
    tunnel.MergeFromString(UNKNOWN_FIELD)
    async with NodeStream(registry.mesh_address, pki, node_info("evil")) as evil:
        await evil.announce(tunnel, of=[client])
        assert list(await admin.tunnels()) == [tunnel.label]
        found = await admin.stub.ListTunnels(admin_pb2.ListTunnelsRequest(), metadata=admin.shown)
        (listed,) = (one for one in found.tunnels if one.label == tunnel.label)
        assert listed.ByteSize() < 500
