"""What connections and DNS queries come to: sessions, lanes, passages, ports and DNS servers, made of the other parts.

Here: composition alone. Nothing is opened or started. Not here: routing, raw ports and what all need (parts.py).
"""

from collections.abc import Callable
from dataclasses import dataclass

from portway_geo.database import open_locator
from portway_geo.errors import GeoError
from portway_proto.v1.types_pb2 import NodeInfo, NodeState
from portway_runtime.tasks import Tasks

from portway_relay.dns.authority import Authority
from portway_relay.dns.server import DnsServer
from portway_relay.dns.table import NodeTable
from portway_relay.errors import ConfigError
from portway_relay.ingress.decision import Alert
from portway_relay.ingress.http_port import HttpPort
from portway_relay.ingress.plain_visitors import PlainVisitors
from portway_relay.ingress.public_port import ConnectionHandlers, PublicPort
from portway_relay.mesh.announcer import TunnelAnnouncer
from portway_relay.mesh.inbound_lanes import InboundLanes
from portway_relay.mesh.requests import PeerRequests
from portway_relay.parts import Base, RawPortParts, Routing
from portway_relay.passages.checking import FrontCheck
from portway_relay.passages.fronts import Fronts
from portway_relay.passages.measuring import FrontMeasuring
from portway_relay.passages.passages import Passages
from portway_relay.raw_ports.token_rests import TokenRests
from portway_relay.routing.table import TunnelTable
from portway_relay.sessions.grants import GrantVerifier
from portway_relay.sessions.greeter import Greeter
from portway_relay.sessions.session_tunnels import SessionContext
from portway_relay.sessions.sessions import Sessions


@dataclass(frozen=True, slots=True)
class Serving:
    """What connections come to: clients' sessions, other nodes' lanes, the public port, the plain HTTP port."""

    grants: GrantVerifier
    table: TunnelTable
    sessions: Sessions
    session_tasks: Tasks
    greeter: Greeter
    inbound_lanes: InboundLanes
    fronts: Fronts
    measuring: FrontMeasuring
    passages: Passages
    public_port: PublicPort
    plain_visitors: PlainVisitors
    http_port: HttpPort


def build_serving(base: Base, routing: Routing, raw: RawPortParts) -> Serving:
    """The rules of claiming labels, then the sessions that claim them, then the ports that clients come to."""
    config, limits, carrier, certificates = base.config, base.config.limits, base.carrier, base.certificates
    grants = GrantVerifier(base.wall_clock, lambda: base.registry_clock.now_ms() / 1000)
    announcer = TunnelAnnouncer(routing.outbox, routing.peers, routing.routes, routing.describe)
    table = TunnelTable(
        routing.tunnels,
        routing.routes,
        raw.sockets,
        announcer,
        port_rests=TokenRests(limits.max_resting_ports_per_token, limits.port_rest, base.clock),
        max_visits=limits.max_visits_per_tunnel,
        clock=base.wall_clock,
    )
    session_tasks = Tasks("sessions", base.on_failure)
    context = SessionContext(
        config.name,
        limits,
        grants,
        table,
        routing.routes,
        routing.verification,
        routing.checks,
        announcer,
        raw.tickets,
        raw.owners,
        raw.addresses,
        base.address.public_address,
        session_tasks,
        base.clock,
        base.registry_clock,
    )
    sessions = Sessions(
        config,
        carrier,
        grants,
        context,
        certificates.own,
        wall_clock=base.wall_clock,
        is_memory_scarce=lambda: routing.memory.scarce,
    )
    greeter = Greeter(
        carrier,
        certificates.link_tls,
        sessions,
        time_limit=limits.greeting_time,
        capacity=limits.max_greetings,
        capacity_per_address=limits.max_greetings_per_address,
        clock=base.clock,
        on_failure=base.on_failure,
    )
    requests = PeerRequests(
        routing.peers,
        routing.tunnels,
        routing.routes,
        routing.verification,
        raw.siblings,
        routing.visits,
        routing.describe,
    )
    inbound_lanes = InboundLanes(
        carrier,
        certificates.mesh_tls,
        requests,
        base.peer_budgets,
        capacity=limits.max_greetings,
        capacity_per_address=limits.max_greetings_per_address,
        clock=base.clock,
        time_limit=limits.greeting_time,
        on_failure=base.on_failure,
    )
    plain_visitors = PlainVisitors(
        carrier,
        lambda: certificates.current().zones.keys(),
        lambda: base.address.public_address().port,
        max_answers=limits.max_half_open,
        clock=base.clock,
    )
    fronts = Fronts(base.clock)
    measuring = FrontMeasuring(fronts, carrier, on_failure=base.on_failure)
    passages = Passages(
        carrier,
        fronts,
        FrontCheck(fronts, carrier, lambda: certificates.current().ca, base.clock, on_failure=base.on_failure),
        config.name,
        limits,
        last_words=Alert.INTERNAL_ERROR.record,
        is_memory_scarce=lambda: routing.memory.scarce,
        clock=base.clock,
        registry_clock=base.registry_clock,
        on_failure=base.on_failure,
    )
    public_port = PublicPort(
        config,
        base.address,
        carrier,
        certificates.current,
        routing.lookup,
        ConnectionHandlers(
            routing.visits.start_tls, greeter.accept, inbound_lanes.accept, plain_visitors.answer, passages.begin
        ),
        rate=base.rate,
        handshakes=base.handshakes,
        has_just_started=lambda: not routing.first_seconds.over,
        is_memory_scarce=lambda: routing.memory.scarce,
        lacking=lambda: routing.lacking.zones,
        registry_name=lambda: passages.name,
        clock=base.clock,
        on_failure=base.on_failure,
    )
    http_port = HttpPort(config, plain_visitors, rate=base.rate, clock=base.clock)
    return Serving(
        grants,
        table,
        sessions,
        session_tasks,
        greeter,
        inbound_lanes,
        fronts,
        measuring,
        passages,
        public_port,
        plain_visitors,
        http_port,
    )


def build_dns(base: Base, routing: Routing, state: Callable[[], "NodeState.ValueType"]) -> DnsServer:
    """The DNS servers, which answer from the nodes of the mesh and this one. `state`: this node's. Raises
    ConfigError."""
    config = base.config

    def own() -> NodeInfo:
        return NodeInfo(
            name=config.name,
            region=config.region,
            state=state(),
            latitude=config.latitude,
            longitude=config.longitude,
            addresses=config.public_addresses,
            zones=base.expiry.zones(),
        )

    try:
        locator = open_locator(config.geoip)
    except GeoError as error:
        raise ConfigError(f"--geoip: {error}") from error
    table = NodeTable(own, routing.peers.all, config.domain)
    return DnsServer(
        config.dns_listen,
        Authority(
            config.domain,
            config.name,
            table,
            locator.locate,
            base.clock,
            other_region=config.dns_other_region == "yes",
        ),
        locator,
        config.limits,
        lambda: (routing.visits.running, base.carrier.counters.visits_started),
        base.clock,
        on_failure=base.on_failure,
    )
