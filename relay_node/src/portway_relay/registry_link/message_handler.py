"""What a registry's news mean to a node: keys and revocations, other nodes, tunnels that it no longer owns."""

import asyncio
import logging
from collections.abc import Callable

from portway_proto.v1.lane_pb2 import FAILURE_CODE_EPOCH, FAILURE_CODE_QUOTA, Failure
from portway_proto.v1.mesh_pb2 import (
    EVICTION_REASON_QUOTA,
    ClusterSettings,
    Eviction,
    Probe,
    Reachability,
    RegistryMessage,
)
from portway_proto.v1.types_pb2 import REACH_FAILED, REACH_REACHED, NodeState

from portway_relay.mesh.peers import Peers
from portway_relay.raw_ports.reservation import PortReservation
from portway_relay.routing.table import TunnelTable
from portway_relay.sessions.grants import GrantVerifier
from portway_relay.sessions.sessions import Sessions

logger = logging.getLogger(__name__)


class Cluster:
    """The RegistryNews of a node."""

    def __init__(
        self,
        grants: GrantVerifier,
        sessions: Sessions,
        table: TunnelTable,
        peers: Peers,
        ports: PortReservation,
        ordered: Callable[["NodeState.ValueType"], None],
        probe: Callable[[Probe], None],
    ) -> None:
        """`ordered` is told what operators want of this node, `probe` which other node's address is to be tried."""
        self._ordered = ordered
        self._probe = probe
        self._ports = ports
        self._peers = peers
        self._grants = grants
        self._sessions = sessions
        self._table = table
        # Set once clients' grants can be verified: before that the node is of no use to anybody.
        self.known = asyncio.Event()

    def registry_away(self, away: bool) -> None:
        self._grants.registry_away = away
        self._ports.registry_away(away)

    def heard(self, message: RegistryMessage) -> None:
        kind = message.WhichOneof("message")
        if kind == "settings":
            self._settle(message.settings)
        elif kind == "revocations":
            self._grants.revoke(message.revocations.token_ids)
            self._sessions.revoke(message.revocations.token_ids)
        elif kind == "peers":
            peers = message.peers
            since = {one.node: one.issued_ms for one in peers.certified_since}
            self._peers.update(peers.nodes, peers.removed, since)
        elif kind == "order":
            self._ordered(message.order.state)
        elif kind == "probe":
            self._probe(message.probe)
        elif kind == "reachability":
            _say(message.reachability)
        elif kind == "evictions":
            for eviction in message.evictions.evictions:
                self._evict(eviction)

    def _settle(self, settings: ClusterSettings) -> None:
        keys = {key.kid: key.public_key for key in settings.grant_keys}
        if not keys:
            logger.error("the registry names no keys, the ones known stay in use")
            return
        try:
            self._grants.learn_keys(settings.cluster_id, keys)
        except ValueError as error:
            logger.error("the registry's keys cannot be used, the old ones stay in use: %s", error)
            return
        self.known.set()

    def _evict(self, eviction: Eviction) -> None:
        if eviction.reason == EVICTION_REASON_QUOTA:
            failure = Failure(
                code=FAILURE_CODE_QUOTA,
                message="the token has as many tunnels as it may have, at other nodes too: close one",
            )
        else:
            failure = Failure(code=FAILURE_CODE_EPOCH, message="the tunnel was bound again at another node")
        self._table.evict(eviction.label, eviction.epoch, failure)


def _say(reachability: Reachability) -> None:
    """What a registry has found of this node's address."""
    if reachability.reach == REACH_FAILED:
        logger.warning(
            "no clients are sent here: the advertised address was not reached. Look at --advertise, at DNS and at "
            "firewalls on the way; it is tried again by itself",
            extra={"reason": reachability.failure},
        )
    elif reachability.reach == REACH_REACHED:
        logger.info("the advertised address was reached")
