"""A whole cluster inside the test process: a registry and relay nodes on a thread of their own, on port 0.

Here: starting, stopping, starting again on the same ports; certificates and tokens. Not here: visitors (visitors/), the
programs as processes (portway_lab.cluster).
"""

import asyncio
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import uvloop
from portway_carrier.contract import Stream
from portway_proto.v1 import admin_pb2
from portway_registry import config as registry_config
from portway_registry.acme.publisher import Publisher
from portway_registry.dns.challenges import Challenges
from portway_registry.pki.ca_folder import CaFolder
from portway_registry.server import Registry
from portway_relay.config import NodeConfig, NodeLimits, PortRange
from portway_relay.errors import NodeRemoved
from portway_relay.node import Node
from portway_runtime import clocks
from portway_runtime.endpoints import Endpoint

from portway_testkit.clusters.admin_calls import AdminCalls
from portway_testkit.processes.ports import held_port, raw_port_range
from portway_testkit.waiting import eventually

T = TypeVar("T")
Dial = Callable[..., Stream]  # of Carrier.connect

LOOPBACK = "127.0.0.1"
# curl and browsers resolve every name below it to loopback.
DOMAIN = "localhost"
# Several blocks for each node, also after a restart.
_REGION_PORTS = 512
# Seconds: more than anything that a test waits for takes on a busy machine.
PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class NodePlan:
    """A node to start; `settings` are fields of NodeConfig. Its clock is `clock_ahead` seconds ahead. It does not go on
    taking visitors when it stops, unless `lame_duck` says so, and lets nobody wait after its start, unless
    `hearing_time` does."""

    name: str
    region: str
    limits: NodeLimits = field(default_factory=NodeLimits)
    settings: Mapping[str, Any] = field(default_factory=dict)
    clock_ahead: float = 0.0
    lame_duck: float = 0.0
    hearing_time: float = 0.0


FRANKFURT = NodePlan("fra-1", "fra")


class RunningNode:
    """A node of the cluster. Stopped and started again, it has the same ports."""

    def __init__(self, cluster: "Cluster", config: NodeConfig, clock_ahead: float = 0.0) -> None:
        self._cluster = cluster
        self._node: Node | None = None
        self._clock_ahead = clock_ahead
        self._slept = 0.0
        self._leaving: asyncio.Future[None] | None = None
        self.config = config
        self.was_removed = False  # it has stopped, or is about to, because the cluster admits it no more
        # Wraps the function with which its carrier dials.
        self.dials: Callable[[Dial], Dial] = lambda dial: dial

    @property
    def port(self) -> int:
        return self.config.listen.port

    @property
    def dns(self) -> Endpoint:
        """Where it answers DNS queries: the first of its addresses."""
        return self.node.dns_addresses[0]

    @property
    def raw_host(self) -> str:
        """The address on which it listens for the raw ports of its region."""
        assert self.config.raw_listen is not None
        return self.config.raw_listen

    @property
    def runs(self) -> bool:
        return self._node is not None

    @property
    def node(self) -> Node:
        """The node itself, for calls on the cluster's loop (`Cluster.run`)."""
        assert self._node is not None, "the node is stopped"
        return self._node

    def start(self, within: float = PATIENCE) -> None:
        """within: seconds; one that has no certificate yet waits for it."""

        def failed(error: BaseException) -> None:
            if not isinstance(error, NodeRemoved):
                self._cluster.failed(error)
            elif self._node is not None:
                self.was_removed = True
                self._leaving = asyncio.ensure_future(self._node.stop())

        async def start() -> None:
            self.was_removed = False
            self.config = dataclasses.replace(self.config, listen=self._cluster.kept(self.config.listen))
            node = Node(
                self.config,
                on_failure=failed,
                wall_clock=lambda: time.time() + self._clock_ahead,
                elapsed=lambda: clocks.counting_sleep() + self._slept,
            )
            carrier: Any = node._base.carrier
            carrier.connect = self.dials(carrier.connect)
            await node.start()
            self._node = node

        self._cluster.run(start, within)

    def stop(self) -> None:
        """Stop in order, as SIGTERM does."""
        node, self._node = self._node, None
        if node is not None:
            self._cluster.run(node.stop)

    def kill(self) -> None:
        """Stop as SIGKILL does, as far as peers see: every connection is reset, nothing is sent."""
        node, self._node = self._node, None
        if node is None:
            return

        async def kill() -> None:
            await node._stream._tasks.close()
            for peer in node._routing.peers._peers.values():
                peer.control._keeper.cancel()
                if peer.control._lane is not None:
                    peer.control._lane.abort()
            await node._serving.public_port.close()
            node._raw.sockets.close()
            await node._base.carrier.close()
            # Peers do not notice this: it releases what the process holds, without waiting.
            node._lifecycle.grace = node._lifecycle.lame_duck = 0.0
            await node.stop()

        self._cluster.run(kill)

    def dial_no_more(self, peer: str) -> None:
        """Of a control lane to another node that is lost from now on: one that a test opens in this node's name stays,
        and is not replaced by the next."""

        async def dial_no_more() -> None:
            self.node._routing.peers._peers[peer].control._keeper.cancel()

        self._cluster.run(dial_no_more)

    def pass_time(self, seconds: float, *, everywhere: bool = False, grants: bool = False) -> None:
        """What it has heard is so much older at once, as after a sleep; a registry tells it the time again, of which as
        much has passed if it has `everywhere`. `grants`: so are they."""
        told = int((time.time() + (seconds if everywhere else 0.0)) * 1000)
        self._clock_ahead += seconds if grants else 0.0

        async def pass_time() -> None:
            self._slept += seconds
            self.node._base.registry_clock.set(told)

        self._cluster.run(pass_time)

    def restart(self) -> None:
        self.stop()
        self.start()

    def until_shown(self) -> None:
        """Wait until the registry sends clients where the node advertises itself now; a moment after its start the
        registry may show it nowhere, or where it was."""
        port = (self.config.advertise or self.config.listen).port
        eventually(lambda: (self.config.name, port) in {(one.name, one.port) for one in self._cluster.admin.nodes()})

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name, labels included, without the prefix."""

        async def page() -> bytes:
            return self.node.metrics()

        lines = [line for line in self._cluster.run(page).decode().splitlines() if not line.startswith("#")]
        return {
            name.removeprefix("portway_relay_"): float(value) for name, _, value in (s.rpartition(" ") for s in lines)
        }


class Cluster:
    """`with Cluster(folder) as cluster:` runs a registry and its nodes until the block ends.

    `store` is a registry's --store; `settings` are fields of the registry's Config. A part that ends early fails the
    block.
    """

    def __init__(
        self,
        folder: Path,
        plans: tuple[NodePlan, ...] = (FRANKFURT,),
        *,
        store: str = "embedded:memory",
        settings: Mapping[str, Any] | None = None,
        publisher: Publisher | None = None,
        loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
    ) -> None:
        self._folder = folder
        self._plans = plans
        self._publisher = publisher  # None: the nodes answer an ACME server's questions to DNS
        self._new_loop = loop
        self._regions = tuple(dict.fromkeys(plan.region for plan in plans))
        self._raw_ports = {region: PortRange(*raw_port_range(_REGION_PORTS)) for region in self._regions}
        self._thread = threading.Thread(target=self._run, name="cluster")
        self._started: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._failures: list[BaseException] = []
        self._held: list[socket.socket] = []  # a port each, also while nobody listens on it
        self._registry: Registry | None = None
        self._token_file = folder / "admin-token"
        self.pki = folder / "pki"
        self.ca = self.pki / "ca.crt"
        self.visitors_ca = self.ca  # of regions' certificates
        self.nodes: dict[str, RunningNode] = {}
        given: dict[str, Any] = {
            "listen": Endpoint(LOOPBACK, 0),
            "mesh_listen": Endpoint(LOOPBACK, 0),
            "tls_cert": self.pki / "registry.crt",
            "tls_key": self.pki / "registry.key",
            "cluster_ca": self.ca,
            "store": store,
            "admin_token_file": self._token_file,
        }
        self.registry_config = registry_config.Config(**given | dict(settings or {}))

    def __enter__(self) -> Self:
        authority = CaFolder.create(self.pki)
        authority.add_registry([LOOPBACK, "::1", "localhost"])
        for region in self._regions:
            authority.add_region(region, DOMAIN)
        for plan in self._plans:
            authority.add_node(plan.name)
        self._thread.start()
        try:
            self._started.result(PATIENCE)
            self.start_registry()
            for plan in self._plans:
                self.nodes[plan.name] = RunningNode(self, self.node_config(plan), plan.clock_ahead)
                self.nodes[plan.name].start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        assert not self._failures, f"a part of the cluster ended early: {self._failures}"

    @property
    def thread_id(self) -> int:
        """Of the thread that the registry and all nodes run on."""
        assert self._thread.ident is not None
        return self._thread.ident

    @property
    def node(self) -> RunningNode:
        """The first node."""
        return next(iter(self.nodes.values()))

    @property
    def registry_address(self) -> str:
        return str(self.registry_config.listen)

    @property
    def challenges(self) -> Challenges:
        """The proofs for certificate authorities, for calls on the cluster's loop."""
        assert self._registry is not None
        return self._registry.challenges

    @property
    def admin(self) -> AdminCalls:
        """The registry's Admin service."""
        return AdminCalls(self.registry_address, self.ca, self._token_file.read_text().strip())

    def environment(self, token: str | None = None) -> dict[str, str]:
        """Environment variables of a client, with a new token unless one is given."""
        return {
            "PORTWAY_REGISTRY": self.registry_address,
            "PORTWAY_TOKEN": token or self.token(),
            "PORTWAY_CA": str(self.ca),
        }

    def token(self, *, tenant: str = "test", max_tunnels: int = 0) -> str:
        """A new client token."""
        request = admin_pb2.CreateTokenRequest(tenant=tenant, role=admin_pb2.ROLE_CLIENT, max_tunnels=max_tunnels)
        return self.admin.create_token(request)

    def start_registry(self) -> None:
        given = self.registry_config
        self.registry_config = dataclasses.replace(
            given, listen=self.kept(given.listen), mesh_listen=self.kept(given.mesh_listen)
        )

        async def start() -> None:
            registry = Registry(self.registry_config, on_failure=self.failed, publisher=self._publisher)
            await registry.start()
            self._registry = registry

        self.run(start)

    def stop_registry(self) -> None:
        registry, self._registry = self._registry, None
        if registry is not None:
            self.run(registry.stop)

    def kept(self, listen: Endpoint) -> Endpoint:
        """Where a part listens that is started again on the same port: port 0 becomes one that is kept for it."""
        if listen.port:
            return listen
        self._held.append(held_port(listen.host or "::"))
        return Endpoint(listen.host, self._held[-1].getsockname()[1])

    def run(self, function: Callable[[], Coroutine[Any, Any, T]], within: float = PATIENCE) -> T:
        """Call the function on the cluster's loop and wait for its result, so many seconds at most."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(function(), self._loop).result(within)

    def failed(self, error: BaseException) -> None:
        self._failures.append(error)

    def close(self) -> None:
        """Stop everything, nodes first."""
        for node in self.nodes.values():
            node.stop()
        self.stop_registry()
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)
        for holder in self._held:
            holder.close()
        self._held.clear()

    def node_config(self, plan: NodePlan) -> NodeConfig:
        """The node as its command line would make it, not started."""
        mesh = self.registry_config.mesh_listen
        config = NodeConfig(
            name=plan.name,
            region=plan.region,
            domain=DOMAIN,
            listen=Endpoint(LOOPBACK, 0),
            registry=(Endpoint(mesh.host, mesh.port),),
            cluster_ca=self.ca,
            cert=self.pki / f"node-{plan.name}.crt",
            key=self.pki / f"node-{plan.name}.key",
            tls_cert=tuple(self.pki / f"region-{region}.crt" for region in self._regions),
            tls_key=tuple(self.pki / f"region-{region}.key" for region in self._regions),
            raw_listen=self._raw_listen(plan),
            raw_host=LOOPBACK,
            raw_ports=self._raw_ports.setdefault(plan.region, PortRange(*raw_port_range(_REGION_PORTS))),
            limits=dataclasses.replace(plan.limits, lame_duck=plan.lame_duck, hearing_time=plan.hearing_time),
        )
        return dataclasses.replace(config, **plan.settings)

    def _raw_listen(self, plan: NodePlan) -> str:
        """The nodes of a region listen on the same raw ports, so each has a loopback address of its own; the region's
        raw host is that of the first."""
        siblings = [other.name for other in self._plans if other.region == plan.region]
        later = list(self.nodes)
        number = siblings.index(plan.name) if plan.name in siblings else len(self._plans) + len(later)
        return f"127.0.0.{number + 1}"

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=self._new_loop) as runner:
                runner.run(self._main())
        except BaseException as error:
            self.failed(error)
            if not self._started.done():
                self._started.set_exception(error)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._started.set_result(None)
        await self._stop.wait()
