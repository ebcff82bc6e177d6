"""Nodes that consist of the ends of their mesh lanes only.

Here: such a node on real sockets, and its certificates. Not here: whole nodes (clusters/cluster.py).
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import pytest
import trustme
from portway_carrier.python import PythonCarrier
from portway_carrier.values import Limits, ServerTls
from portway_proto.v1.lane_pb2 import Answer, Routes
from portway_proto.v1.types_pb2 import NodeInfo, NodeState, TunnelInfo
from portway_proto.wire.frames import Opening, RefusalReason
from portway_proto.wire.limits import MESH_ALPN
from portway_proto.wire.statements import Presence
from portway_relay.certificates import LoadedCertificates
from portway_relay.mesh.frame_budgets import PeerBudgets
from portway_relay.mesh.inbound_lanes import InboundLanes
from portway_relay.mesh.peers import Peers
from portway_runtime.certificates import CertifiedKey
from portway_runtime.endpoints import Endpoint
from portway_runtime.identities import NodeIdentity
from portway_runtime.tasks import Tasks
from portway_runtime.tls_choices import Group

SUFFIX = ".node.portway.internal"
OPENING = Opening("k5zq2w7b3xav6mdy", "192.0.2.7", 4711)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def certificates(authority: trustme.CA, *names: str) -> LoadedCertificates:
    leaf = authority.issue_cert(*names)
    chain, key = b"".join(blob.bytes() for blob in leaf.cert_chain_pems), leaf.private_key_pem.bytes()
    ca = authority.cert_pem.bytes()
    identity: Any = CertifiedKey(chain, key, None)  # type: ignore[arg-type]
    mesh = ServerTls(chain, key, alpn=MESH_ALPN, client_ca=ca)
    return LoadedCertificates(ca, (), identity, {}, {(MESH_ALPN, mesh.group): mesh}, {})


class Node:
    """A node's ends of its mesh lanes. `holds` is what it answers with, `heard` what it received, with the sender."""

    def __init__(self, name: str, region: str, loaded: LoadedCertificates, **limits: Any) -> None:
        self.name = name
        self.region = region
        self.loaded = loaded
        self.holds: dict[str, TunnelInfo] = {}
        self.closed: dict[str, int] = {}
        self.heard: list[tuple[str, Routes]] = []
        self.states: list[tuple[str, NodeState.ValueType]] = []  # of others, with their names, as they told them
        self.strangers: set[str] = set()
        self.wholes: list[tuple[str, set[str]]] = []
        self.presences: dict[str, bytes] = {}  # by label, of what it answers
        self.sessions: list[Presence] = []
        self.listening: list[asyncio.Future[None]] = []  # what every announced raw port waits for
        self.visits: list[Opening] = []
        self.failures: list[BaseException] = []
        self.settled = 0  # handshakes that are over, or never began
        self.carrier = PythonCarrier(Limits(ping_interval=0.2))
        self.budgets = PeerBudgets(time.monotonic)
        self.peers = Peers(
            name,
            region,
            self.carrier,
            lambda: self.loaded,
            self.budgets,
            lambda: [*self.sessions, *self.holds.values()],
            clock=time.monotonic,
            on_failure=self.failures.append,
        )
        self.peers.registry_away = False
        self.inbound_lanes = InboundLanes(
            self.carrier,
            lambda group: self.loaded.lane_tls(MESH_ALPN, group),
            self,
            self.budgets,
            **{"capacity": 100, "capacity_per_address": 100, "time_limit": 5.0} | limits,
            clock=time.monotonic,
            on_failure=self.failures.append,
        )
        self.tasks = Tasks("test node")
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setblocking(False)
        self._accepting = self.tasks.spawn(self._accept(), name="accept")

    async def _accept(self) -> None:
        while True:
            sock, name = await asyncio.get_running_loop().sock_accept(self._listening)
            self.inbound_lanes.accept(sock, Endpoint(*name), Group.X25519, self._settled)

    def _settled(self) -> None:
        self.settled += 1

    @property
    def info(self) -> NodeInfo:
        port = self._listening.getsockname()[1]
        return NodeInfo(
            name=self.name, region=self.region, host="127.0.0.1", port=port, server_name=f"{self.name}{SUFFIX}"
        )

    def visit_arrived(self, node: str, lane: Any, opening: Opening) -> None:
        self.visits.append(opening)
        lane.refuse(RefusalReason.NOT_HERE)

    def refusal(self, identity: NodeIdentity) -> str:
        return self.peers.refusal(identity)

    def routes_received(self, node: str, routes: Routes) -> "list[asyncio.Future[None]]":
        if routes.state:
            self.states.append((node, routes.state))
            routes.ClearField("state")
        if routes != Routes():
            self.heard.append((node, routes))
        return list(self.listening)

    def is_known(self, node: str) -> bool:
        return node not in self.strangers

    def raw_tunnels_listed(self, node: str, labels: set[str]) -> None:
        self.wholes.append((node, labels))

    def answer(self, label: str) -> Answer:
        return Answer(
            tunnel=self.holds.get(label),
            closed_epoch=self.closed.get(label, 0),
            presence=self.presences.get(label, b""),
        )

    def hold(self, label: str, node: str = "", epoch: int = 1) -> TunnelInfo:
        self.holds[label] = TunnelInfo(label=label, node=node or self.name, epoch=epoch)
        return self.holds[label]

    def update_peers(
        self,
        nodes: Iterable[NodeInfo],
        removed: Iterable[str] = (),
        certified_since: Mapping[str, int] | None = None,
    ) -> None:
        """Take over a registry's list of nodes, as a node does."""
        if self.peers.update(nodes, removed, certified_since):
            self.inbound_lanes.drop_refused()

    def drop_lanes(self) -> None:
        for lane in self.inbound_lanes:
            lane.abort()

    def stop_listening(self) -> None:
        self._accepting.cancel()
        self._listening.close()

    async def stop(self) -> None:
        await self.tasks.close()
        self._listening.close()
        await self.inbound_lanes.close()
        await self.peers.close()
        await self.carrier.close()


Make = Callable[..., Node]


@pytest.fixture
async def make(authority: trustme.CA) -> AsyncIterator[Make]:
    nodes: list[Node] = []

    def make(name: str, region: str = "fra", loaded: LoadedCertificates | None = None, **limits: Any) -> Node:
        nodes.append(Node(name, region, loaded or certificates(authority, name + SUFFIX), **limits))
        return nodes[-1]

    yield make
    for node in nodes:
        await node.stop()
        assert node.failures == []
        assert len(node.inbound_lanes) == 0
