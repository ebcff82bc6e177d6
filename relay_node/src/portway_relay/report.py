"""What a node says of itself: to registries, to operators, in URLs.

Here: one place that looks at every part. Not here: when it is said, nor to whom.
"""

from dataclasses import dataclass

from portway_carrier.contract import Carrier
from portway_proto.v1.types_pb2 import NODE_STATE_DRAINING, NODE_STATE_READY, NodeInfo, NodeState

from portway_relay.config import NodeConfig
from portway_relay.ingress.public_port import PublicPort
from portway_relay.ingress.raw_visitors import RawVisitors
from portway_relay.mesh.inbound_lanes import InboundLanes
from portway_relay.mesh.peers import Peers
from portway_relay.metrics import MeshCounts, NodeCounts
from portway_relay.raw_ports.sockets import RawPorts
from portway_relay.registry_link.stream import RegistryLink
from portway_relay.routing.lookup import Lookup
from portway_relay.routing.proofs import Proofs
from portway_relay.routing.routes import Routes
from portway_relay.routing.table import TunnelTable
from portway_relay.sessions.greeter import Greeter
from portway_relay.sessions.session_tunnels import PublicAddress
from portway_relay.sessions.sessions import Sessions
from portway_relay.version import VERSION
from portway_relay.visits import Visits


@dataclass(frozen=True, slots=True)
class Parts:
    """What is looked at."""

    carrier: Carrier
    public_port: PublicPort
    raw_visitors: RawVisitors
    greeter: Greeter
    sessions: Sessions
    table: TunnelTable
    visits: Visits
    raw_ports: RawPorts
    proofs: Proofs
    peers: Peers
    inbound_lanes: InboundLanes
    routes: Routes
    lookup: Lookup
    link: RegistryLink


class Report:
    """What a node says of itself. `order` and `stopping` are set by whoever decides them."""

    def __init__(self, config: NodeConfig, parts: Parts) -> None:
        self._config = config
        self._parts = parts
        self.order: NodeState.ValueType = NODE_STATE_READY
        self.stopping = False

    def info(self) -> NodeInfo:
        """As registries and other nodes know it; it listens already."""
        config, parts = self._config, self._parts
        reached_at = config.advertise or config.listen
        return NodeInfo(
            name=config.name,
            region=config.region,
            host=reached_at.host,
            port=reached_at.port or parts.public_port.address.port,
            server_name=config.server_name,
            version=VERSION,
            latitude=config.latitude,
            longitude=config.longitude,
            domain=config.domain,
            state=NODE_STATE_DRAINING if self.stopping else self.order,
            sessions=len(parts.sessions),
            tunnels=len(parts.table),
            visits=parts.visits.running,
            max_sessions=config.limits.max_sessions,
        )

    def counts(self) -> NodeCounts:
        """What metrics show."""
        parts = self._parts
        public_port, account = parts.public_port, parts.raw_ports.account
        return NodeCounts(
            sessions=len(parts.sessions),
            sessions_away=parts.sessions.away,
            tunnels=len(parts.table),
            visits=parts.visits.running,
            half_open=public_port.half_open,
            greeting=len(parts.greeter),
            raw_ports_held=account.held,
            raw_ports_resting=account.resting,
            registry_connected=parts.link.connected,
            connections=public_port.accepted,
            accept_pauses=public_port.pauses,
            turned_away=self._turned_away(),
            outcomes=parts.visits.outcomes,
            handshakes=parts.greeter.handshakes,
            proofs_unchecked=parts.proofs.unchecked,
            mesh=MeshCounts(
                peers=parts.peers.counts(),
                lanes_taken=len(parts.inbound_lanes),
                routes=len(parts.routes),
                lookups=parts.lookup.answers,
                forwards=parts.visits.forwards,
                handshakes=parts.inbound_lanes.handshakes,
            ),
            carrier=parts.carrier.counters,
        )

    def _turned_away(self) -> dict[str, int]:
        parts = self._parts
        return {
            **parts.public_port.rejected,
            "half_open": parts.public_port.evicted,
            "raw_rate": parts.raw_visitors.rejected,
            "greetings": parts.greeter.rejected,
            "greetings_stalled": parts.greeter.evicted,
            "peers": parts.inbound_lanes.rejected,
            "peers_stalled": parts.inbound_lanes.evicted,
            "sessions_postponed": parts.sessions.postponed,
        }


def public_address(config: NodeConfig, public_port: PublicPort) -> PublicAddress:
    """What visitors dial; it listens already."""
    return PublicAddress(config.zone, config.public_port or public_port.address.port, config.raw_host or config.zone)
