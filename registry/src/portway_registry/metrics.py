"""The registry's metrics in the text format of Prometheus.

Plain integers that are read at each scrape. No tunnel's label, token or address is ever a metric's label.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from grpc import StatusCode
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from portway_registry.net.front import Front
from portway_registry.nodes.hub import Hub
from portway_registry.placement.reports import Reports
from portway_registry.state.store_reach import StoreReach
from portway_registry.state.views import Views


class CallCounts:
    """Finished calls by method and status."""

    def __init__(self) -> None:
        self.by_method: Counter[tuple[str, str]] = Counter()

    def count(self, method: str, code: StatusCode) -> None:
        self.by_method[method, code.name] += 1


@dataclass(frozen=True, slots=True)
class AcmeCounts:
    """Certificates that the registry obtains: failures since the last success by zone, what this replica has done, and
    whether it is its turn."""

    failures: Mapping[str, int]
    outcomes: Mapping[str, int]
    has_turn: bool


class _Cluster(Collector):
    def __init__(
        self,
        calls: CallCounts,
        views: Views,
        hub: Hub,
        reach: StoreReach,
        reports: Reports,
        fronts: Mapping[str, Front],
        certificate_ends: Mapping[str, float],
        acme: AcmeCounts | None,
    ) -> None:
        self._reach = reach
        self._acme = acme
        self._certificate_ends = certificate_ends
        self._fronts = fronts
        self._calls = calls
        self._views = views
        self._hub = hub
        self._reports = reports

    def collect(self) -> Iterator[Metric]:
        calls = CounterMetricFamily("portway_registry_calls", "gRPC calls that have ended", labels=("method", "code"))
        yield _filled(calls, self._calls.by_method.items())
        yield GaugeMetricFamily("portway_registry_sessions", "nodes with a stream here", value=self._hub.sessions)
        yield GaugeMetricFamily(
            "portway_registry_store_away", "whether this registry does not reach its store", value=self._reach.away
        )
        nodes = Counter(node.region for node in self._views.nodes.values())
        by_region = GaugeMetricFamily("portway_registry_nodes", "nodes known", labels=("region",))
        yield _filled(by_region, (((region,), number) for region, number in nodes.items()))
        tunnels = len(self._views.tunnels.items)
        yield GaugeMetricFamily("portway_registry_tunnels", "tunnels known", value=tunnels)
        yield from self._connections()
        ends = GaugeMetricFamily(
            "portway_registry_certificate_end_timestamp_seconds",
            "Unix time at which a certificate ends",
            labels=("certificate",),
        )
        yield _filled(ends, (((name,), end) for name, end in self._certificate_ends.items()))
        if self._acme is not None:
            yield from _acme(self._acme)
        reported = CounterMetricFamily(
            "portway_registry_round_trips_reported", "round trips that clients reported", labels=("outcome",)
        )
        yield _filled(reported, (((outcome,), number) for outcome, number in self._reports.outcomes.items()))
        prefixes = len(self._reports.round_trips)
        yield GaugeMetricFamily("portway_registry_learned_prefixes", "prefixes with known round trips", value=prefixes)

    def _connections(self) -> Iterator[Metric]:
        """Of each port, by the setting that names its address."""
        accepted = CounterMetricFamily("portway_registry_connections_accepted", "connections", labels=("port",))
        stages = GaugeMetricFamily("portway_registry_connections", "connections by stage", labels=("port", "stage"))
        ended = CounterMetricFamily(
            "portway_registry_connections_ended", "connections that the registry ended", labels=("port", "reason")
        )
        for port, front in self._fronts.items():
            accepted.add_metric((port,), front.arrivals.accepted)
            for stage, number in front.connections().items():
                stages.add_metric((port, stage), number)
            for reason, number in front.ended().items():
                ended.add_metric((port, reason), number)
        yield from (accepted, stages, ended)


def _acme(counts: AcmeCounts) -> Iterator[Metric]:
    failing = GaugeMetricFamily(
        "portway_registry_certificate_failures",
        "tries to obtain or renew a certificate that failed since the last success",
        labels=("zone",),
    )
    yield _filled(failing, (((zone,), number) for zone, number in counts.failures.items()))
    done = CounterMetricFamily(
        "portway_registry_certificate_orders", "what this registry's tries came to", labels=("outcome",)
    )
    yield _filled(done, (((outcome,), number) for outcome, number in counts.outcomes.items()))
    yield GaugeMetricFamily(
        "portway_registry_certificate_turn", "whether this registry obtains certificates now", value=counts.has_turn
    )


def _filled(
    family: CounterMetricFamily | GaugeMetricFamily, numbers: Iterable[tuple[tuple[str, ...], float]]
) -> Metric:
    """The family with a number for each of these values of its labels."""
    for labels, number in numbers:
        family.add_metric(labels, number)
    return family


def exposition(
    calls: CallCounts,
    views: Views,
    hub: Hub,
    reach: StoreReach,
    reports: Reports,
    fronts: Mapping[str, Front],
    certificate_ends: Mapping[str, float],
    acme: AcmeCounts | None = None,
) -> bytes:
    """The page that Prometheus scrapes; `fronts` of the ports, by the settings that name their addresses.
    `certificate_ends`: Unix times. `acme`: None when no certificates are obtained."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Cluster(calls, views, hub, reach, reports, fronts, certificate_ends, acme))
    return generate_latest(registry)
