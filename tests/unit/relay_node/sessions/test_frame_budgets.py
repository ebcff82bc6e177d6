"""Budgets of frames outside visits: of a lane, and of all lanes of a token."""

import pytest
from portway_relay.config import NodeLimits
from portway_relay.sessions.frame_budgets import FrameBudgets
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.node_sessions import NodeSessions

LIMITS = NodeLimits(lane_frames_per_second=10, lane_frame_burst=100, token_frames_per_second=20, token_frame_burst=250)


def test_a_lane_waits_for_what_it_sent_above_its_budget(clock: ManualClock) -> None:
    """Frames count, and each KiB as one more; the lane beside it does not wait."""
    budgets = FrameBudgets(LIMITS, clock)
    lane, beside = budgets.control_lane("t1"), budgets.control_lane("t1")
    assert lane.charge(50, 50 * 1024) == 0
    assert lane.charge(9, 1024) == 1.0
    assert beside.charge(1, 0) == 0
    clock.now += 1.0
    assert lane.charge(1, 0) == pytest.approx(0.1)


def test_all_control_lanes_of_a_token_share_its_budget(clock: ManualClock) -> None:
    """Many lanes, each within its own, wait for each other; those of another token do not."""
    budgets = FrameBudgets(LIMITS, clock)
    waits = [budgets.control_lane("t1").charge(100, 0) for _ in range(3)]
    assert waits == [0, 0, 50 / 20]
    assert budgets.control_lane("t2").charge(100, 0) == 0


def test_a_data_lane_has_a_small_budget_of_its_own(clock: ManualClock) -> None:
    """Enough for a PING and a PONG every few seconds; its token's control lanes do not wait for it."""
    budgets = FrameBudgets(LIMITS, clock)
    lane = budgets.data_lane()
    for _ in range(1_000):
        assert lane.charge(2, 24) == 0
        clock.now += 5
    assert lane.charge(10_000, 120_000) > 60
    assert budgets.control_lane("t1").charge(1, 0) == 0


async def test_each_lane_of_a_client_has_a_budget(node: NodeSessions) -> None:
    """The control lane from HELLO on, a data lane from PARK on."""
    client = await node.attach()
    assert client.lane.budget is not None
    assert node.park(client.welcome).budget is not None
