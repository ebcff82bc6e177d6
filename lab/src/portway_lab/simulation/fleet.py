"""The nodes, in their present state and as the registry's records have them.

A node sends its counts with each KeepAlive; its record is written when they have changed enough by the registry's own
rule, and placement reads the record. So clients are placed by counts that are seconds old, as in reality.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from portway.engine.directory import Node
from portway_geo.position import Position
from portway_proto.v1.types_pb2 import NODE_STATE_READY, NodeInfo
from portway_registry.config import Config
from portway_registry.nodes.node_changes import is_notable
from portway_registry.placement.order import spread_candidates
from portway_registry.placement.placed_nodes import placed_node
from portway_registry.placement.places import Places
from portway_registry.placement.round_trips import NOTHING, Learned
from portway_registry.placement.shortlist import Candidate
from portway_registry.services.discovery import CANDIDATES
from portway_relay.config import NodeLimits
from portway_relay.registry_link.stream import KEEP_ALIVES_A_LEASE
from portway_runtime.endpoints import Endpoint
from portway_runtime.identities import node_name
from portway_runtime.rates import Turns

from portway_lab.simulation.geography import Region

LEASE_SECONDS: Final = Config().lease_seconds
# The step of the simulation is one second; with a lease of 15 s this is 5.
KEEP_ALIVE_SECONDS: Final = max(1, round(LEASE_SECONDS / KEEP_ALIVES_A_LEASE))
_MIN_NODES_OF_REGION = 2  # with one, the death of a node would be that of its region


@dataclass(slots=True)
class FleetNode:
    """`live` is its present state, `stored` its record, which placement reads, `dialled` what clients know of it."""

    region: int
    live: NodeInfo
    stored: NodeInfo
    dialled: Node
    turns: Turns
    phase: int
    alive: bool = True


class Fleet:
    """All nodes by number. `now` is the time of the nodes, in seconds; `writes` counts records that were written."""

    def __init__(self, regions: Sequence[Region], nodes: int, *, max_sessions: int, rng: random.Random) -> None:
        self.regions = regions
        self.nodes: list[FleetNode] = []
        self.by_name: dict[str, int] = {}
        self.places = Places()
        self.now = 0.0
        self.keep_alives = 0
        self.writes = 0
        self._rng = rng
        self._max_sessions = max_sessions
        for region, count in enumerate(_shares([one.demand for one in regions], nodes)):
            for _ in range(count):
                self.add(region)

    def add(self, region: int) -> int:
        """Add a node to a region, with its record. Returns its number."""
        where = self.regions[region]
        number = len(self.nodes)
        name = f"{where.name}-{number}"
        info = NodeInfo(
            name=name,
            region=where.name,
            host=f"{name}.example.com",
            port=443,
            server_name=node_name(name),
            latitude=where.position.latitude,
            longitude=where.position.longitude,
            domain="tunnels.example.com",
            state=NODE_STATE_READY,
            max_sessions=self._max_sessions,
        )
        stored = NodeInfo()
        stored.CopyFrom(info)
        dialled = Node(name, where.name, Endpoint(info.host, info.port), info.server_name, info.domain)
        limits = NodeLimits()
        turns = Turns(limits.sessions_per_second, limits.session_burst, lambda: self.now)
        self.nodes.append(FleetNode(region, info, stored, dialled, turns, number % KEEP_ALIVE_SECONDS))
        self.by_name[name] = number
        self.places.put(placed_node(stored))
        return number

    def candidates(
        self, client: Position | None, learned: Learned = NOTHING, limit: int = CANDIDATES
    ) -> list[Candidate]:
        """The candidates that Locate would answer with now."""
        return spread_candidates(self.places, client, limit=limit, rng=self._rng, learned=learned)

    def admit(self, number: int) -> float | None:
        """Begin a session with one tunnel, by the rules for HELLO: limit of sessions, then rate.

        Returns None if it was accepted, else the seconds after which to try again, 0 if the node names none.
        """
        node = self.nodes[number]
        if 0 < node.live.max_sessions <= node.live.sessions:
            return 0.0
        wait = node.turns.take()
        if wait:
            return wait
        node.live.sessions += 1
        node.live.tunnels += 1
        return None

    def detach(self, number: int) -> None:
        live = self.nodes[number].live
        live.sessions -= 1
        live.tunnels -= 1

    def report(self, second: int) -> None:
        """Every living node whose KeepAlive is due in this second sends it."""
        for node in self.nodes[-second % KEEP_ALIVE_SECONDS :: KEEP_ALIVE_SECONDS]:
            if not node.alive:
                continue
            self.keep_alives += 1
            if is_notable(node.stored, node.live):
                self.writes += 1
                node.stored.CopyFrom(node.live)
                self.places.put(placed_node(node.stored))

    def forget(self, numbers: Iterable[int]) -> None:
        """Remove the nodes from placement: their leases have ended."""
        for number in numbers:
            self.places.remove(self.nodes[number].dialled.name)

    def of_region(self, region: int) -> list[int]:
        return [number for number, node in enumerate(self.nodes) if node.region == region]


def _shares(demand: Sequence[float], nodes: int) -> list[int]:
    """The number of nodes of each region: at least two, the others by demand, rounded by largest remainder.

    Raises ValueError when there are too few nodes for the regions.
    """
    spare = nodes - _MIN_NODES_OF_REGION * len(demand)
    if spare < 0:
        raise ValueError(
            f"{nodes} nodes are too few for {len(demand)} regions of {_MIN_NODES_OF_REGION}: name fewer regions"
        )
    exact = [share * spare for share in demand]
    counts = [_MIN_NODES_OF_REGION + int(share) for share in exact]
    by_remainder = sorted(range(len(demand)), key=lambda i: int(exact[i]) - exact[i])
    for i in by_remainder[: nodes - sum(counts)]:
        counts[i] += 1
    return counts
