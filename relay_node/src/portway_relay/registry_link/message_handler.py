"""What a registry's messages do to a node: keys, revocations, other nodes, orders, probes, evictions."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from portway_proto.v1.lane_pb2 import FAILURE_CODE_CLAIM, FAILURE_CODE_QUOTA, Failure
from portway_proto.v1.mesh_pb2 import (
    EVICTION_REASON_INVALID,
    EVICTION_REASON_QUOTA,
    ClusterSettings,
    DnsRecords,
    Eviction,
    Probe,
    Reachability,
    RegistryFronts,
    RegistryMessage,
    ZoneCertificate,
)
from portway_proto.v1.mesh_pb2 import Peers as PeersMessage
from portway_proto.v1.mesh_pb2 import (
    PortOwners as PortOwnersMessage,
)
from portway_proto.v1.types_pb2 import REACH_FAILED, REACH_REACHED, NodeState

from portway_relay.config import PortRange
from portway_relay.errors import quota_full
from portway_relay.mesh.inbound_lanes import InboundLanes
from portway_relay.mesh.peers import Peers
from portway_relay.raw_ports.owners import PortOwners
from portway_relay.raw_ports.reservation import PortReservation
from portway_relay.routing.statement_checks import StatementChecks
from portway_relay.routing.table import SUPERSEDED, TunnelTable
from portway_relay.sessions.grants import GrantVerifier
from portway_relay.sessions.sessions import Sessions

logger = logging.getLogger(__name__)

_INVALID: Final = Failure(
    code=FAILURE_CODE_CLAIM,
    message="the registry does not accept the tunnel's claim, its presence or its token: open it again",
)


class MessageHandler:
    """The RegistryEvents of a node."""

    def __init__(
        self,
        grants: GrantVerifier,
        sessions: Sessions,
        table: TunnelTable,
        peers: Peers,
        inbound_lanes: InboundLanes,
        ports: PortReservation,
        owners: PortOwners,
        checks: StatementChecks,
        reached: Callable[[], None],
        obey: Callable[["NodeState.ValueType"], None],
        probe: Callable[[Probe], None],
        registries: Callable[[RegistryFronts], None],
        removed: Callable[[str], None],
        keys_learned: Callable[[], None],
        authorities_learned: Callable[[bytes, str], None],
        dns_records: Callable[[DnsRecords], None],
        certificates_received: Callable[[Sequence[ZoneCertificate]], None],
    ) -> None:
        """
        reached: called when a registry can be asked, for the first time or again.
        obey: called with the state that an operator orders for this node.
        probe: called with another node whose address is to be tried.
        registries: called with the list of the registries' public ports.
        removed: called with the reason when the cluster admits this node no more.
        keys_learned: called when grants are verified with other keys than before.
        authorities_learned: called with the CAs to trust (PEM), and the id of the one that issues.
        dns_records: called with each part of a list of DNS records.
        certificates_received: called with the certificates that the registry obtained for regions' names.
        """
        self._grants = grants
        self._sessions = sessions
        self._table = table
        self._peers = peers
        self._inbound_lanes = inbound_lanes
        self._ports = ports
        self._owners = owners
        self._checks = checks
        self._reached = reached
        self._obey = obey
        self._probe = probe
        self._registries = registries
        self._removed = removed
        self._keys_learned = keys_learned
        self._authorities_learned = authorities_learned
        self._dns_records = dns_records
        self._certificates_received = certificates_received
        self._listed = PeersMessage()  # as far as it has come
        # Set once a registry has sent the keys by which clients' grants are verified.
        self.ready = asyncio.Event()

    def registry_away(self, away: bool) -> None:
        """No registry has this node registered any more, or one has again."""
        self._grants.registry_away = self._peers.registry_away = away
        self._ports.registry_away(away)
        if not away:
            self._reached()

    def removed(self, reason: str) -> None:
        """The cluster admits this node no more. Nothing comes from a registry after this."""
        logger.error(
            "the cluster admits this node no more: it sends its clients to other nodes and stops",
            extra={"reason": reason},
        )
        self._removed(reason)

    def replay(self, messages: Iterable[RegistryMessage]) -> None:
        """Act on what registries said before this node's start; that alone does not make it ready."""
        for message in messages:
            self.received(message)
        self._ports.use_known(self._owners.mine)
        self.ready.clear()

    def received(self, message: RegistryMessage) -> None:
        """Act on a message. Unknown kinds, of a later release, are ignored."""
        match message.WhichOneof("message"):
            case "settings":
                self._learn_keys(message.settings)
                if message.settings.cluster_ca:
                    self._authorities_learned(message.settings.cluster_ca, message.settings.issuer)
            case "revocations":
                self._grants.revoke(message.revocations.token_ids)
                self._sessions.revoke(message.revocations.token_ids)
            case "peers":
                self._hear_peers(message.peers)
            case "order":
                self._obey(message.order.state)
            case "probe":
                self._probe(message.probe)
            case "reachability":
                _log_reachability(message.reachability)
            case "port_owners":
                self._learn_owners(message.port_owners)
            case "dns_records":
                self._dns_records(message.dns_records)
            case "registry_fronts":
                self._registries(message.registry_fronts)
            case "zone_certificates":
                self._certificates_received(message.zone_certificates.certificates)
            case "evictions":
                for eviction in message.evictions.evictions:
                    self._evict(eviction)

    def _learn_keys(self, settings: ClusterSettings) -> None:
        before = self._grants.key_ids
        keys = {key.kid: key.public_key for key in settings.grant_keys}
        if not keys:
            logger.error("the registry names no grant keys, the known ones stay in use")
            return
        try:
            self._grants.learn_keys(settings.cluster_id, keys)
        except ValueError as error:
            logger.error("the registry's grant keys cannot be used, the old ones stay in use: %s", error)
            return
        self._checks.learn_cluster(settings.cluster_id)
        self.ready.set()
        if self._grants.key_ids != before:
            self._keys_learned()

    def _learn_owners(self, message: PortOwnersMessage) -> None:
        self._owners.learn((PortRange(one.first, one.last), one.node) for one in message.owners)

    def _hear_peers(self, part: PeersMessage) -> None:
        """A list counts when it is whole; that of a stream that has ended is begun anew by the next one."""
        if part.part == 0:
            self._listed = PeersMessage()
        self._listed.MergeFrom(part)
        if not part.more:
            self._update_peers(self._listed)

    def _update_peers(self, peers: PeersMessage) -> None:
        certified_since = {one.node: one.issued_ms for one in peers.certified_since}
        if self._peers.update(peers.nodes, peers.removed, certified_since):
            self._inbound_lanes.drop_refused()

    def _evict(self, eviction: Eviction) -> None:
        if eviction.reason == EVICTION_REASON_QUOTA:
            failure = _over_quota(eviction)
        else:
            failure = _INVALID if eviction.reason == EVICTION_REASON_INVALID else SUPERSEDED
        self._table.evict(eviction.label, eviction.epoch, failure, eviction.claim)


def _over_quota(eviction: Eviction) -> Failure:
    if not eviction.max_tunnels:
        return Failure(
            code=FAILURE_CODE_QUOTA,
            message="the registries take no more tunnels from this node: attach to another one",
        )
    whose = "this token" if eviction.of_token else "its tenant"
    return quota_full(f"{whose}, at all nodes together,", eviction.max_tunnels).failure


def _log_reachability(reachability: Reachability) -> None:
    """Log whether this node's advertised address was reached by a registry or another node."""
    if reachability.reach == REACH_FAILED:
        logger.warning(
            "no clients are sent here: the advertised address was not reached. Look at --advertise, at DNS and at "
            "firewalls on the way; the registry's log has the details; it is tried again by itself",
            extra={"reason": reachability.failure},
        )
    elif reachability.reach == REACH_REACHED:
        logger.info("the advertised address was reached")
        if reachability.failure:
            logger.warning(
                "public addresses are in no DNS answer, because this node was not reached there: look at "
                "--public-address and at firewalls on the way; they are tried again",
                extra={"reason": reachability.failure},
            )
