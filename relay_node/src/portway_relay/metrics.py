"""What a node counts, in Prometheus' form.

Plain integers, read at scrape. No label, token or address is ever a metric's label.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from portway_proto.carry.contract import Counters
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector


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


def exposition(counts: NodeCounts) -> bytes:
    """The page that Prometheus scrapes."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Node(counts))
    return generate_latest(registry)


def _by(name: str, says: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"portway_relay_{name}", says, labels=(label,))
    for value, number in values.items():
        family.add_metric((value,), number)
    return family
