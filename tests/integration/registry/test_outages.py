"""etcd is killed, cut off and compacted under a whole registry: sessions, watchers and clients go on."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from portway_proto.v1 import admin_pb2
from portway_proto.v1.admin_pb2_grpc import AdminStub
from portway_proto.v1.discovery_pb2 import LocateRequest
from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub
from portway_proto.v1.mesh_pb2 import Announce, NodeMessage, ResolveRequest
from portway_proto.v1.mesh_pb2_grpc import MeshStub
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_registry.config import Config
from portway_registry.server import Registry
from portway_registry.state import keys
from portway_registry.store.contract import EventKind
from portway_registry.store.etcd import EtcdStore
from portway_runtime.tasks import Tasks
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.clusters.node_stream import NodeStream, all_known, kept_alive
from portway_testkit.clusters.registry import (
    PATIENCE,
    SESSION_KEY,
    Pki,
    bearer,
    channel,
    client_of,
    node_info,
    running,
)
from portway_testkit.links.link import Link
from portway_testkit.signers import AnnouncedClient

if TYPE_CHECKING:  # the stubs of asynchronous calls exist for type checkers alone
    from portway_proto.v1.discovery_pb2_grpc import DiscoveryAsyncStub
    from portway_proto.v1.mesh_pb2_grpc import MeshAsyncStub

KINDS = {
    admin_pb2.CHANGE_KIND_KNOWN: "known",
    admin_pb2.CHANGE_KIND_ADDED: "added",
    admin_pb2.CHANGE_KIND_CHANGED: "changed",
    admin_pb2.CHANGE_KIND_REMOVED: "removed",
}


@pytest.fixture(scope="module")
def etcd_server() -> Iterator[EtcdServer]:
    """One of its own, to be killed."""
    with EtcdServer() as server:
        yield server


@dataclass
class Watcher:
    """What an admin's watches of nodes and tunnels have told: kinds in order, by name or label."""

    told: dict[str, list[str]] = field(default_factory=dict)
    synced: int = 0  # watches that have told all there was when they began
    ended: list[str] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow(self, stream: Any) -> None:
        try:
            async for change in stream:
                if change.kind in KINDS:
                    name = change.tunnel.label if hasattr(change, "tunnel") else change.node.name
                    self.told.setdefault(name, []).append(KINDS[change.kind])
                self.synced += change.kind == admin_pb2.CHANGE_KIND_SYNCED
                self._changed.set()
        except grpc.aio.AioRpcError as error:
            self.ended.append(str(error))

    async def begun(self, watches: int) -> None:
        """Wait until they have told what was there: what comes then is a change."""
        async with asyncio.timeout(PATIENCE):
            while self.synced < watches:
                self._changed.clear()
                await self._changed.wait()

    async def until(self, name: str, kind: str, *, times: int = 1) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.told.get(name, []).count(kind) < times:
                self._changed.clear()
                await self._changed.wait()


@dataclass
class Bench:
    """A registry with a node that lives, a client, and an admin who watches."""

    registry: Registry
    node: NodeStream
    watcher: Watcher
    client: "DiscoveryAsyncStub"
    mesh: "MeshAsyncStub"
    shown: Any
    held: AnnouncedClient  # a client at fra-1
    public: grpc.aio.Channel
    token: str

    async def located(self) -> list[str]:
        answer = await self.client.Locate(LocateRequest(session_key=SESSION_KEY), metadata=self.shown)
        return [candidate.node.name for candidate in answer.candidates]

    async def resolved(self, tunnel: TunnelInfo) -> str:
        answer = await self.mesh.Resolve(ResolveRequest(label=tunnel.label))
        return answer.tunnel.node


@asynccontextmanager
async def bench(config: Config, pki: Pki) -> AsyncIterator[Bench]:
    tasks = Tasks("bench")
    async with running(config) as registry:
        assert config.admin_token_file is not None
        admin = bearer(config.admin_token_file.read_text().strip())
        async with (
            channel(registry.address, pki.ca) as public,
            channel(registry.mesh_address, pki.ca, pki.node("lon-1")) as mesh,
            NodeStream(registry.mesh_address, pki, node_info("fra-1")) as node,
            kept_alive(node),
        ):
            await all_known(node)  # what watches are told of it later is no change of its
            stub = AdminStub(public)
            request = admin_pb2.CreateTokenRequest(tenant="demo", role=admin_pb2.ROLE_CLIENT)
            token = (await stub.CreateToken(request, metadata=admin)).token
            held = await client_of(public, token)
            watcher = Watcher()
            streams: list[Any] = [
                stub.WatchNodes(admin_pb2.WatchNodesRequest(), metadata=admin),
                stub.WatchTunnels(admin_pb2.WatchTunnelsRequest(), metadata=admin),
            ]
            for stream in streams:
                tasks.spawn(watcher.follow(stream), name="watch")
            try:
                await watcher.begun(len(streams))
                yield Bench(
                    registry, node, watcher, DiscoveryStub(public), MeshStub(mesh), bearer(token), held, public, token
                )
            finally:
                for stream in streams:
                    stream.cancel()
                await tasks.close()
        assert watcher.ended == []


def settings(pki: Pki, folder: Path, port: int, **more: Any) -> Config:
    return pki.config(folder, store=f"etcd:http://127.0.0.1:{port}", **more)


async def test_nothing_is_lost_or_told_twice_when_etcd_is_killed(etcd: EtcdServer, pki: Pki, tmp_path: Path) -> None:
    """While etcd is down clients are located and tunnels resolved; what was announced meanwhile is told once."""
    async with bench(settings(pki, tmp_path, etcd.port), pki) as here:
        of = [here.held]
        before, meanwhile, after = (here.held.tunnel("fra-1") for _ in range(3))
        await here.node.announce(before, of=of)
        await here.watcher.until(before.label, "added")
        await asyncio.to_thread(etcd.kill)
        announcing = asyncio.ensure_future(here.node.announce(meanwhile, of=of))
        assert await here.located() == ["fra-1"]
        assert await here.resolved(before) == "fra-1"
        await asyncio.to_thread(etcd.start)
        await announcing
        await here.node.announce(after, of=of)
        await here.watcher.until(after.label, "added")
        assert here.watcher.told == {
            "fra-1": ["known"],
            before.label: ["added"],
            meanwhile.label: ["added"],
            after.label: ["added"],
        }
        assert len(here.node.registrations) == 1
        assert here.node.evicted == []


async def test_what_was_compacted_meanwhile_is_told_once(etcd: EtcdServer, pki: Pki, tmp_path: Path) -> None:
    """A replica that was cut off while history was compacted lists again and tells the difference alone."""
    async with Link(etcd.port) as link, running(settings(pki, tmp_path, etcd.port)) as other:
        async with (
            bench(settings(pki, tmp_path, link.port), pki) as here,
            NodeStream(other.mesh_address, pki, node_info("lon-1")) as there,
        ):
            elsewhere = await client_of(here.public, here.token)
            before, (moved, gone, new) = here.held.tunnel("fra-1"), (elsewhere.tunnel("lon-1") for _ in range(3))
            await here.node.announce(before, of=[here.held])
            await there.announce(gone, of=[elsewhere])
            for tunnel in (before, gone):
                await here.watcher.until(tunnel.label, "added")
            link.cut(refuse=True)
            await there.announce(new, moved, withdrawn=(gone,), of=[elsewhere])
            await asyncio.to_thread(etcd.compact, etcd.revision())
            assert await here.resolved(gone) == "lon-1"
            link.mend()
            await here.watcher.until(new.label, "added")
            await here.watcher.until(gone.label, "removed")
            await here.watcher.until(moved.label, "added")
            told = {name: kinds for name, kinds in here.watcher.told.items() if name not in ("fra-1", "lon-1")}
            assert told == {
                before.label: ["added"],
                gone.label: ["added", "removed"],
                new.label: ["added"],
                moved.label: ["added"],
            }


async def test_a_node_outlives_its_lease_while_its_stream_lives(etcd: EtcdServer, pki: Pki, tmp_path: Path) -> None:
    """Cut off until the lease has run out in etcd, the node stays a candidate, and is registered and whole again."""
    direct = EtcdStore(etcd.spec())
    async with Link(etcd.port) as link:
        async with bench(settings(pki, tmp_path, link.port, lease_seconds=5), pki) as here:
            tunnel, meanwhile = (here.held.tunnel("fra-1") for _ in range(2))
            await here.node.announce(tunnel, of=[here.held])
            await here.watcher.until(tunnel.label, "added")
            gone = direct.watch(keys.NODES, (await direct.list(keys.NODES)).revision)
            link.cut(refuse=True)
            batch = 99  # an announcement without its answer: that comes when etcd is back
            message = Announce(batch=batch, bound=[meanwhile], sessions=[here.held.session("fra-1")])
            await here.node.send(NodeMessage(announce=message))
            async with asyncio.timeout(PATIENCE):
                kinds = [event.kind async for event in _events_until_delete(gone)]
            assert kinds[-1] is EventKind.DELETE
            assert await here.located() == ["fra-1"]
            assert await here.resolved(tunnel) == "fra-1"
            link.mend()
            await here.node.until(lambda: len(here.node.registrations) == 2)
            await here.node.announce(tunnel, meanwhile, of=[here.held], full=True)
            await here.watcher.until(tunnel.label, "added", times=2)
            await here.watcher.until(meanwhile.label, "added")
            assert here.watcher.told[tunnel.label] == ["added", "removed", "added"]
            assert await here.located() == ["fra-1"]
            assert here.node.evicted == []
    await direct.close()


async def _events_until_delete(watch: Any) -> AsyncIterator[Any]:
    async for batch in watch:
        for event in batch:
            yield event
            if event.kind is EventKind.DELETE:
                await watch.aclose()
                return


async def test_a_registry_that_starts_without_etcd_waits_for_it(etcd: EtcdServer, pki: Pki, tmp_path: Path) -> None:
    """Started while etcd is down a registry serves as soon as it is up."""
    await asyncio.to_thread(etcd.kill)
    registry = Registry(settings(pki, tmp_path, etcd.port))
    starting = asyncio.ensure_future(registry.start())
    await asyncio.wait([starting], timeout=0.2)
    assert not starting.done()
    await asyncio.to_thread(etcd.start)
    async with asyncio.timeout(PATIENCE):
        await starting
    async with NodeStream(registry.mesh_address, pki, node_info("fra-1")):
        pass
    await registry.stop()
