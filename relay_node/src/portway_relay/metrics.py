"""A node's metrics in Prometheus' form: plain integers, read at each scrape.

No tunnel's label, token, tenant or visitor's address is ever a metric's label. The README of this distribution lists
every metric.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from portway_carrier.values import Counters
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from portway_relay.dns.server import NO_COUNTS, DnsCounts
from portway_relay.mesh.peers import PeerCounts


@dataclass(frozen=True, slots=True)
class MeshCounts:
    """A node's lanes, routes and visits to and from other nodes."""

    peers: Mapping[str, PeerCounts]  # by the other node's name
    inbound_lanes: int  # dialled by other nodes
    routes: int
    lookups: Mapping[tuple[str, str], int]  # by source of the answer and outcome
    forwards: Mapping[str, int]  # by outcome
    handshakes: int  # in progress, of other nodes' lanes


@dataclass(frozen=True, slots=True)
class NodeCounts:
    """Everything that a node counts, at one time."""

    sessions: int
    sessions_away: int
    tunnels: int
    visits: int
    half_open: int
    greeting: int  # clients' lanes before their first frame
    raw_ports_held: int
    raw_ports_resting: int
    registry_connected: bool
    certificate_ends: Mapping[str, float]  # Unix times, by zone and `node`
    lacking_regions: Collection[str]  # that there is no certificate for
    connections: int  # accepted at the public port since the start
    accept_pauses: int
    rejected: Mapping[str, int]  # connections, by reason
    outcomes: Mapping[str, int]  # of visits
    passages: int  # connections for the registry, in progress
    passage_outcomes: Mapping[str, int]
    passage_bytes: tuple[int, int]  # to registries and from them, of passages that have ended
    handshakes: int  # in progress, of clients' lanes
    signatures_unchecked: Mapping[str, int]  # by kind of sender
    mesh: MeshCounts
    carrier: Counters
    dns: DnsCounts = NO_COUNTS


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
            "half_open_connections": ("connections whose destination is not known yet", counts.half_open),
            "passages": ("connections for the registry that are passed on, in progress", counts.passages),
            "greeting_lanes": ("client lanes whose first frame is awaited", counts.greeting),
            "raw_ports_held": ("raw TCP ports of tunnels", counts.raw_ports_held),
            "raw_ports_resting": ("raw TCP ports that rest after their release", counts.raw_ports_resting),
            "registry_connected": ("1 while a registry has this node registered", int(counts.registry_connected)),
        }
        yield from _gauges(gauges)
        ends = _gauge("certificate_end_timestamp_seconds", "Unix time at which a certificate ends", "certificate")
        for name, end in counts.certificate_ends.items():
            ends.add_metric((name,), end)
        yield ends
        lacking = _gauge("region_certificate_missing", "1 for each region without a certificate here", "region")
        for region in counts.lacking_regions:
            lacking.add_metric((region,), 1)
        yield lacking
        totals = {
            "connections": ("connections accepted at the public port and the plain HTTP port", counts.connections),
            "accept_pauses": ("pauses of accepting, for want of descriptors", counts.accept_pauses),
            "handshakes": ("TLS handshakes", carrier.handshakes),
            "handshakes_failed": ("TLS handshakes that failed", carrier.handshakes_failed),
            "lanes_opened": ("lanes opened", carrier.lanes_opened),
            "lanes_closed": ("lanes closed", carrier.lanes_closed),
            "visits_started": ("visits started", carrier.visits_started),
            "received_bytes": ("bytes from visitors", carrier.bytes_in),
            "sent_bytes": ("bytes to visitors", carrier.bytes_out),
        }
        yield from _totals(totals)
        yield _by("turned_away", "connections turned away", "reason", counts.rejected)
        yield _by("visits_ended", "visits ended", "outcome", counts.outcomes)
        yield _by("passages_ended", "connections for the registry that have ended", "outcome", counts.passage_outcomes)
        to_registries, from_registries = counts.passage_bytes
        passed = CounterMetricFamily(
            "portway_relay_passages_bytes", "bytes of those that have ended", labels=("direction",)
        )
        passed.add_metric(("to_registry",), to_registries)
        passed.add_metric(("from_registry",), from_registries)
        yield passed
        yield _by(
            "signatures_unchecked",
            "signatures above their sender's rate, not checked",
            "of",
            counts.signatures_unchecked,
        )
        handshakes = _gauge("lane_handshakes", "TLS handshakes of lanes in progress", "of")
        handshakes.add_metric(("client",), counts.handshakes)
        handshakes.add_metric(("node",), counts.mesh.handshakes)
        yield handshakes
        yield from _mesh(counts.mesh)
        yield from _dns(counts.dns)


def _mesh(counts: MeshCounts) -> Iterator[Metric]:
    up = _gauge("mesh_peer_up", "1 while the control lane to another node is up", "peer")
    lanes = _gauge("mesh_lanes", "lanes dialled to another node", "peer", "state")
    for name, peer in counts.peers.items():
        up.add_metric((name,), int(peer.up))
        lanes.add_metric((name, "idle"), peer.idle)
        lanes.add_metric((name, "busy"), peer.busy)
    yield up
    yield lanes
    gauges = {
        "mesh_lanes_taken": ("lanes that other nodes dialled to this one", counts.inbound_lanes),
        "routes": ("remembered labels of other nodes", counts.routes),
    }
    yield from _gauges(gauges)
    lookups = CounterMetricFamily(
        "portway_relay_lookups", "lookups of labels, by source of the answer", labels=("answered_by", "outcome")
    )
    for key, number in counts.lookups.items():
        lookups.add_metric(key, number)
    yield lookups
    yield _by("forwards", "visits sent to other nodes or taken from them", "outcome", counts.forwards)


def _dns(counts: DnsCounts) -> Iterator[Metric]:
    yield _by("dns_queries", "DNS queries", "transport", counts.queries)
    yield _by("dns_answers", "DNS answers", "code", counts.answers)
    yield _by("dns_unanswered", "DNS queries not answered, or only asked to come over TCP", "reason", counts.unanswered)
    totals = {
        "dns_pauses": ("pauses of DNS, whose share of the event loop was used up", counts.pauses),
        "dns_seconds": ("seconds of the event loop that DNS took", counts.seconds),
    }
    yield from _totals(totals)
    gauges = {
        "dns_connections": ("connections of DNS over TCP", counts.connections),
        "dns_records_version": ("version of the DNS records, 0 before a registry listed them", counts.version),
    }
    yield from _gauges(gauges)


def exposition(counts: NodeCounts) -> bytes:
    """The page that Prometheus scrapes."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Node(counts))
    return generate_latest(registry)


def _gauge(name: str, description: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"portway_relay_{name}", description, labels=labels)


def _gauges(values: Mapping[str, tuple[str, float]]) -> Iterator[Metric]:
    """By name: what it is, and its value."""
    for name, (description, value) in values.items():
        yield GaugeMetricFamily(f"portway_relay_{name}", description, value=value)


def _totals(values: Mapping[str, tuple[str, float]]) -> Iterator[Metric]:
    """By name: what is counted, and how much there was since the start."""
    for name, (description, value) in values.items():
        yield CounterMetricFamily(f"portway_relay_{name}", description, value=value)


def _by(name: str, description: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"portway_relay_{name}", description, labels=(label,))
    for value, number in values.items():
        family.add_metric((value,), number)
    return family
