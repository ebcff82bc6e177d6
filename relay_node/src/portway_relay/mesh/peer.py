"""One other node, as this one reaches it: warm lanes for visits, and a control lane."""

import logging
from collections.abc import Callable, Iterable
from typing import Final

from portway_carrier.contract import Carrier, Pool
from portway_carrier.errors import CarrierError
from portway_carrier.values import ClientTls, DialTarget, SpareSizes
from portway_proto.v1.lane_pb2 import Peer as PeerHello
from portway_proto.v1.types_pb2 import NodeInfo, TunnelInfo
from portway_proto.wire.frames import FrameType
from portway_proto.wire.lane import Side
from portway_proto.wire.limits import MESH_ALPN, PROTOCOL_VERSION
from portway_runtime.endpoints import Endpoint
from portway_runtime.tasks import Tasks

from portway_relay.certificates import LoadedCertificates
from portway_relay.mesh.control_lane import ControlLane

logger = logging.getLogger(__name__)

# One lane is warm for the first visitor of a while, and the rest as visitors come: nodes times nodes is a large number.
# A visitor does not wait long for a node that does not answer: another one may have the tunnel by now.
SIZES: Final = SpareSizes(quiet=1, busy=8, wait=2.0)


class Peer:
    """Where it is, and what leads there."""

    def __init__(
        self,
        info: NodeInfo,
        carrier: Carrier,
        loaded: LoadedCertificates,
        tasks: Tasks,
        whole: Callable[[], Iterable[TunnelInfo]] | None,
    ) -> None:
        self.info = info
        target = self._target(loaded, control=False)
        self.pool: Pool = carrier.dialling_pool(target, Side.OPENER, SIZES, self._lost)
        self.control = ControlLane(info.name, carrier, self._target(loaded, control=True), tasks, whole)

    def reached_as(self, info: NodeInfo) -> bool:
        """Whether `info` says that it is reached in the same way."""
        mine = self.info
        return (mine.host, mine.port, mine.server_name, mine.region) == (
            info.host,
            info.port,
            info.server_name,
            info.region,
        )

    @property
    def in_use(self) -> bool:
        """Whether it answers, or carries visits."""
        counts = self.pool.counts
        return self.control.up or counts.idle + counts.busy > 0

    def certified(self, loaded: LoadedCertificates) -> None:
        """Lanes are dialled with these from now on; those that are up stay up."""
        self.pool.aim(self._target(loaded, control=False))
        self.control.aim(self._target(loaded, control=True))

    def retire(self) -> None:
        """Dial it no more; visits that run go on."""
        self.control.close()
        self.pool.retire()

    def _lost(self, error: CarrierError) -> None:
        logger.debug("a mesh lane could not be dialled", extra={"peer": self.info.name, "reason": str(error)})

    def _target(self, loaded: LoadedCertificates, *, control: bool) -> DialTarget:
        info, node = self.info, loaded.node
        tls = ClientTls(loaded.ca, info.server_name, MESH_ALPN, node.chain, node.key)
        hello = PeerHello(version=PROTOCOL_VERSION, control=control)
        return DialTarget(Endpoint(info.host, info.port), tls, (FrameType.PEER, hello.SerializeToString()))
