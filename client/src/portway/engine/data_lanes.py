"""The data lanes of a session: a pool that dials them and serves what visitors open on them.

That the control lane lives says nothing of these: when they cannot be dialled, visitors wait in vain, and the log
says so.
"""

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from portway_carrier.contract import Carrier, LocalService, Pool
from portway_carrier.errors import CarrierError
from portway_carrier.values import ClientTls, DialTarget, SpareSizes
from portway_proto.wire.lane import Side
from portway_proto.wire.limits import LINK_ALPN

from portway.engine.dialogue import Dialogue, SessionKey, Welcomed
from portway.engine.directory import Node
from portway.engine.failures import Failure
from portway.engine.refused_visits import RefusedVisits
from portway.engine.session import failure_of

logger = logging.getLogger(__name__)

# A node that has gone resets the control lane too, and within this time the whole session is known to be lost.
DIALS_MAY_FAIL: Final = 2.0

_SIZES = SpareSizes()


class DataLanes:
    """Follows a link from session to session. `table` says what each label leads to, and may change.

    `session_unknown` is called when the node refuses lanes because it does not know the session any more.
    """

    def __init__(
        self,
        carrier: Carrier,
        table: Mapping[str, LocalService],
        session_unknown: Callable[[SessionKey, Failure], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._carrier = carrier
        self._table = table
        self._session_unknown = session_unknown
        self._clock = clock
        self._turned_away = RefusedVisits(clock)
        self._pool: Pool | None = None
        self._key: SessionKey | None = None
        self._failing_since: float | None = None
        self._warned = False

    def follow(self, node: Node, cluster_ca: bytes, welcomed: Welcomed) -> None:
        """Keep lanes for this session. Those of another are let go; its visits may finish."""
        if self._pool is not None and welcomed.key == self._key:
            return
        self.retire()
        target = DialTarget(
            node.address, ClientTls(cluster_ca, node.server_name, LINK_ALPN), Dialogue.park(welcomed.key)
        )
        most = min(_SIZES.lanes, welcomed.max_lanes or _SIZES.lanes)
        sizes = SpareSizes(quiet=min(_SIZES.quiet, most), busy=min(_SIZES.busy, most), lanes=most)
        self._key = welcomed.key
        self._failing_since, self._warned = None, False
        failed = partial(self._lane_failed, welcomed.key)
        self._pool = self._carrier.dialling_pool(target, Side.ACCEPTOR, sizes, failed)
        self._carrier.serve(self._pool, self._table, self._turned_away)

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

    def _lane_failed(self, key: SessionKey, error: CarrierError) -> None:
        if self._pool is None or self._key != key:
            return  # what is told of an earlier session's lanes may come late
        failure = failure_of(error)
        if failure is not None and failure.session_unknown:
            self._session_unknown(key, failure)
            return
        counts = self._pool.counts
        if counts.idle + counts.busy > 0:
            self._failing_since = None
        elif self._failing_since is None:
            self._failing_since = self._clock()
        elif not self._warned and self._clock() - self._failing_since > DIALS_MAY_FAIL:
            self._warned = True
            why = failure.text if failure is not None else str(error)
            logger.warning("no data lane to the node can be opened, so visitors wait in vain: %s", why)
            return
        logger.debug("a data lane failed: %s", error)
