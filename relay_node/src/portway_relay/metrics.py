"""What a node counts, in Prometheus' form.

Plain integers, read at scrape. No tunnel's label, no token, tenant or visitor's address is ever a metric's label;
what they mean is listed in the distribution's README.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from portway_carrier.contract import Counters
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from portway_relay.mesh.peers import PeerCounts


@dataclass(frozen=True, slots=True)
class MeshCounts:
    """What a node has to do with the others."""

    peers: Mapping[str, PeerCounts]  # by the node's name
    lanes_taken: int  # that other nodes dialled
    routes: int
    lookups: Mapping[tuple[str, str], int]  # by who answered and what
    forwards: Mapping[str, int]  # by what became of them
    handshakes: int  # of what may become other nodes' lanes


@dataclass(frozen=True, slots=True)
class NodeCounts:
    """A node as it stands."""

    sessions: int
    sessions_away: int
    tunnels: int
    visits: int
    half_open: int
    greeting: int
    raw_ports_held: int
    raw_ports_resting: int
    registry_connected: bool
    connections: int  # accepted at the public port, ever
    accept_pauses: int
    turned_away: Mapping[str, int]
    outcomes: Mapping[str, int]
    handshakes: int  # of what may become clients' lanes
    proofs_unchecked: Mapping[str, int]
    mesh: MeshCounts
    carrier: Counters


class _Node(Collector):
    def __init__(self, counts: NodeCounts) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        counts, carrier = self._counts, self._counts.carrier
        gauges = {
            "sessions": ("client sessions", counts.sessions),
            "sessions_away": ("client sessions that lost their connection and may resume", counts.sessions_away),
            "tunnels": ("tunnels bound here", counts.tunnels),
            "visits": ("visits in progress", counts.visits),
            "half_open_connections": ("connections whose ClientHello is awaited", counts.half_open),
            "greeting_lanes": ("client connections that have not said who they are", counts.greeting),
            "raw_ports_held": ("raw TCP ports of tunnels", counts.raw_ports_held),
            "raw_ports_resting": ("raw TCP ports that were let go a moment ago", counts.raw_ports_resting),
            "registry_connected": ("1 while a registry has this node registered", int(counts.registry_connected)),
        }
        for name, (says, value) in gauges.items():
            yield GaugeMetricFamily(f"portway_relay_{name}", says, value=value)
        totals = {
            "connections": ("connections accepted at the public port", counts.connections),
            "accept_pauses": ("times that accepting rested for want of descriptors", counts.accept_pauses),
            "handshakes": ("TLS handshakes", carrier.handshakes),
            "handshakes_failed": ("TLS handshakes that failed", carrier.handshakes_failed),
            "lanes_opened": ("lanes that came to be", carrier.lanes_opened),
            "lanes_closed": ("lanes that ended", carrier.lanes_closed),
            "visits_started": ("visits begun", carrier.visits_started),
            "received_bytes": ("bytes from visitors", carrier.bytes_in),
            "sent_bytes": ("bytes to visitors", carrier.bytes_out),
        }
        for name, (says, value) in totals.items():
            yield CounterMetricFamily(f"portway_relay_{name}", says, value=value)
        yield _by("turned_away", "connections turned away", "reason", counts.turned_away)
        yield _by("visits_ended", "visits that are over", "outcome", counts.outcomes)
        yield _by("proofs_unchecked", "proofs that cost more than whose they are may", "of", counts.proofs_unchecked)
        handshakes = _gauge("lane_handshakes", "lanes whose TLS handshake is in progress", "of")
        handshakes.add_metric(("client",), counts.handshakes)
        handshakes.add_metric(("node",), counts.mesh.handshakes)
        yield handshakes
        yield from _mesh(counts.mesh)


def _mesh(counts: MeshCounts) -> Iterator[Metric]:
    up = _gauge("mesh_peer_up", "1 while another node is heard from", "peer")
    lanes = _gauge("mesh_lanes", "lanes that were dialled to another node", "peer", "state")
    for name, peer in counts.peers.items():
        up.add_metric((name,), int(peer.up))
        lanes.add_metric((name, "idle"), peer.idle)
        lanes.add_metric((name, "busy"), peer.busy)
    yield up
    yield lanes
    gauges = {
        "mesh_lanes_taken": ("lanes that other nodes dialled", counts.lanes_taken),
        "routes": ("labels of other nodes' that are remembered", counts.routes),
    }
    for name, (says, value) in gauges.items():
        yield GaugeMetricFamily(f"portway_relay_{name}", says, value=value)
    lookups = CounterMetricFamily(
        "portway_relay_lookups", "labels looked up, by who answered", labels=("answered_by", "outcome")
    )
    for key, number in counts.lookups.items():
        lookups.add_metric(key, number)
    yield lookups
    yield _by("forwards", "visits sent to other nodes or taken from them", "outcome", counts.forwards)


def exposition(counts: NodeCounts) -> bytes:
    """The page that Prometheus scrapes."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Node(counts))
    return generate_latest(registry)


def _gauge(name: str, says: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"portway_relay_{name}", says, labels=labels)


def _by(name: str, says: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"portway_relay_{name}", says, labels=(label,))
    for value, number in values.items():
        family.add_metric((value,), number)
    return family
