"""portway.engine.data_lanes: which session's lanes are kept, what their failures mean, and what the log says of visits
that local servers did not accept."""

import logging
from collections.abc import Callable

import pytest
from portway.engine.data_lanes import DIALS_MAY_FAIL, LOG_AGAIN_AFTER, DataLanes, RefusedVisits
from portway.engine.dialogue import Dialogue, SessionCredentials, Welcomed
from portway.engine.directory import Node
from portway.engine.failures import Failure
from portway_carrier.errors import CarrierError, ConnectFailed, PeerFailed
from portway_carrier.values import ClientTls, DialTarget, PoolCounts, SpareSizes
from portway_proto.v1 import lane_pb2
from portway_proto.wire.frames import Opening, RefusalReason
from portway_proto.wire.lane import Side
from portway_proto.wire.limits import LINK_ALPN
from portway_runtime.endpoints import Endpoint
from portway_testkit.fakes.clock import ManualClock

NODE = Node("one", "fra", Endpoint("192.0.2.1", 443), "one.node.portway.internal", "tunnels.test")

ONE, OTHER = (Opening(label * 16, "192.0.2.1", 1) for label in "ab")
UNREACHABLE = (RefusalReason.UNREACHABLE, "127.0.0.1:8000: Connection refused")
OVERLOADED = (RefusalReason.OVERLOADED, "127.0.0.1:8000: Too many open files")


def welcomed(name: bytes, max_lanes: int = 0) -> Welcomed:
    return Welcomed(SessionCredentials(name, b"secret"), False, 60.0, max_lanes, 0.0)


class FakePool:
    def __init__(self, target: DialTarget, sizes: SpareSizes, on_lost: Callable[[CarrierError], None]) -> None:
        self.target = target
        self.sizes = sizes
        self.on_lost = on_lost
        self.counts = PoolCounts(0, 0, 0)
        self.wanted: list[int] = []
        self.ended = ""

    def want(self, lanes: int) -> None:
        self.wanted.append(lanes)

    def retire(self) -> None:
        self.ended = "retired"

    def close(self) -> None:
        self.ended = "closed"


class FakeCarrier:
    def __init__(self) -> None:
        self.pools: list[FakePool] = []
        self.served: list[object] = []

    def dialling_pool(
        self, target: DialTarget, side: Side, sizes: SpareSizes, on_lost: Callable[[CarrierError], None]
    ) -> FakePool:
        assert side is Side.ACCEPTOR
        self.pools.append(FakePool(target, sizes, on_lost))
        return self.pools[-1]

    def serve(self, pool: FakePool, table: object, events: object) -> None:
        self.served.append(table)


class Kept:
    """Data lanes, and what surrounds them."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.carrier = FakeCarrier()
        self.table: dict[str, object] = {}
        self.unknown: list[tuple[SessionCredentials, Failure]] = []
        self.lanes = DataLanes(
            self.carrier,  # type: ignore[arg-type]
            self.table,  # type: ignore[arg-type]
            lambda: self.now,
        )

    def follow(self, welcomed: Welcomed) -> None:
        self.lanes.follow(NODE, b"ca", welcomed, lambda key, failure: self.unknown.append((key, failure)))

    @property
    def pool(self) -> FakePool:
        return self.carrier.pools[-1]


@pytest.fixture
def kept() -> Kept:
    kept = Kept()
    kept.follow(welcomed(b"one"))
    return kept


def test_lanes_are_dialled_for_the_session(kept: Kept) -> None:
    """Each greets with its PARK, and serves what the table says."""
    assert kept.pool.target == DialTarget(
        NODE.address,
        ClientTls(b"ca", NODE.server_name, LINK_ALPN),
        Dialogue.park(SessionCredentials(b"one", b"secret")),
    )
    assert kept.carrier.served == [kept.table]
    assert (kept.pool.sizes.quiet, kept.pool.sizes.busy) == (2, 8)


def test_a_resumed_session_keeps_its_lanes(kept: Kept) -> None:
    """Visits have gone on."""
    kept.follow(welcomed(b"one"))
    assert len(kept.carrier.pools) == 1
    assert kept.pool.ended == ""


def test_another_session_has_its_own(kept: Kept) -> None:
    """Those of the one before are let go; its visits may finish."""
    first = kept.pool
    kept.follow(welcomed(b"two"))
    assert first.ended == "retired"
    kept.lanes.want(3)
    assert (first.wanted, kept.pool.wanted) == ([], [3])


def test_the_node_s_limit_is_kept() -> None:
    """Spare lanes included."""
    kept = Kept()
    kept.follow(welcomed(b"one", max_lanes=5))
    assert (kept.pool.sizes.quiet, kept.pool.sizes.busy, kept.pool.sizes.lanes) == (2, 5, 5)


@pytest.mark.parametrize(("method", "ended"), [("retire", "retired"), ("close", "closed")])
def test_the_end(kept: Kept, method: str, ended: str) -> None:
    """After it nothing is asked of the pool; a new session begins anew."""
    getattr(kept.lanes, method)()
    assert kept.pool.ended == ended
    kept.lanes.want(1)
    kept.lanes.retire()
    kept.pool.on_lost(ConnectFailed("late"))
    assert (kept.pool.wanted, kept.unknown) == ([], [])
    kept.follow(welcomed(b"one"))
    assert len(kept.carrier.pools) == 2


def test_a_session_that_the_node_forgot_is_told(kept: Kept) -> None:
    """PARK answered with SESSION."""
    failure = lane_pb2.Failure(code=lane_pb2.FAILURE_CODE_SESSION, message="unknown")
    kept.pool.on_lost(PeerFailed(failure.SerializeToString()))
    assert kept.unknown == [(SessionCredentials(b"one", b"secret"), Failure(9, "unknown"))]


def test_what_is_told_late_of_an_earlier_session_is_nothing(kept: Kept) -> None:
    """A node that was started again does not know the old one; the session with it is a new one, and good."""
    earlier = kept.pool
    kept.follow(welcomed(b"two"))
    earlier.on_lost(PeerFailed(lane_pb2.Failure(code=lane_pb2.FAILURE_CODE_SESSION).SerializeToString()))
    assert kept.unknown == []
    assert kept.pool.ended == ""


def test_lanes_that_cannot_be_dialled_are_a_warning(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    """Once, and not before it has lasted: a node that is gone takes the control lane with it."""
    caplog.set_level(logging.WARNING, "portway")
    kept.pool.on_lost(ConnectFailed("refused"))
    kept.now += DIALS_MAY_FAIL
    kept.pool.on_lost(ConnectFailed("refused"))
    assert caplog.text == ""
    kept.now += 1
    for _ in range(3):
        kept.pool.on_lost(ConnectFailed("refused"))
    assert caplog.text.count("visitors wait in vain: refused") == 1


def test_one_that_fails_beside_others_is_no_news(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    """Visitors have lanes."""
    caplog.set_level(logging.WARNING, "portway")
    for counts in (PoolCounts(0, 0, 0), PoolCounts(1, 0, 0), PoolCounts(0, 0, 0)):
        kept.pool.counts = counts
        kept.pool.on_lost(ConnectFailed("refused"))
        kept.now += DIALS_MAY_FAIL + 1
    assert caplog.text == ""


def test_each_reason_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    """And which tunnel it is, without its whole name, which lets in whoever reads it."""
    told = RefusedVisits()
    told.visit_refused(ONE, *UNREACHABLE)
    told.visit_refused(ONE, *OVERLOADED)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    unreachable, overloaded = (record.message for record in caplog.records)
    assert unreachable.startswith("a visitor of tunnel aaaa… found no server: 127.0.0.1:8000: Connection refused")
    assert "127.0.0.1:8000: Too many open files: raise" in overloaded


def test_many_visitors_are_told_of_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    """Of each tunnel."""
    clock = ManualClock()
    told = RefusedVisits(clock)
    for _ in range(3):
        told.visit_refused(ONE, *UNREACHABLE)
        told.visit_refused(OTHER, *UNREACHABLE)
        clock.now += LOG_AGAIN_AFTER / 3
    assert len(caplog.records) == 2
    told.visit_refused(ONE, *UNREACHABLE)
    assert len(caplog.records) == 3


def test_a_tunnel_that_was_closed_just_now_is_nothing_to_tell(caplog: pytest.LogCaptureFixture) -> None:
    """Its visitor was on the way."""
    RefusedVisits().visit_refused(ONE, RefusalReason.NOT_HERE, "no such tunnel here")
    assert not caplog.records
