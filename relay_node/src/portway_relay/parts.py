"""The parts of a node, made in the order in which they depend on each other; each builder returns a frozen bundle.

Here: composition alone. Nothing is opened or started. Not here: what connections and questions come to, which is made
of these parts (serving_parts.py); the parts that know all others, and the order of start and stop (node.py).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Final

from portway_carrier.contract import Carrier
from portway_carrier.select import make_carrier
from portway_carrier.values import Limits
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.statements import Presence
from portway_runtime.clocks import Monotonic, RegistryClock, WallClock
from portway_runtime.rates import AddressRate
from portway_runtime.shares import PrefixShares

from portway_relay.certificates import Certificates
from portway_relay.config import NodeConfig
from portway_relay.expiry import Expiry
from portway_relay.ingress.raw_visitors import RawVisitors
from portway_relay.lacking_regions import LackingRegions
from portway_relay.memory_limit import MIB, MemoryLimit
from portway_relay.mesh.frame_budgets import PeerBudgets
from portway_relay.mesh.peers import Peers
from portway_relay.mesh.sibling_tunnels import SiblingTunnels
from portway_relay.net.node_address import NodeAddress
from portway_relay.raw_ports.account import PortAccount
from portway_relay.raw_ports.owners import PortOwners
from portway_relay.raw_ports.region_addresses import RegionAddresses
from portway_relay.raw_ports.reservation import PortReservation
from portway_relay.raw_ports.sibling_ports import SiblingPortMap, SiblingPorts
from portway_relay.raw_ports.sockets import RawPorts
from portway_relay.raw_ports.tickets import Tickets
from portway_relay.registry_link.calls import RegistryCalls
from portway_relay.registry_link.label_questions import LabelQuestions
from portway_relay.registry_link.outbox import Outbox
from portway_relay.routing.first_seconds import FirstSeconds
from portway_relay.routing.lookup import Lookup
from portway_relay.routing.routes import Routes
from portway_relay.routing.statement_checks import StatementChecks
from portway_relay.routing.tunnel import HeldTunnels, HomeNode, Tunnel
from portway_relay.routing.verification import Verification
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
    elapsed: Monotonic  # counts time asleep, too
    registry_clock: RegistryClock
    certificates: Certificates
    expiry: Expiry
    carrier: Carrier
    address: NodeAddress
    rate: AddressRate  # of connections, at the public port, the plain HTTP port and raw ports together
    handshakes: PrefixShares  # that peers begin and do not complete
    peer_budgets: PeerBudgets


@dataclass(frozen=True, slots=True)
class Routing:
    """Where visitors go: this node's tunnels, the other nodes, calls and messages to the registry."""

    outbox: Outbox
    calls: RegistryCalls
    questions: LabelQuestions
    tunnels: HeldTunnels
    peers: Peers
    lacking: LackingRegions
    checks: StatementChecks
    routes: Routes
    verification: Verification
    first_seconds: FirstSeconds
    lookup: Lookup
    visits: Visits
    memory: MemoryLimit
    describe: Callable[[Tunnel], TunnelInfo]  # a tunnel as others learn of it


@dataclass(frozen=True, slots=True)
class RawPortParts:
    """Raw TCP ports and their visitors."""

    visitors: RawVisitors
    sockets: RawPorts
    siblings: SiblingTunnels
    tickets: Tickets
    owners: PortOwners
    reservation: PortReservation
    addresses: RegionAddresses


def build_base(
    config: NodeConfig,
    on_failure: Callable[[BaseException], None],
    clock: Monotonic,
    wall_clock: WallClock,
    elapsed: Monotonic,
) -> Base:
    """Make the carrier, and read the certificates. Raises CertificateError."""
    limits = config.limits
    carrier = make_carrier(Limits(handshake=limits.greeting_time))
    certificates, registry_clock = Certificates(config, carrier.prepare), RegistryClock(wall_clock, elapsed)
    expiry = Expiry(
        certificates.current,
        config.zone,
        renewed=config.state_dir is not None,
        now=lambda: datetime.fromtimestamp(registry_clock.now_ms() / 1000, UTC),
    )
    return Base(
        config,
        on_failure,
        clock,
        wall_clock,
        elapsed,
        registry_clock,
        certificates,
        expiry,
        carrier,
        NodeAddress(config),
        AddressRate(limits.connections_per_second, limits.connection_burst, clock),
        PrefixShares(
            limits.unfinished_handshakes_per_second * _HANDSHAKE_WINDOW,
            clock,
            window=_HANDSHAKE_WINDOW,
            first_is_free=True,
        ),
        PeerBudgets(clock),
    )


def build_routing(base: Base) -> Routing:
    """Calls to a registry before all that asks one; the store of tunnels before all that looks labels up."""
    config, limits = base.config, base.config.limits
    home = HomeNode(config.name, config.region, config.zone)
    outbox = Outbox(home.describe)
    calls = RegistryCalls()
    questions = LabelQuestions(calls, base.clock, on_failure=base.on_failure)
    tunnels = HeldTunnels()

    def held() -> Iterator[TunnelInfo | Presence]:
        return chain(tunnels.presences(), map(home.describe, tunnels.all_live()))

    certificates = base.certificates
    peers = Peers(
        config.name,
        config.region,
        base.carrier,
        certificates.current,
        base.peer_budgets,
        held,
        clock=base.clock,
        on_failure=base.on_failure,
    )
    lacking = LackingRegions(config.domain, certificates.current, lambda: peers.regions)
    peers.subscribe(lacking.look)
    certificates.subscribe(peers.certificates_changed)
    certificates.subscribe(lacking.look)
    checks = StatementChecks(limits.signature_checks_per_second, limits.signature_check_burst, base.clock)
    routes = Routes(config.name, peers.pool_of, tunnels.claim, base.elapsed, base.registry_clock)
    verification = Verification(routes, checks, on_failure=base.on_failure)
    first_seconds = FirstSeconds(limits.hearing_time, base.clock)
    lookup = Lookup(
        tunnels,
        routes,
        verification,
        peers,
        questions.ask,
        first_seconds,
        rate=limits.lookups_per_second,
        time_limit=limits.lookup_time,
        clock=base.clock,
        on_failure=base.on_failure,
    )
    visits = Visits(
        base.carrier,
        lookup,
        first_bytes_time=limits.first_bytes_time,
        is_memory_scarce=lambda: memory.scarce,
        clock=base.clock,
        on_failure=base.on_failure,
    )
    memory = MemoryLimit(
        limits.max_memory_mib * MIB, limits.max_buffered_mib_per_token * MIB, visits.all, base.carrier.drop_closing
    )
    return Routing(
        outbox,
        calls,
        questions,
        tunnels,
        peers,
        lacking,
        checks,
        routes,
        verification,
        first_seconds,
        lookup,
        visits,
        memory,
        home.describe,
    )


def build_raw_ports(base: Base, routing: Routing) -> RawPortParts:
    """Siblings' ports before the account, the account before the sockets."""
    config, limits = base.config, base.config.limits
    ports = config.raw_ports
    visitors = RawVisitors(
        routing.lookup,
        routing.visits,
        config.region,
        balancers=config.proxy_protocol_from,
        rate=base.rate,
        header_time=limits.hello_time,
        max_waiting=limits.max_half_open,
        clock=base.clock,
        on_failure=base.on_failure,
    )
    known = SiblingPortMap()
    account = PortAccount(ports, limits.port_rest, base.clock, at_sibling=known.label)
    owners = PortOwners(config.name, account.is_mine)
    tickets = Tickets(config.name, config.region, base.certificates.current, base.wall_clock, base.registry_clock)
    reservation = PortReservation(
        account, routing.calls.reserve_ports, rest=limits.port_rest, clock=base.clock, on_failure=base.on_failure
    )
    host = config.listen.host if config.raw_listen is None else config.raw_listen
    sockets = RawPorts(host, account, lambda label, port: owners.signed(tickets.sign(label, port)), visitors.connected)
    siblings = SiblingTunnels(
        routing.routes,
        routing.verification,
        routing.checks,
        tickets,
        owners,
        known,
        SiblingPorts(range(ports.first, ports.last + 1), known, account, sockets),
        clock=base.clock,
        on_failure=base.on_failure,
    )
    addresses = RegionAddresses(account, reservation, routing.peers)
    return RawPortParts(visitors, sockets, siblings, tickets, owners, reservation, addresses)
