"""Budgets of what other nodes send outside visits."""

import time

import pytest
from portway_carrier.values import Limits
from portway_proto.v1.lane_pb2 import Answer, Gone, Routes
from portway_proto.wire.frames import FrameType
from portway_relay.mesh import frame_budgets
from portway_relay.mesh.frame_budgets import PeerBudgets
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.links import mesh_lanes
from portway_testkit.links.carrier_link import until
from portway_testkit.links.mesh_lanes import Make

MANY = 1_000
LETTERS = str.maketrans("0123456789", "abcdefghij")


@pytest.fixture
def budgets(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> PeerBudgets:
    monkeypatch.setattr(frame_budgets, "_PER_SECOND", 10)
    monkeypatch.setattr(frame_budgets, "_BURST", 100.0)
    return PeerBudgets(clock)


def test_frames_entries_and_bytes_count(budgets: PeerBudgets, clock: ManualClock) -> None:
    """Each, and each 100 bytes, as one."""
    lane = budgets.control_lane("two")
    assert lane.charge(50, 2_000) == 0
    lane.entries(30)
    assert lane.charge(5, 500) == 1.0
    clock.now += 1.0
    assert lane.charge(0, 0) == 0


def test_all_control_lanes_of_a_node_share_its_budget(budgets: PeerBudgets) -> None:
    """Those of both directions, and one that is dialled after another was closed; no other node waits for it."""
    budgets.control_lane("two").charge(110, 0)
    assert budgets.control_lane("two").charge(0, 0) == 1.0
    assert budgets.control_lane("three").charge(100, 0) == 0
    assert budgets.data_lane().charge(2, 24) == 0


async def test_what_comes_on_either_control_lane_is_charged(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a node reports on the lane that it dialled, with its entries, and what it answers on the other one."""
    monkeypatch.setattr(frame_budgets, "_PER_SECOND", MANY)
    monkeypatch.setattr(frame_budgets, "_BURST", 2.0 * MANY)
    one, two = make("one"), make("two")
    one.update_peers([two.info])
    await until(lambda: one.peers.answers("two") and "one" in two.inbound_lanes.connected)
    of_one, of_two = two.budgets.control_lane("one"), one.budgets.control_lane("two")
    peer = one.peers.get("two")
    assert peer is not None
    for _ in range(2):
        peer.control.tell(Routes(gone=[Gone(label="a", epoch=1)] * MANY))
    await until(lambda: of_one.charge(0, 0) > 0)
    for lane in two.inbound_lanes:
        for _ in range(2 * MANY):
            lane.send(FrameType.ANSWER, Answer(request=1).SerializeToString())
    await until(lambda: of_two.charge(0, 0) > 0)


async def test_a_long_report_is_read_slowly_and_heard(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """For longer than the node that reports waits for a sign of life: its PINGs wait behind the report."""
    monkeypatch.setattr(frame_budgets, "_PER_SECOND", 25_000)
    monkeypatch.setattr(frame_budgets, "_BURST", 0.0)
    monkeypatch.setattr(mesh_lanes, "Limits", lambda **_: Limits(ping_interval=1.0))
    one, two = make("one"), make("two")
    for number in range(50_000):
        one.hold(f"{number:016}".translate(LETTERS))
    began = time.monotonic()
    one.update_peers([two.info])
    await until(lambda: bool(two.wholes))
    assert time.monotonic() - began > Limits(ping_interval=1.0).ping_interval * Limits().silences
    assert sum(len(routes.bound) for _, routes in two.heard) == len(one.holds)
