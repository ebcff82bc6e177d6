"""Grant keys at a whole registry, on either store: rotated, lost, damaged."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import jwt
import pytest
from portway_proto.v1 import admin_pb2
from portway_proto.v1.discovery_pb2 import RenewRequest
from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub
from portway_proto.v1.types_pb2 import NODE_STATE_DRAINING
from portway_registry import cluster
from portway_registry.config import Config
from portway_registry.server import Registry
from portway_registry.state import keys
from portway_registry.store.contract import Store
from portway_registry.store.open import open_store
from portway_testkit.clusters.admin_caller import AdminCaller
from portway_testkit.clusters.node_stream import NodeStream, all_known
from portway_testkit.clusters.registry import SESSION_KEY, Pki, bearer, channel, node_info, running


class Signing:
    """Asks a registry which key signs."""

    def __init__(self, public: grpc.aio.Channel, token: str) -> None:
        self._stub = DiscoveryStub(public)
        self._shown = bearer(token)

    async def kid(self) -> str:
        answer = await self._stub.Renew(RenewRequest(session_key=SESSION_KEY), metadata=self._shown)
        return str(jwt.get_unverified_header(answer.grant.token)["kid"])


@pytest.fixture
async def signing(public: grpc.aio.Channel, admin: AdminCaller) -> Signing:
    return Signing(public, (await admin.new_token()).token)


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> list[Store]:
    """Those that registries open, in order."""
    opened: list[Store] = []

    def open_and_keep(*arguments: Any, **more: Any) -> Store:
        opened.append(open_store(*arguments, **more))
        return opened[-1]

    monkeypatch.setattr(cluster, "open_store", open_and_keep)
    return opened


@pytest.fixture
async def registry(stores: list[Store], config: Config) -> AsyncIterator[Registry]:
    async with running(config) as registry:
        yield registry


@pytest.fixture
async def store(registry: Registry, stores: list[Store]) -> Store:
    """The registry's own, for the hands of an operator."""
    return stores[0]


def known_to(node: NodeStream) -> list[str]:
    return [key.kid for key in node.settings.grant_keys] if node.settings is not None else []


async def rotate(admin: AdminCaller) -> admin_pb2.GrantKeyInfo:
    return (await admin.stub.RotateGrantKey(admin_pb2.RotateGrantKeyRequest(), metadata=admin.shown)).key


async def until_signs(signing: Signing, kid: str, node: NodeStream | None = None) -> None:
    """Each keep-alive of the node is answered by nothing: it is asked again after the next message to the node.

    `rotate` waits for seconds at most. Called again it would make another key if this one signs by then."""
    while await signing.kid() != kid:
        if node is not None:
            await node.keep_alive(grant_keys=known_to(node))


async def test_a_key_signs_when_the_node_has_said_that_it_knows_it(
    registry: Registry, pki: Pki, admin: AdminCaller, signing: Signing
) -> None:
    """The node is told first; until it answers, clients get grants of the key that it knows."""
    async with NodeStream(registry.mesh_address, pki, node_info("fra-1")) as node:
        await node.until(lambda: known_to(node) == ["1"])
        await all_known(node)
        assert list((await rotate(admin)).unaware_nodes) == ["fra-1"]
        await node.until(lambda: known_to(node) == ["1", "2"])
        assert await signing.kid() == "1"
        await node.keep_alive(grant_keys=["1"])
        assert await signing.kid() == "1"
        await until_signs(signing, "2", node)
        assert known_to(node) == ["1", "2"]


async def test_a_node_that_was_away_is_told_when_it_registers(
    registry: Registry, pki: Pki, admin: AdminCaller, signing: Signing
) -> None:
    """Before anything that concerns clients; while it is away the rotation does not wait for it."""
    async with NodeStream(registry.mesh_address, pki, node_info("fra-1")) as node:
        await node.keep_alive(state=NODE_STATE_DRAINING)
        await node.leave()
    await rotate(admin)
    await until_signs(signing, "2")
    async with NodeStream(registry.mesh_address, pki, node_info("fra-1", grant_keys=["1"])) as node:
        await node.until(lambda: known_to(node) == ["1", "2"])


async def test_a_key_deleted_by_hand_is_replaced(
    registry: Registry,
    pki: Pki,
    signing: Signing,
    store: Store,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Clients get grants again, of a key that nodes are told; the log names what was lost, once."""
    async with NodeStream(registry.mesh_address, pki, node_info("fra-1")) as node:
        with caplog.at_level(logging.ERROR):
            await store.delete(keys.grant_key("1"))
            await node.until(lambda: known_to(node) == ["2"])
        assert await signing.kid() == "2"
    assert [record.__dict__["key"] for record in caplog.records if "gone from the store" in record.message] == [
        keys.grant_key("1")
    ]


async def test_a_damaged_key_costs_only_itself(
    registry: Registry,
    pki: Pki,
    admin: AdminCaller,
    signing: Signing,
    store: Store,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The key before signs again; the log names the record, once, and so does the list."""
    await rotate(admin)
    await until_signs(signing, "2")
    async with NodeStream(registry.mesh_address, pki, node_info("fra-1")) as node:
        with caplog.at_level(logging.ERROR):
            await store.put(keys.grant_key("2"), b'{"kid":"2","priva')
            await node.until(lambda: known_to(node) == ["1"])
        assert await signing.kid() == "1"
    assert [record.__dict__["key"] for record in caplog.records if "cannot be read" in record.message] == [
        keys.grant_key("2")
    ]
    listed = (await admin.stub.ListGrantKeys(admin_pb2.ListGrantKeysRequest(), metadata=admin.shown)).keys
    assert [(one.id, one.state) for one in listed] == [
        ("1", admin_pb2.GRANT_KEY_STATE_SIGNING),
        ("2", admin_pb2.GRANT_KEY_STATE_UNREADABLE),
    ]


@pytest.mark.parametrize("store_text", ["etcd"], indirect=True)
async def test_replicas_agree_on_the_key(
    registry: Registry, config: Config, pki: Pki, admin: AdminCaller, signing: Signing
) -> None:
    """A node of the other replica is waited for; then both sign with the new key. One that starts later, too."""
    token = (await admin.new_token()).token
    async with running(config) as replica, channel(replica.address, pki.ca) as there:
        async with NodeStream(replica.mesh_address, pki, node_info("lon-1", "lon")) as node:
            await all_known(node)
            while await admin.nodes() != ["lon-1"]:  # a replica waits for the nodes that it shows
                pass
            await rotate(admin)
            await node.until(lambda: known_to(node) == ["1", "2"])
            assert [await signing.kid(), await Signing(there, token).kid()] == ["1", "1"]
            await until_signs(signing, "2", node)
            await until_signs(Signing(there, token), "2", node)
    async with running(config) as replica, channel(replica.address, pki.ca) as there:
        assert await Signing(there, token).kid() == "2"


@pytest.mark.parametrize("store_text", ["etcd"], indirect=True)
async def test_a_replica_is_known_while_it_lives(registry: Registry, config: Config, store: Store) -> None:
    """And forgotten at once when it stops in order."""

    async def replicas() -> int:
        return len((await store.list(keys.REPLICAS)).entries)

    assert await replicas() == 1
    async with running(config):
        assert await replicas() == 2
    assert await replicas() == 1
