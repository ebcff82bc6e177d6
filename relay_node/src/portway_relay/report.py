"""What a node reports of itself: to registries (NodeInfo) and to operators (counts). The one place that looks at every
part.
"""

from collections import Counter

from portway_proto.v1.types_pb2 import NodeInfo
from portway_runtime.descriptors import usage
from portway_runtime.service_manager import own_unit
from portway_runtime.version import VERSION

from portway_relay.dns.server import DnsServer
from portway_relay.lifecycle import Lifecycle
from portway_relay.metrics import MeshCounts, NodeCounts
from portway_relay.parts import Base, RawPortParts, Routing
from portway_relay.serving_parts import Serving


class Report:
    """Reads the parts of a node at the time of the call."""

    def __init__(
        self, base: Base, routing: Routing, raw: RawPortParts, serving: Serving, lifecycle: Lifecycle, dns: DnsServer
    ) -> None:
        self._base = base
        self._routing = routing
        self._raw = raw
        self._serving = serving
        self._lifecycle = lifecycle
        self._dns = dns
        self._unit = own_unit()

    def info(self) -> NodeInfo:
        """The node as registries and other nodes know it. Its port is open by then."""
        config, advertised = self._base.config, self._base.address.advertised
        loaded = self._base.certificates.current()
        used, limit = usage()
        first_end = self._base.expiry.first_end()
        return NodeInfo(
            name=config.name,
            region=config.region,
            host=advertised.host,
            port=advertised.port,
            server_name=config.server_name,
            version=VERSION,
            latitude=config.latitude,
            longitude=config.longitude,
            domain=config.domain,
            state=self._lifecycle.state,
            sessions=len(self._serving.sessions),
            tunnels=len(self._routing.tunnels),
            visits=self._routing.visits.running,
            max_sessions=config.limits.max_sessions,
            certificate_end_s=0 if first_end is None else int(first_end.timestamp()),
            lacking_regions=len(self._routing.lacking.zones),
            grant_keys=self._serving.grants.key_ids,
            authorities=loaded.authority_ids,
            certificate_authority=loaded.issuer,
            unaware_clients=self._serving.sessions.untold(loaded.authority_ids),
            addresses=config.public_addresses,
            dns=self._dns.on,
            zones=self._base.expiry.zones(),
            descriptors=limit,
            descriptors_used=used,
            links=self._routing.peers.links(),
            unit=self._unit,
        )

    def counts(self) -> NodeCounts:
        """What the metrics show."""
        routing, serving = self._routing, self._serving
        public, http, account = serving.public_port, serving.http_port.arrivals, self._raw.sockets.account
        return NodeCounts(
            sessions=len(serving.sessions),
            sessions_away=serving.sessions.away,
            tunnels=len(routing.tunnels),
            visits=routing.visits.running,
            half_open=public.half_open + http.half_open + self._raw.visitors.half_open,
            greeting=len(serving.greeter),
            raw_ports_held=account.held,
            raw_ports_resting=account.resting,
            registry_connected=routing.calls.connected,
            certificate_ends={name: end.timestamp() for name, end in self._base.expiry.ends().items()},
            lacking_regions=routing.lacking.regions,
            connections=public.arrivals.accepted + http.accepted,
            accept_pauses=public.arrivals.pauses + http.pauses,
            rejected=self._rejected(),
            outcomes=routing.visits.outcomes,
            passages=serving.passages.running,
            passage_outcomes=serving.passages.outcomes,
            passage_bytes=(serving.passages.bytes_in, serving.passages.bytes_out),
            handshakes=serving.greeter.handshakes,
            signatures_unchecked=routing.checks.unchecked,
            mesh=MeshCounts(
                peers=routing.peers.counts(),
                inbound_lanes=len(serving.inbound_lanes),
                routes=len(routing.routes),
                lookups=routing.lookup.answers,
                forwards=routing.visits.forwards,
                handshakes=serving.inbound_lanes.handshakes,
            ),
            carrier=self._base.carrier.counters,
            dns=self._dns.counts(),
        )

    def _rejected(self) -> dict[str, int]:
        serving, raw = self._serving, self._raw.visitors
        public, http = serving.public_port.arrivals, serving.http_port.arrivals
        ports = Counter(public.rejected) + http.rejected + raw.rejected
        return {
            "raw_rate": 0,
            **(ports + serving.plain_visitors.turned_away),
            "half_open": public.evicted + http.evicted + raw.evicted,
            "greetings": serving.greeter.rejected,
            "greetings_stalled": serving.greeter.evicted,
            "peers": serving.inbound_lanes.rejected,
            "peers_stalled": serving.inbound_lanes.evicted,
            "sessions_postponed": serving.sessions.postponed,
        }
