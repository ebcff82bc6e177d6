"""A second replica of a cluster's registry, on the same store; one that hears of changes only when a test lets it.

Here: the replica, its store, the nodes that are linked to it. Not here: a registry that is stopped (cluster.py), etcd
that is slow for all replicas (etcd.py).
"""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import pytest
from portway_registry.config import Config
from portway_registry.server import Registry
from portway_registry.state import keys
from portway_registry.store.contract import Entry, Event, Revision, Store
from portway_registry.store.embedded import EmbeddedStore
from portway_registry.store.open import open_store
from portway_runtime.endpoints import Endpoint, parse_endpoint

from portway_testkit.clusters.admin_calls import AdminCalls
from portway_testkit.clusters.cluster import LOOPBACK, Cluster
from portway_testkit.clusters.mesh import connected
from portway_testkit.processes.ports import free_port
from portway_testkit.waiting import eventually


class LateStore:
    """A Store whose reads and writes are those of another one, and whose watches can be held back."""

    def __init__(self, store: Store, *, owned: bool) -> None:
        """`owned`: closing this one closes the other."""
        self.store = store
        self._owned = owned
        self._held: set[str] = set()
        self._released = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def hold(self, *prefixes: str) -> None:
        """Keep back what changes below these prefixes, from now on."""
        self._held.update(prefixes)
        self._released.clear()

    def release(self) -> None:
        """Deliver all that was kept back, in order."""
        self._held.clear()
        self._released.set()

    async def watch(self, prefix: str, after: Revision) -> AsyncGenerator[tuple[Event, ...], None]:
        """As Store.watch."""
        async with aclosing(self.store.watch(prefix, after)) as batches:
            async for batch in batches:
                while any(prefix.startswith(held) for held in self._held):
                    await self._released.wait()
                yield batch

    async def close(self) -> None:
        """Close the other store, if it is this one's."""
        if self._owned:
            await self.store.close()


class LateUntilRead(LateStore):
    """Holds back until somebody reads the key of a record that it holds back: it is late for whoever decides by memory
    alone."""

    async def get(self, key: str) -> Entry | None:
        """As Store.get."""
        entry = await self.store.get(key)
        if any(key.startswith(held) for held in self._held):
            self.release()
        return entry


class Replicas:
    """A mesh and the second replica of its registry."""

    def __init__(self, mesh: Cluster, second: Registry) -> None:
        self.mesh = mesh
        self.second = second
        self.store: LateStore | None = None
        first = mesh.registry_config.mesh_listen
        self.mesh_addresses = (first, parse_endpoint(second.mesh_address))  # where nodes find them

    @property
    def admin(self) -> AdminCalls:
        """The Admin service of the second replica."""
        token_file = self.mesh.registry_config.admin_token_file
        assert token_file is not None
        return AdminCalls(self.second.address, self.mesh.ca, token_file.read_text().strip())

    def environment(self, token: str | None = None) -> dict[str, str]:
        """What a client needs that asks the first replica, then the second."""
        addresses = f"{self.mesh.registry_address},{self.second.address}"
        return self.mesh.environment(token) | {"PORTWAY_REGISTRY": addresses}

    def link(self, *nodes: str, to: tuple[Endpoint, ...]) -> None:
        """Restart these nodes, which know only these replicas from then on."""
        for name in nodes:
            running = self.mesh.nodes[name]
            running.config = dataclasses.replace(running.config, registry=to)
            running.restart()
        eventually(lambda: connected(self.mesh))

    def hold(self, *prefixes: str) -> None:
        """The second replica hears of nothing that changes from now on; or of nothing below these prefixes."""

        async def hold() -> None:
            assert self.store is not None
            self.store.hold(*(prefixes or (keys.ROOT,)))

        self.mesh.run(hold)

    def release(self) -> None:
        """It hears of all that has changed meanwhile."""

        async def release() -> None:
            assert self.store is not None
            self.store.release()

        self.mesh.run(release)

    def shown(self, label: str) -> list[tuple[str, int]]:
        """Node and epoch of a tunnel, as the second replica has it."""
        return [(tunnel.node, tunnel.epoch) for tunnel in self.admin.tunnels() if tunnel.label == label]


@contextmanager
def with_a_replica(mesh: Cluster, *, says_where: bool = False, store: str = "") -> Iterator[Replicas]:
    """A second replica for a mesh, whose nodes know only the first one. says_where: it is told where nodes find it, and
    says so. store: its --store, if it reaches the same one by another way."""
    free = Endpoint(LOOPBACK, 0)
    at = Endpoint(LOOPBACK, free_port()) if says_where else free
    config = dataclasses.replace(
        mesh.registry_config,
        listen=free,
        mesh_listen=at,
        mesh_advertise=(at,) if says_where else (),
        store=store or mesh.registry_config.store,
    )
    second = mesh.run(lambda: _start(mesh, config))
    try:
        yield Replicas(mesh, second)
    finally:
        mesh.run(second.stop)


@contextmanager
def with_a_late_replica(
    make_mesh: Callable[..., Cluster], store: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Replicas]:
    """The same for a mesh that this makes, with a second replica whose watches can be held back. An embedded store, of
    which a process has one alone, is shared by the two."""
    opened: list[LateStore] = []

    def open_either(spec: Any, *, on_failure: Callable[[BaseException], None]) -> Store:
        shared = opened[0].store if opened and isinstance(opened[0].store, EmbeddedStore) else None
        opened.append(LateStore(shared or open_store(spec, on_failure=on_failure), owned=shared is None))
        return opened[-1]

    monkeypatch.setattr("portway_registry.cluster.open_store", open_either)
    mesh = make_mesh(store=store)
    with with_a_replica(mesh) as replicas:
        replicas.store = opened[1]
        try:
            yield replicas
        finally:
            replicas.release()  # its parts end by their watches


async def _start(mesh: Cluster, config: Config) -> Registry:
    registry = Registry(config, on_failure=mesh.failed)
    await registry.start()
    return registry
