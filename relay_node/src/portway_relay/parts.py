"""The parts of a node, made in the order in which they depend on each other; each builder returns a frozen bundle.

Here: composition alone. Nothing is opened or started. Not here: the parts that know all others, and the order in which
a node starts and stops (node.py).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from portway_carrier.contract import Carrier
from portway_carrier.select import make_carrier
from portway_carrier.values import Limits
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_runtime.clocks import Monotonic, WallClock
from portway_runtime.rates import AddressRate
from portway_runtime.shares import PrefixShares

from portway_relay.certificates import Certificates
from portway_relay.config import NodeConfig
from portway_relay.ingress.public_port import ConnectionHandlers, PublicPort
from portway_relay.ingress.raw_visitors import RawVisitors
from portway_relay.memory_limit import MIB, MemoryLimit
from portway_relay.mesh.announcer import TunnelAnnouncer, without_owner
from portway_relay.mesh.inbound_lanes import InboundLanes
from portway_relay.mesh.peers import Peers
from portway_relay.mesh.requests import PeerRequests
from portway_relay.net.node_address import NodeAddress
from portway_relay.raw_ports.account import PortAccount
from portway_relay.raw_ports.region_addresses import RegionAddresses
from portway_relay.raw_ports.reservation import PortReservation
from portway_relay.raw_ports.sibling_ports import SiblingClaims, SiblingPorts
from portway_relay.raw_ports.sockets import RawPorts
from portway_relay.raw_ports.tickets import Tickets
from portway_relay.raw_ports.token_rests import TokenRests
from portway_relay.registry_link.calls import RegistryCalls
from portway_relay.registry_link.label_questions import LabelQuestions
from portway_relay.registry_link.outbox import Outbox
from portway_relay.routing.lookup import Lookup
from portway_relay.routing.proofs import Proofs
from portway_relay.routing.routes import Routes
from portway_relay.routing.table import TunnelTable
from portway_relay.routing.tunnel import HeldTunnels, HomeNode, Tunnel
from portway_relay.sessions.grants import GrantVerifier
from portway_relay.sessions.greeter import Greeter
from portway_relay.sessions.session_tunnels import SessionContext
from portway_relay.sessions.sessions import Sessions
from portway_relay.visits import Visits

# Seconds for which a handshake that its peer has begun and not completed counts. A visitor far away needs half of one,
# with a lost packet two.
_HANDSHAKE_WINDOW: Final = 2.0


@dataclass(frozen=True, slots=True)
class Base:
    """What every part may need."""

    config: NodeConfig
    on_failure: Callable[[BaseException], None]
    clock: Monotonic
    wall_clock: WallClock
    certificates: Certificates
    carrier: Carrier
    address: NodeAddress
    rate: AddressRate  # of connections, at the public port and at raw ports together
    handshakes: PrefixShares  # that peers begin and do not complete


@dataclass(frozen=True, slots=True)
class Routing:
    """Where visitors go: this node's tunnels, the other nodes, calls and messages to the registry."""

    outbox: Outbox
    calls: RegistryCalls
    questions: LabelQuestions
    tunnels: HeldTunnels
    peers: Peers
    proofs: Proofs
    routes: Routes
    lookup: Lookup
    visits: Visits
    memory: MemoryLimit
    describe: Callable[[Tunnel], TunnelInfo]  # a tunnel as other nodes learn of it


@dataclass(frozen=True, slots=True)
class RawPortParts:
    """Raw TCP ports and their visitors."""

    visitors: RawVisitors
    sockets: RawPorts
    siblings: SiblingPorts
    reservation: PortReservation
    addresses: RegionAddresses


@dataclass(frozen=True, slots=True)
class Serving:
    """What connections come to: clients' sessions, other nodes' lanes, the public port."""

    grants: GrantVerifier
    table: TunnelTable
    sessions: Sessions
    greeter: Greeter
    inbound_lanes: InboundLanes
    public_port: PublicPort


def build_base(
    config: NodeConfig, on_failure: Callable[[BaseException], None], clock: Monotonic, wall_clock: WallClock
) -> Base:
    """Make the carrier, and read the certificates. Raises CertificateError."""
    limits = config.limits
    carrier = make_carrier(Limits(handshake=limits.greeting_time))
    return Base(
        config,
        on_failure,
        clock,
        wall_clock,
        Certificates(config, carrier.prepare),
        carrier,
        NodeAddress(config),
        AddressRate(limits.connections_per_second, limits.connection_burst, clock),
        PrefixShares(
            limits.unfinished_handshakes_per_second * _HANDSHAKE_WINDOW,
            clock,
            window=_HANDSHAKE_WINDOW,
            first_is_free=True,
        ),
    )


def build_routing(base: Base) -> Routing:
    """Calls to a registry before all that asks one; the store of tunnels before all that looks labels up."""
    config, limits = base.config, base.config.limits
    home = HomeNode(config.name, config.region, config.zone)
    outbox = Outbox(home.describe)
    calls = RegistryCalls()
    questions = LabelQuestions(calls, base.clock, on_failure=base.on_failure)
    tunnels = HeldTunnels()

    def describe(tunnel: Tunnel) -> TunnelInfo:
        return without_owner(home.describe(tunnel))

    def held() -> Iterator[TunnelInfo]:
        return map(describe, tunnels.all_live())

    certificates = base.certificates
    peers = Peers(config.name, config.region, base.carrier, certificates.current, held, on_failure=base.on_failure)
    certificates.subscribe(peers.certificates_changed)
    proofs = Proofs(limits.proof_hashes_per_second, limits.proof_hash_burst, base.clock)
    routes = Routes(config.name, peers.pool_of, tunnels.epoch, proofs, base.clock)
    lookup = Lookup(
        config.region,
        tunnels,
        routes,
        peers,
        questions.ask,
        rate=limits.lookups_per_second,
        time_limit=limits.lookup_time,
        clock=base.clock,
        on_failure=base.on_failure,
    )
    visits = Visits(base.carrier, lookup, first_bytes_time=limits.first_bytes_time, on_failure=base.on_failure)
    memory = MemoryLimit(
        limits.max_memory_mib * MIB, limits.max_buffered_mib_per_token * MIB, visits.all, base.carrier.drop_closing
    )
    return Routing(outbox, calls, questions, tunnels, peers, proofs, routes, lookup, visits, memory, describe)


def build_raw_ports(base: Base, routing: Routing) -> RawPortParts:
    """Siblings' claims before the account, the account before the sockets."""
    config, limits = base.config, base.config.limits
    ports = config.raw_ports
    visitors = RawVisitors(
        routing.lookup,
        routing.visits,
        config.region,
        rate=base.rate,
        max_lookups=limits.max_half_open,
        clock=base.clock,
        on_failure=base.on_failure,
    )
    claims = SiblingClaims(rest=limits.port_rest, clock=base.clock)
    account = PortAccount(ports, limits.port_rest, base.clock, at_sibling=claims.label)
    reservation = PortReservation(
        account, routing.calls.reserve_ports, rest=limits.port_rest, clock=base.clock, on_failure=base.on_failure
    )
    host = config.listen.host if config.raw_listen is None else config.raw_listen
    sockets = RawPorts(host, account, visitors.connected)
    siblings = SiblingPorts(config.region, range(ports.first, ports.last + 1), claims, account, sockets)
    addresses = RegionAddresses(
        config.region,
        account,
        reservation,
        routing.peers,
        claims,
        routing.questions.ask,
        on_failure=base.on_failure,
    )
    return RawPortParts(visitors, sockets, siblings, reservation, addresses)


def build_serving(base: Base, routing: Routing, raw: RawPortParts) -> Serving:
    """The rules of claiming labels, then the sessions that claim them, then the ports that clients come to."""
    config, limits, carrier, certificates = base.config, base.config.limits, base.carrier, base.certificates
    grants = GrantVerifier(base.wall_clock)
    table = TunnelTable(
        routing.tunnels,
        routing.routes,
        raw.sockets,
        TunnelAnnouncer(routing.outbox, routing.peers, routing.routes, routing.describe),
        proofs=routing.proofs,
        port_rests=TokenRests(limits.max_resting_ports_per_token, limits.port_rest, base.clock),
        max_visits=limits.max_visits_per_tunnel,
        clock=base.wall_clock,
    )
    sessions = Sessions(
        config,
        carrier,
        grants,
        SessionContext(
            limits,
            table,
            Tickets(certificates.current, config.region, base.wall_clock),
            raw.addresses,
            base.address.public_address,
            routing.routes.client_moved,
            base.clock,
        ),
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
        routing.peers, routing.tunnels, routing.routes, raw.siblings, routing.visits, routing.describe
    )
    inbound_lanes = InboundLanes(
        carrier,
        certificates.mesh_tls,
        requests,
        capacity=limits.max_greetings,
        capacity_per_address=limits.max_greetings_per_address,
        clock=base.clock,
        time_limit=limits.greeting_time,
        on_failure=base.on_failure,
    )
    public_port = PublicPort(
        config,
        base.address,
        carrier,
        certificates.current,
        routing.lookup,
        ConnectionHandlers(routing.visits.start_tls, greeter.accept, inbound_lanes.accept),
        rate=base.rate,
        handshakes=base.handshakes,
        memory=routing.memory,
        clock=base.clock,
        on_failure=base.on_failure,
    )
    return Serving(grants, table, sessions, greeter, inbound_lanes, public_port)
