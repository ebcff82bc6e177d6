"""The data lanes of a session: a pool that dials them and serves the visits that the node opens on them.

A live control lane does not prove that data lanes work. If none can be dialled, visitors wait in vain; if a local
server does not accept a visit, the visitor gets an error page. Only the program can fix either, so its log says so. Not
here: what the visitor sees (the node's page).
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from portway_carrier.contract import Carrier, Pool
from portway_carrier.errors import CarrierError
from portway_carrier.values import ClientTls, DialTarget, LocalService, SpareSizes
from portway_proto.wire.frames import Opening, RefusalReason
from portway_proto.wire.lane import Side
from portway_proto.wire.limits import LINK_ALPN
from portway_runtime.bounded import BoundedMap
from portway_runtime.clocks import Monotonic, monotonic

from portway.engine.dialogue import Dialogue, SessionCredentials, Welcomed
from portway.engine.directory import Node
from portway.engine.failures import Failure
from portway.engine.session import failure_of

logger = logging.getLogger(__name__)

# Seconds. A node that is gone resets the control lane too, and within this time the whole session is known to be lost.
DIALS_MAY_FAIL: Final = 2.0
# Seconds. A browser asks again and again: refused visits are logged once in this time for each tunnel and reason.
LOG_AGAIN_AFTER: Final = 60.0
# Tunnels, times reasons, whose last log line is remembered; a tunnel beyond them may be logged more often.
_REMEMBERED: Final = 4096

_SIZES = SpareSizes()


class RefusedVisits:
    """Logs the visits that local servers did not accept. The ServeEvents of a client."""

    def __init__(self, clock: Monotonic = monotonic) -> None:
        self._clock = clock
        self._logged_at: BoundedMap[tuple[str, RefusalReason], float] = BoundedMap(_REMEMBERED)

    def visit_refused(self, opening: Opening, reason: RefusalReason, message: str) -> None:
        """`message` names the local server, and why it did not accept."""
        if reason is RefusalReason.NOT_HERE:
            return  # the tunnel was closed just now
        now, last = self._clock(), self._logged_at.get((opening.label, reason))
        if last is not None and now - last < LOG_AGAIN_AFTER:
            return
        self._logged_at[opening.label, reason] = now
        label = opening.label[:4]
        if reason is RefusalReason.OVERLOADED:
            logger.warning(
                "a visitor of tunnel %s… was turned away: %s: raise this process's limit (ulimit -n)", label, message
            )
        else:
            logger.warning("a visitor of tunnel %s… found no server: %s: is it running?", label, message)


class DataLanes:
    """Keeps data lanes for one session after another."""

    def __init__(self, carrier: Carrier, table: Mapping[str, LocalService], clock: Monotonic = monotonic) -> None:
        """`table` has the local server of each label, and may change."""
        self._carrier = carrier
        self._table = table
        self._clock = clock
        self._refused_visits = RefusedVisits(clock)
        self._pool: Pool | None = None
        self._target: DialTarget | None = None
        self._credentials: SessionCredentials | None = None
        self._failing_since: float | None = None
        self._warned = False

    def follow(
        self,
        node: Node,
        cluster_ca: bytes,
        welcomed: Welcomed,
        session_unknown: Callable[[SessionCredentials, Failure], None],
    ) -> None:
        """Keep lanes for this session. Those of an earlier one are retired; its visits may finish.

        `session_unknown` is called when the node refuses lanes because it does not know this session any more.
        """
        if self._pool is not None and welcomed.credentials == self._credentials:
            return
        self.retire()
        tls = ClientTls(cluster_ca, node.server_name, LINK_ALPN)
        target = self._target = DialTarget(node.address, tls, Dialogue.park(welcomed.credentials), node.via)
        most = min(_SIZES.lanes, welcomed.max_lanes or _SIZES.lanes)
        sizes = SpareSizes(quiet=min(_SIZES.quiet, most), busy=min(_SIZES.busy, most), lanes=most)
        self._credentials = welcomed.credentials
        self._failing_since, self._warned = None, False
        failed = partial(self._lane_failed, welcomed.credentials, session_unknown)
        self._pool = self._carrier.dialling_pool(target, Side.ACCEPTOR, sizes, failed)
        self._carrier.serve(self._pool, self._table, self._refused_visits)

    def trust(self, cluster_ca: bytes) -> None:
        """Verify the node by these CAs (PEM) from now on; lanes that are open stay."""
        if self._pool is None or self._target is None or self._target.tls.ca == cluster_ca:
            return
        self._target = replace(self._target, tls=replace(self._target.tls, ca=cluster_ca))
        self._pool.aim(self._target)

    def want(self, lanes: int) -> None:
        """Dial this number of further lanes, within the pool's limits."""
        if self._pool is not None:
            self._pool.want(lanes)

    def retire(self) -> None:
        """Dial no more and close idle lanes; visits in progress go on."""
        if self._pool is not None:
            self._pool.retire()
            self._pool = self._credentials = None

    def close(self) -> None:
        """Close every lane, and cut visits in progress."""
        if self._pool is not None:
            self._pool.close()
            self._pool = self._credentials = None

    def _lane_failed(
        self,
        credentials: SessionCredentials,
        session_unknown: Callable[[SessionCredentials, Failure], None],
        error: CarrierError,
    ) -> None:
        if self._pool is None or self._credentials != credentials:
            return  # failures of an earlier session's lanes may still be reported
        failure = failure_of(error)
        if failure is not None and failure.session_unknown:
            session_unknown(credentials, failure)
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
