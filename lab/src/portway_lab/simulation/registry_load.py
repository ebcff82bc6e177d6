"""The load of the registry and its store: the cost of each event (registry_costs.py) times its rate.

Steady state: tunnels open and close, clients renew their grants and presences, nodes send KeepAlive. A region's death:
the requests of the simulated clients by second, and the leases that ended. Resolve is left out: it depends on visitors,
which are not simulated.
"""

import math
from dataclasses import dataclass
from typing import Final

from portway_proto.v1.discovery_pb2 import Candidate, LocateResponse
from portway_proto.v1.types_pb2 import NodeInfo
from portway_proto.wire.limits import PRESENCE_INTERVAL
from portway_registry.nodes.hub import PEERS_GATHERED
from portway_registry.services.discovery import CANDIDATES

from portway_lab.simulation.assumptions import TUNNEL_LIFE_SECONDS
from portway_lab.simulation.fleet import KEEP_ALIVE_SECONDS
from portway_lab.simulation.homecoming import looks_of_a_session
from portway_lab.simulation.registry_costs import Cost, Costs, peers_bytes
from portway_lab.simulation.storm import Death

_CA_BYTES: Final = 800  # a P-256 certificate in PEM


@dataclass(frozen=True, slots=True)
class RegistryLoad:
    """Per second, for all replicas together; watch events go to each replica."""

    locates: float
    renewals: float
    node_messages: float
    client_bytes: float  # answers
    node_bytes: float  # both ways
    store_reads: float
    store_transactions: float
    store_writes: float
    store_lease_calls: float
    store_written_bytes: float
    events: float  # to each replica
    event_bytes: float


@dataclass(frozen=True, slots=True)
class PeerLists:
    """The lists of nodes that the registry sends during a region's death: the whole list to each node each time."""

    one_list_bytes: int
    rounds: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Rates:
    """Events per second."""

    locates: float = 0.0
    renewals: float = 0.0
    keep_alives: float = 0.0
    notable: float = 0.0  # of the keep-alives
    binds: float = 0.0
    moves: float = 0.0  # binds of tunnels whose record at the dead node is still there
    withdrawals: float = 0.0
    presences: float = 0.0  # renewed
    deletes: float = 0.0  # records that end with a lease


def steady_rates(tunnels: int, nodes: int, notable_share: float) -> Rates:
    """With one tunnel for each session, which is the highest rate for a number of tunnels.

    A session looks for a nearer node with Locate, whose grant comes before the one before is to be renewed.
    """
    opened = tunnels / TUNNEL_LIFE_SECONDS
    keep_alives = nodes / KEEP_ALIVE_SECONDS
    return Rates(
        locates=opened * (1 + looks_of_a_session(TUNNEL_LIFE_SECONDS)),
        keep_alives=keep_alives,
        notable=keep_alives * notable_share,
        binds=opened,
        withdrawals=opened,
        presences=tunnels / PRESENCE_INTERVAL,
    )


def worst_second(death: Death, steady: Rates) -> Rates:
    """The second with the most binds, in addition to the steady state."""
    second = max(death.binds, key=lambda one: death.binds[one])
    return Rates(
        locates=steady.locates + max(death.locates.values(), default=0),
        renewals=steady.renewals,
        keep_alives=steady.keep_alives,
        notable=steady.keep_alives,  # the worst case: every count has changed by more than a tenth
        binds=steady.binds,
        moves=death.binds[second],
        withdrawals=steady.withdrawals,
        presences=steady.presences,
        deletes=max(death.deletes.values(), default=0),
    )


def registry_load(rates: Rates, costs: Costs, info: NodeInfo) -> RegistryLoad:
    """With a batch for each bind: nodes announce at once, and gather binds only while the store is slow."""
    parts: list[tuple[float, Cost]] = [
        (rates.keep_alives - rates.notable, costs.keep_alive),
        (rates.notable, costs.keep_alive_notable),
        (rates.binds, costs.bind),
        (rates.moves, costs.move),
        (rates.withdrawals, costs.withdraw),
        (rates.presences, costs.renew),
    ]
    located = locate_bytes(costs, info)
    deleted_bytes = costs.lease_end.store.event_bytes / costs.lease_end.store.events
    return RegistryLoad(
        locates=rates.locates,
        renewals=rates.renewals,
        node_messages=rates.keep_alives + rates.binds + rates.moves + rates.withdrawals + rates.presences,
        client_bytes=rates.locates * located + rates.renewals * costs.grant_bytes,
        node_bytes=sum(rate * (cost.received_bytes + cost.sent_bytes) for rate, cost in parts),
        store_reads=sum(rate * cost.store.reads for rate, cost in parts),
        store_transactions=sum(rate * cost.store.transactions for rate, cost in parts),
        store_writes=sum(rate * cost.store.writes for rate, cost in parts) + rates.deletes,
        store_lease_calls=sum(rate * cost.store.lease_calls for rate, cost in parts),
        store_written_bytes=sum(rate * cost.store.written_bytes for rate, cost in parts),
        events=sum(rate * cost.store.events for rate, cost in parts) + rates.deletes,
        event_bytes=sum(rate * cost.store.event_bytes for rate, cost in parts) + rates.deletes * deleted_bytes,
    )


def locate_bytes(costs: Costs, info: NodeInfo) -> int:
    """The size of an answer to Locate."""
    answer = LocateResponse(
        candidates=[Candidate(node=info, expected_rtt_ms=12.3, distance_km=456.7)] * CANDIDATES,
        cluster_ca=bytes(_CA_BYTES),
        client_country="DE",
    )
    return answer.ByteSize() + costs.grant_bytes


def peer_lists(death: Death, infos: list[NodeInfo]) -> PeerLists:
    """Nodes whose leases end within one gathering interval make one list."""
    rounds = len({math.floor(at / PEERS_GATHERED) for at in death.leases_ended})
    one = peers_bytes(infos)
    return PeerLists(one, rounds, rounds * one * len(infos))
