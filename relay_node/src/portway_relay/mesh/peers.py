"""All other nodes, as a registry last told of them.

A node that is missing from a list is kept as long as it answers (DESIGN §2: absence from a list never removes a route).
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from portway_carrier.contract import Carrier, Pool
from portway_carrier.errors import CarrierError
from portway_carrier.values import ClientTls, DialTarget, SpareSizes
from portway_proto.v1.lane_pb2 import Answer, Gone, Routes
from portway_proto.v1.lane_pb2 import Peer as PeerHello
from portway_proto.v1.types_pb2 import NodeInfo, TunnelInfo
from portway_proto.wire.frames import FrameType
from portway_proto.wire.lane import Side
from portway_proto.wire.limits import MESH_ALPN, PROTOCOL_VERSION
from portway_runtime.endpoints import Endpoint
from portway_runtime.identities import NodeIdentity
from portway_runtime.tasks import Tasks

from portway_relay.certificates import LoadedCertificates
from portway_relay.mesh.control_lane import ControlLane

logger = logging.getLogger(__name__)

# One lane is warm for the first visitor of a while, and the rest as visitors come: nodes times nodes is a large number.
# A visitor does not wait long for a node that does not answer: another one may have the tunnel by now.
SIZES: Final = SpareSizes(quiet=1, busy=8, wait=2.0)
# Twice the longest round trip on Earth: who has not answered by then does not, or too late for a visitor.
_ANSWERED_WITHIN: Final = 1.0


@dataclass(frozen=True, slots=True)
class PeerCounts:
    """The way to another node: whether it is heard from, and the lanes that this node dialled to it."""

    up: bool
    idle: int
    busy: int


class Peer:
    """Where it is, and what leads there."""

    def __init__(
        self,
        info: NodeInfo,
        carrier: Carrier,
        loaded: LoadedCertificates,
        tasks: Tasks,
        whole: Callable[[], Iterable[TunnelInfo]] | None,
    ) -> None:
        self.info = info
        target = self._target(loaded, control=False)
        self.pool: Pool = carrier.dialling_pool(target, Side.OPENER, SIZES, self._lost)
        self.control = ControlLane(info.name, carrier, self._target(loaded, control=True), tasks, whole)

    def reached_as(self, info: NodeInfo) -> bool:
        """Whether `info` says that it is reached in the same way."""
        mine = self.info
        return (mine.host, mine.port, mine.server_name, mine.region) == (
            info.host,
            info.port,
            info.server_name,
            info.region,
        )

    @property
    def in_use(self) -> bool:
        """Whether it answers, or carries visits."""
        counts = self.pool.counts
        return self.control.up or counts.idle + counts.busy > 0

    def certified(self, loaded: LoadedCertificates) -> None:
        """Lanes are dialled with these from now on; those that are up stay up."""
        self.pool.aim(self._target(loaded, control=False))
        self.control.aim(self._target(loaded, control=True))

    def retire(self) -> None:
        """Dial it no more; visits that run go on."""
        self.control.close()
        self.pool.retire()

    def _lost(self, error: CarrierError) -> None:
        logger.debug("a mesh lane could not be dialled", extra={"peer": self.info.name, "reason": str(error)})

    def _target(self, loaded: LoadedCertificates, *, control: bool) -> DialTarget:
        info, node = self.info, loaded.node
        tls = ClientTls(loaded.ca, info.server_name, MESH_ALPN, node.chain, node.key)
        hello = PeerHello(version=PROTOCOL_VERSION, control=control)
        return DialTarget(Endpoint(info.host, info.port), tls, (FrameType.PEER, hello.SerializeToString()))


class Peers:
    """The peers by name; never this node itself."""

    def __init__(
        self,
        name: str,
        region: str,
        carrier: Carrier,
        certificates: Callable[[], LoadedCertificates],
        held: Callable[[], Iterable[TunnelInfo]],
        *,
        on_refused: Callable[[], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """`held` are this node's tunnels, as its siblings are told of them; `on_refused` is told when there
        are more nodes, or certificates, to refuse."""
        self._on_refused = on_refused
        self._name = name
        self._region = region
        self._carrier = carrier
        self._certificates = certificates
        self._held = held
        self._tasks = Tasks("mesh", on_failure)
        self._peers: dict[str, Peer] = {}
        self._removed: frozenset[str] = frozenset()
        self._certified_since: dict[str, int] = {}  # older certificates with these names are another's

    def __len__(self) -> int:
        return len(self._peers)

    def get(self, name: str) -> Peer | None:
        return self._peers.get(name)

    def pool_of(self, name: str) -> Pool | None:
        """What leads to a node."""
        peer = self._peers.get(name)
        return None if peer is None else peer.pool

    def answers(self, name: str) -> bool:
        """Whether it is heard from now."""
        peer = self._peers.get(name)
        return peer is not None and peer.control.up

    def counts(self) -> dict[str, PeerCounts]:
        """Each node by its name, for metrics."""
        lanes = ((name, peer, peer.pool.counts) for name, peer in self._peers.items())
        return {name: PeerCounts(peer.control.up, counts.idle, counts.busy) for name, peer, counts in lanes}

    def of_region(self, region: str) -> list[Peer]:
        return [peer for peer in self._peers.values() if peer.info.region == region]

    def refusal(self, identity: NodeIdentity) -> str:
        """Why nothing of who shows this certificate is believed or served; empty when it is."""
        if identity.node in self._removed:
            return "its node was removed"
        if identity.issued_ms < self._certified_since.get(identity.node, 0):
            return "its name went to another node since its certificate was made"
        peer = self._peers.get(identity.node)
        if peer is not None and identity.region not in ("", peer.info.region):
            return "its certificate is of another region"
        return ""

    def update(
        self, nodes: Iterable[NodeInfo], removed: Iterable[str] = (), certified_since: Mapping[str, int] | None = None
    ) -> None:
        """The whole list, from a registry; the last is by name, in milliseconds since 1970."""
        refused_before = self._removed, self._certified_since
        self._removed, self._certified_since = frozenset(removed), dict(certified_since or {})
        for name in self._removed & self._peers.keys():
            self._peers.pop(name).retire()
        if refused_before != (self._removed, self._certified_since):
            self._on_refused()
        listed = {node.name: node for node in nodes if node.name != self._name}
        for name, peer in list(self._peers.items()):
            if name not in listed and not peer.in_use:
                del self._peers[name]
                peer.retire()
        for node in listed.values():
            self.learn(node)

    def learn(self, node: NodeInfo) -> Peer | None:
        """One node; None for this one."""
        if node.name == self._name or node.name in self._removed:
            return None
        before = self._peers.get(node.name)
        if before is not None and before.reached_as(node):
            before.info = node
            return before
        if before is not None:
            before.retire()
        return self._dial(node)

    def certificates_changed(self) -> None:
        """Lanes are dialled with the new ones from now on; those that are up stay, with all that they carry."""
        for peer in self._peers.values():
            peer.certified(self._certificates())

    def _dial(self, node: NodeInfo) -> Peer:
        # Siblings are told what this node holds; others ask a registry.
        whole = self._held if node.region == self._region else None
        peer = self._peers[node.name] = Peer(node, self._carrier, self._certificates(), self._tasks, whole)
        return peer

    def tell_siblings(self, bound: TunnelInfo | None, gone: Gone | None) -> None:
        """A change, to the nodes of this region: a fresh name works there at once."""
        routes = Routes(bound=[] if bound is None else [bound], gone=[] if gone is None else [gone])
        for peer in self.of_region(self._region):
            peer.control.tell(routes)

    def tell_gone(self, gone: Gone, names: Iterable[str]) -> None:
        """To those of these nodes that are of other regions: their visitors came for it, so they have a route."""
        for name in names:
            peer = self._peers.get(name)
            if peer is not None and peer.info.region != self._region:
                peer.control.tell(Routes(gone=[gone]))

    def unacknowledged(self) -> list[asyncio.Future[None]]:
        """For each sibling that does not listen yet on the raw ports that it was told of: done when it does."""
        waiting = (peer.control.unacknowledged() for peer in self.of_region(self._region))
        return [future for future in waiting if future is not None]

    def is_sibling(self, name: str) -> bool:
        peer = self._peers.get(name)
        return peer is not None and peer.info.region == self._region

    async def ask_region(self, region: str, label: str, also: str | None) -> list[tuple[str, Answer]]:
        """Ask every node of a region that is heard from, and the node `also`, each for itself; none of the answers is
        proved yet.

        A node that is slow, or silent, is not waited for longer than the others need. Cancelled, nothing is left.
        """
        peers = {peer.info.name: peer for peer in self.of_region(region)}
        if also is not None and also in self._peers:
            peers[also] = self._peers[also]
        asked = {
            self._tasks.spawn(peer.control.ask(label), name="ask a node"): name
            for name, peer in peers.items()
            if peer.control.up
        }
        if not asked:
            return []
        try:
            done, _ = await asyncio.wait(asked, timeout=_ANSWERED_WITHIN)
        finally:
            for task in asked:
                task.cancel()
        answers = ((asked[task], task.result()) for task in done if not task.cancelled())
        return [(node, answer) for node, answer in answers if answer is not None]

    async def close(self) -> None:
        for peer in self._peers.values():
            peer.retire()
        await self._tasks.close()
