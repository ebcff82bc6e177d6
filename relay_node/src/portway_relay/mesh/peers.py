"""The other nodes that a registry listed, the lanes that this node dials to each, and asking or telling all of them.

Here: when a node is dialled and when no more, which certificates are refused. Not here: the frames of a control lane
(control_lane.py), lanes that other nodes dial (inbound_lanes.py).
"""

import asyncio
import heapq
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from portway_carrier.contract import Carrier, Pool
from portway_carrier.errors import CarrierError
from portway_carrier.values import ClientTls, DialTarget, SpareSizes
from portway_proto.records import MAX_LINKS, InvalidRecord, node_record
from portway_proto.v1.lane_pb2 import Answer, Routes
from portway_proto.v1.lane_pb2 import Peer as PeerHello
from portway_proto.v1.types_pb2 import NODE_STATE_READY, MeshLink, NodeInfo, NodeState, TunnelInfo
from portway_proto.wire.frames import FrameType
from portway_proto.wire.lane import Side
from portway_proto.wire.limits import MESH_ALPN, PROTOCOL_VERSION
from portway_proto.wire.statements import Presence
from portway_runtime.clocks import Monotonic
from portway_runtime.endpoints import Endpoint
from portway_runtime.identities import NodeIdentity
from portway_runtime.rates import TokenBucket
from portway_runtime.tasks import Tasks

from portway_relay.certificates import LoadedCertificates
from portway_relay.mesh.control_lane import ControlLane
from portway_relay.mesh.frame_budgets import PeerBudget, PeerBudgets

logger = logging.getLogger(__name__)

# One warm lane for the first visitor after a pause, more once visitors come: the number of lanes in a mesh grows with
# the square of its nodes. A visitor waits no longer than 2 s for a node, for another one may have the tunnel by now.
SIZES: Final = SpareSizes(quiet=1, busy=8, wait=2.0)
# Seconds until a question is given up: twice the longest round trip on Earth.
_ANSWERED_WITHIN: Final = 1.0
# Questions per second, and at once, to nodes of other regions than the label's: a tenth of a core here, and as much at
# each node if all of them ask. In a mesh of 100 nodes 20 labels a second.
_FAR_QUESTIONS: Final = 2_000


@dataclass(frozen=True, slots=True)
class PeerCounts:
    """Whether the control lane to a node is up, and how many lanes for visits this node has dialled to it."""

    up: bool
    idle: int
    busy: int


class Peer:
    """One other node: where it is, a pool of lanes for visits to it, and the control lane to it."""

    def __init__(
        self,
        info: NodeInfo,
        carrier: Carrier,
        loaded: LoadedCertificates,
        budget: PeerBudget,
        tasks: Tasks,
        held: Callable[[], Iterable[TunnelInfo | Presence]] | None,
        state: Callable[[], "NodeState.ValueType"],
    ) -> None:
        """Dial the node now. `budget`, `tasks`, `held` and `state` are the control lane's."""
        self.info = info
        self.pool: Pool = carrier.dialling_pool(
            self._target(loaded, control=False), Side.OPENER, SIZES, self._dial_failed
        )
        target = self._target(loaded, control=True)
        self.control = ControlLane(info.name, carrier, target, budget, tasks, held, state)

    def is_reached_as(self, info: NodeInfo) -> bool:
        """Whether `info` has the address, the server name and the region of this peer."""
        mine = self.info
        return (mine.host, mine.port, mine.server_name, mine.region) == (
            info.host,
            info.port,
            info.server_name,
            info.region,
        )

    @property
    def in_use(self) -> bool:
        """Whether any lane to it is up."""
        counts = self.pool.counts
        return self.control.up or counts.idle + counts.busy > 0

    def use_certificates(self, loaded: LoadedCertificates) -> None:
        """Dial with these from now on; lanes that are up stay up."""
        self.pool.aim(self._target(loaded, control=False))
        self.control.aim(self._target(loaded, control=True))

    def retire(self) -> None:
        """Dial it no more, and close its lanes as they become idle."""
        self.control.close()
        self.pool.retire()

    def _dial_failed(self, error: CarrierError) -> None:
        logger.debug("a mesh lane could not be dialled", extra={"peer": self.info.name, "reason": str(error)})

    def _target(self, loaded: LoadedCertificates, *, control: bool) -> DialTarget:
        info, node = self.info, loaded.node
        tls = ClientTls(loaded.ca, info.server_name, MESH_ALPN, node.chain, node.key)
        hello = PeerHello(version=PROTOCOL_VERSION, control=control)
        return DialTarget(Endpoint(info.host, info.port), tls, (FrameType.PEER, hello.SerializeToString()))


class Peers:
    """The other nodes by name; never this node itself.

    Absence from a registry's list never removes a route: a node that is not listed any more is kept while a lane to it
    is up.
    """

    def __init__(
        self,
        name: str,
        region: str,
        carrier: Carrier,
        certificates: Callable[[], LoadedCertificates],
        budgets: PeerBudgets,
        held: Callable[[], Iterable[TunnelInfo | Presence]],
        *,
        clock: Monotonic,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """`name` and `region` are this node's. `held` gives what its siblings are to know: the
        presences of its sessions, then its tunnels."""
        self._name = name
        self._region = region
        self._carrier = carrier
        self._certificates = certificates
        self._budgets = budgets
        self._held = held
        self._tasks = Tasks("mesh", on_failure)
        self._far_questions = TokenBucket(_FAR_QUESTIONS, _FAR_QUESTIONS, clock)
        self.registry_away = True  # no registry can be asked
        self._updated: list[Callable[[], None]] = []
        self._peers: dict[str, Peer] = {}
        self._removed: frozenset[str] = frozenset()
        self._state: NodeState.ValueType = NODE_STATE_READY  # this node's
        self._issued_since: dict[str, int] = {}  # by node: certificates that were issued before this time are refused

    def __len__(self) -> int:
        return len(self._peers)

    @property
    def regions(self) -> set[str]:
        """The regions of all nodes, this one's among them."""
        return {self._region, *(peer.info.region for peer in self._peers.values())}

    def subscribe(self, updated: Callable[[], None]) -> None:
        """Call `updated` after each list of a registry."""
        self._updated.append(updated)

    def all(self) -> list[Peer]:
        """Every node that is known."""
        return list(self._peers.values())

    # One node.

    def get(self, name: str) -> Peer | None:
        return self._peers.get(name)

    def pool_of(self, name: str) -> Pool | None:
        """The lanes for visits to a node; None for one that is not known."""
        peer = self._peers.get(name)
        return None if peer is None else peer.pool

    def answers(self, name: str) -> bool:
        """Whether the control lane to a node is up."""
        peer = self._peers.get(name)
        return peer is not None and peer.control.up

    def down_for(self, name: str) -> float:
        """Seconds since the control lane to a node was up; 0.0 while it is. Infinite for an unknown node."""
        peer = self._peers.get(name)
        return math.inf if peer is None else peer.control.down_for

    def hear_state(self, name: str, state: "NodeState.ValueType") -> None:
        """A node has told its own state, which counts until a registry lists it anew."""
        peer = self._peers.get(name)
        if peer is not None:
            info = NodeInfo()
            info.CopyFrom(peer.info)
            info.state = state
            peer.info = info

    def is_sibling(self, name: str) -> bool:
        """Whether it is a known node of this region."""
        peer = self._peers.get(name)
        return peer is not None and peer.info.region == self._region

    def refusal(self, identity: NodeIdentity) -> str:
        """Why the holder of a certificate is neither believed nor served; empty when it is."""
        if identity.node in self._removed:
            return "its node was removed"
        if identity.issued_ms < self._issued_since.get(identity.node, 0):
            return "its name was given to another node after its certificate was issued"
        peer = self._peers.get(identity.node)
        if peer is not None and identity.region not in ("", peer.info.region):
            return "its certificate is for another region"
        return ""

    # The registry's list.

    def update(
        self, nodes: Iterable[NodeInfo], removed: Iterable[str] = (), certified_since: Mapping[str, int] | None = None
    ) -> bool:
        """Take up a registry's whole list.

        Returns whether `refusal` may answer differently now, so that inbound lanes must be checked again.

        removed: nodes that are refused from now on.
        certified_since: by node, the time (milliseconds since the Unix epoch) before which certificates with that name
            were issued to another node.
        """
        refused_before = self._removed, self._issued_since
        self._removed, self._issued_since = frozenset(removed), dict(certified_since or {})
        for name in self._removed & self._peers.keys():
            self._peers.pop(name).retire()
        listed = {node.name: node for node in nodes if node.name != self._name}
        for name, peer in list(self._peers.items()):
            if name not in listed and not peer.in_use:
                del self._peers[name]
                peer.retire()
        for node in listed.values():
            self.learn(node)
        for updated in self._updated:
            updated()
        return refused_before != (self._removed, self._issued_since)

    def learn(self, node: NodeInfo) -> Peer | None:
        """Know one node more, or its new address; None for this node, for one that was removed, and for a record
        without its form, which changes nothing."""
        if node.name == self._name or node.name in self._removed:
            return None
        before = self._peers.get(node.name)
        if before is not None and before.info == node:
            return before
        try:
            node = node_record(node)
        except InvalidRecord as error:
            logger.warning("a node's record is refused", extra={"reason": str(error)})
            return before
        if before is not None and before.is_reached_as(node):
            before.info = node
            return before
        if before is not None:
            before.retire()
        # Siblings are told what this node holds; nodes of other regions ask a registry.
        held = self._held if node.region == self._region else None
        budget = self._budgets.control_lane(node.name)
        peer = self._peers[node.name] = Peer(
            node, self._carrier, self._certificates(), budget, self._tasks, held, lambda: self._state
        )
        return peer

    def certificates_changed(self) -> None:
        """Dial with the certificates of now from now on; lanes that are up stay up."""
        for peer in self._peers.values():
            peer.use_certificates(self._certificates())

    def counts(self) -> dict[str, PeerCounts]:
        """By node, for metrics."""
        lanes = ((name, peer, peer.pool.counts) for name, peer in self._peers.items())
        return {name: PeerCounts(peer.control.up, counts.idle, counts.busy) for name, peer, counts in lanes}

    def links(self) -> list[MeshLink]:
        """How the links to other nodes are: those that are down, then the slowest, MAX_LINKS at most."""
        links = (peer.control.link() for peer in self._peers.values())
        return heapq.nsmallest(MAX_LINKS, links, key=lambda one: (not one.failure, -one.round_trip_us, one.node))

    # Several nodes at once.

    def tell_state(self, state: "NodeState.ValueType") -> None:
        """This node's state: reported to every node now, if it has changed, and to each that is reached later."""
        if state != self._state:
            self._state = state
            for peer in self._peers.values():
                peer.control.tell(Routes(state=state))

    def tell_siblings(self, routes: Routes) -> None:
        """Report a change to the nodes of this region, so that a new name works there at once."""
        for peer in self._of_region(self._region):
            peer.control.tell(routes)

    def tell_far(self, routes: Routes, names: Iterable[str]) -> None:
        """Report a change to the named nodes of other regions: visitors of the tunnel came in there, so they have a
        route to it."""
        for name in names:
            peer = self._peers.get(name)
            if peer is not None and peer.info.region != self._region:
                peer.control.tell(routes)

    def unacknowledged(self) -> list[asyncio.Future[None]]:
        """One future for each sibling that does not listen yet on all raw ports that were reported to it, done when it
        does or is lost."""
        futures = (peer.control.unacknowledged() for peer in self._of_region(self._region))
        return [future for future in futures if future is not None]

    async def ask_region(self, region: str, label: str, also: str | None) -> list[tuple[str, Answer]]:
        """Ask the reachable nodes of a region, and the node `also`, for a label; each answers for itself. While no
        registry can be asked and none of them has it, ask all others, at a bounded rate: its client may have gone to
        another region.

        The answers, by node, are not verified yet. A node that does not answer in time is left out. May be cancelled.
        """
        near = {peer.info.name: peer for peer in self._of_region(region)}
        if also is not None and also in self._peers:
            near[also] = self._peers[also]
        answers = await self._ask(near.values(), label)
        if not self.registry_away or any(answer.HasField("tunnel") for _, answer in answers):
            return answers
        far = [peer for peer in self._peers.values() if peer.control.up and peer.info.name not in near]
        far = far[:_FAR_QUESTIONS]
        if self._far_questions.take(len(far)):
            answers += await self._ask(far, label)
        return answers

    async def _ask(self, peers: Iterable[Peer], label: str) -> list[tuple[str, Answer]]:
        """The answers of those that are reached and answer in time, by node."""
        asking = {
            self._tasks.spawn(peer.control.ask(label), name="ask a node"): peer.info.name
            for peer in peers
            if peer.control.up
        }
        if not asking:
            return []
        try:
            done, _ = await asyncio.wait(asking, timeout=_ANSWERED_WITHIN)
        finally:
            for task in asking:
                task.cancel()
        found = ((asking[task], task.result()) for task in done if not task.cancelled())
        return [(node, answer) for node, answer in found if answer is not None]

    async def close(self) -> None:
        """Close every lane that this node dialled, as it becomes idle."""
        for peer in self._peers.values():
            peer.retire()
        await self._tasks.close()

    def _of_region(self, region: str) -> list[Peer]:
        return [peer for peer in self._peers.values() if peer.info.region == region]
