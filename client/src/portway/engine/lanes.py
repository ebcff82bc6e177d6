"""The data lanes of a session: a pool that dials them and serves what visitors open on them."""

import logging

from portway_proto.carry.contract import Carrier, ClientTls, DialTarget, LocalService, Pool, SpareSizes
from portway_proto.carry.errors import CarrierError
from portway_proto.wire.lane import Side
from portway_proto.wire.limits import LINK_ALPN

from portway.engine.dialogue import Dialogue, SessionKey, Welcomed
from portway.engine.discovery import Node

logger = logging.getLogger(__name__)

_SIZES = SpareSizes()


class DataLanes:
    """Follows a link from session to session. `table` says what each label leads to, and may change."""

    def __init__(self, carrier: Carrier, table: dict[str, LocalService]) -> None:
        self._carrier = carrier
        self._table = table
        self._pool: Pool | None = None
        self._key: tuple[str, SessionKey] | None = None

    def follow(self, node: Node, cluster_ca: bytes, welcomed: Welcomed) -> None:
        """Keep lanes for this session. Those of another are let go; its visits may finish."""
        key = (node.name, welcomed.key)
        if self._pool is not None and key == self._key:
            return
        self.retire()
        target = DialTarget(
            node.address, ClientTls(cluster_ca, node.server_name, LINK_ALPN), Dialogue.park(welcomed.key)
        )
        most = min(_SIZES.lanes, welcomed.max_lanes or _SIZES.lanes)
        sizes = SpareSizes(quiet=min(_SIZES.quiet, most), busy=min(_SIZES.busy, most), lanes=most)
        self._pool = self._carrier.dialling_pool(target, Side.ACCEPTOR, sizes, self._lane_failed)
        self._carrier.serve(self._pool, self._table)
        self._key = key

    def want(self, lanes: int) -> None:
        if self._pool is not None:
            self._pool.want(lanes)

    def retire(self) -> None:
        """Dial no more and let idle lanes go; visits that run go on."""
        if self._pool is not None:
            self._pool.retire()
            self._pool = self._key = None

    def close(self) -> None:
        """Retire, and cut every visit."""
        if self._pool is not None:
            self._pool.close()
            self._pool = self._key = None

    def _lane_failed(self, error: CarrierError) -> None:
        logger.debug("a data lane could not be dialled: %s", error)
