"""The longest lists, with the largest fields: 2,000 nodes; 20,000 tokens, tunnels and entries of the audit."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from portway_proto.records import MAX_TICKET
from portway_proto.v1 import admin_pb2
from portway_proto.v1.discovery_pb2 import LocateRequest, SurveyRequest
from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub
from portway_proto.v1.types_pb2 import NODE_STATE_READY, NodeInfo, TunnelInfo
from portway_proto.wire.limits import MAX_CLAIM
from portway_registry.config import Config
from portway_registry.server import Registry
from portway_registry.state import keys
from portway_registry.state.records import AuditRecord, InvitationRecord, Role, TokenRecord, encode
from portway_registry.store.contract import Put
from portway_registry.store.embedded import EmbeddedStore
from portway_testkit.clusters.admin_caller import AdminCaller
from portway_testkit.clusters.node_stream import NodeStream
from portway_testkit.clusters.registry import SESSION_KEY, Pki, bearer, node_info, running

# A list of 18 MB is written, decoded and sent.
pytestmark = pytest.mark.timeout(180)

NODES, TOKENS = 2_000, 20_000
MESSAGE = 4 << 20  # bytes that a gRPC client accepts
NOW = 4_000_000_000_000  # a time that no clock of a test has


def label(number: int) -> str:
    digits = "abcdefghijklmnopqrstuvwxyz234567"
    return "".join(digits[number >> 5 * place & 31] for place in range(16))


def largest_node(number: int) -> NodeInfo:
    name = f"n{number:04d}".ljust(63, "x")
    return NodeInfo(
        name=name,
        region="r" * 63,
        host="h" * 253,
        port=65535,
        server_name=f"{name}.node.portway.internal",
        version="v" * 64,
        latitude=-89.5,
        longitude=-179.5,
        domain="d" * 200,
        state=NODE_STATE_READY,
        sessions=2**32 - 1,
        tunnels=2**32 - 1,
        visits=2**32 - 1,
        started_at_ms=NOW,
        reach_failure="f" * 300,
    )


def largest_tunnel(number: int) -> TunnelInfo:
    return TunnelInfo(
        label=label(number),
        node=f"n{number % NODES:04d}".ljust(63, "x"),
        region="r" * 63,
        epoch=2**32 - 1,
        claim=b"c" * MAX_CLAIM,
        ticket=b"t" * MAX_TICKET,
        tenant="t" * 64,
        token_id="i" * 64,
        unencrypted_port=0,
        opened_at_ms=NOW,
        host="h" * 253,
    )


def largest_token(number: int) -> TokenRecord:
    return TokenRecord(
        f"t{number:05d}".ljust(32, "x"), "t" * 64, Role.CLIENT, b"s" * 32, "\N{SNOWMAN}" * 200, 1_000_000, NOW
    )


def largest_invitation(number: int) -> InvitationRecord:
    return InvitationRecord(f"i{number:05d}", "r" * 63, b"s" * 32, "n" * 63, "a" * 32, NOW, 2 * NOW)


def largest_entry(number: int) -> AuditRecord:
    return AuditRecord(NOW, "a" * 64, "invitation.revoke", f"{number:05d}".ljust(63, "x"))


@pytest.fixture
async def config(pki: Pki, tmp_path: Path) -> Config:
    """A store that holds the lists already."""
    path = tmp_path / "registry.db"
    store = EmbeddedStore(path, on_failure=print)
    lists: list[list[Put]] = [
        [Put(keys.node(one.name), one.SerializeToString()) for one in map(largest_node, range(NODES))],
        [Put(keys.tunnel(one.label), one.SerializeToString()) for one in map(largest_tunnel, range(TOKENS))],
        [Put(keys.token(one.id), encode(one)) for one in map(largest_token, range(TOKENS))],
        [Put(keys.invitation(one.id), encode(one)) for one in map(largest_invitation, range(TOKENS))],
        [Put(keys.audit(NOW, f"{number:05d}"), encode(largest_entry(number))) for number in range(TOKENS)],
    ]
    for writes in lists:
        await store.write(writes)
    await store.close()
    return pki.config(tmp_path, store=f"embedded:{path}", admin_token_file=tmp_path / "admin-token")


@pytest.fixture
async def registry(config: Config) -> AsyncIterator[Registry]:
    async with running(config) as registry:
        yield registry


async def pages(method: Callable[..., Any], request: Any, shown: Any) -> AsyncIterator[Any]:
    """Every page of a list; each fits into a message, or the call would fail."""
    while True:
        answer = await method(request, metadata=shown)
        assert answer.ByteSize() < MESSAGE
        yield answer
        if not answer.next_page_token:
            return
        request.page_token = answer.next_page_token


async def test_no_list_exceeds_a_message(
    registry: Registry, pki: Pki, public: grpc.aio.Channel, admin: AdminCaller
) -> None:
    """Operators read every list to its end; a node gets all its peers; clients are located as always."""
    stub, shown = admin.stub, admin.shown
    nodes = [
        one.name async for page in pages(stub.ListNodes, admin_pb2.ListNodesRequest(), shown) for one in page.nodes
    ]
    assert nodes == sorted(largest_node(number).name for number in range(NODES))
    request = admin_pb2.ListTunnelsRequest(page_size=5_000)
    tunnels = [one.label async for page in pages(stub.ListTunnels, request, shown) for one in page.tunnels]
    assert tunnels == sorted(map(label, range(TOKENS)))
    tokens = [
        one.id async for page in pages(stub.ListTokens, admin_pb2.ListTokensRequest(), shown) for one in page.tokens
    ]
    assert tokens == ["admin", *(largest_token(number).id for number in range(TOKENS))]
    invitations = admin_pb2.ListInvitationsRequest(include_over=True)
    found = [one.id async for page in pages(stub.ListInvitations, invitations, shown) for one in page.invitations]
    assert found == [largest_invitation(number).id for number in range(TOKENS)]
    audit = admin_pb2.ListAuditRequest(page_size=2**32 - 1)
    entries = [one.target async for page in pages(stub.ListAudit, audit, shown) for one in page.entries]
    assert entries[:TOKENS] == [largest_entry(number).target for number in reversed(range(TOKENS))]

    async with NodeStream(registry.mesh_address, pki, node_info("fra-1")) as node:
        await node.until(lambda: len(node.peers) == NODES + 1)
        assert max(message.ByteSize() for message in node.heard) < MESSAGE

    token = bearer((await admin.new_token()).token)
    discovery = DiscoveryStub(public)
    assert len((await discovery.Locate(LocateRequest(session_key=SESSION_KEY), metadata=token)).candidates) == 8
    assert (await discovery.Survey(SurveyRequest(), metadata=token)).nodes >= NODES


async def test_an_operator_of_the_release_before_gets_the_first_page(registry: Registry, admin: AdminCaller) -> None:
    """It asks once, and gets what fits in place of an error."""
    answer = await admin.stub.ListTokens(admin_pb2.ListTokensRequest(), metadata=admin.shown)
    assert len(answer.tokens) > 3_000
