"""What clients may send outside visits: budgets of frames and bytes, for each lane and for each token.

A lane above its budget is not read until the budget has caught up, and closed when that would take too long: its peer
waits, and nobody else does. Not here: counting the frames (the carrier), what single requests may cost besides
(session_tunnels.py, routing/statement_checks.py).
"""

from typing import Final

from portway_carrier.contract import FrameBudget
from portway_runtime.clocks import Monotonic
from portway_runtime.rates import KeyedRate, TokenBucket

from portway_relay.config import NodeLimits
from portway_relay.net.data_lane_budget import BYTES_PER_FRAME, UNREAD, DataLaneBudget

# Tokens whose buckets are remembered: twice the sessions that a node takes by default.
_TOKENS: Final = 10_000


class FrameBudgets:
    """The budgets of a node's clients."""

    def __init__(self, limits: NodeLimits, clock: Monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._tokens: KeyedRate[str] = KeyedRate(
            limits.token_frames_per_second, limits.token_frame_burst, clock, _TOKENS
        )

    def control_lane(self, token_id: str) -> FrameBudget:
        """For the control lane of a session of this token: its own bucket, and the token's on this node."""
        limits = self._limits
        lane = TokenBucket(limits.lane_frames_per_second, limits.lane_frame_burst, self._clock)
        return _ControlLaneBudget(lane, self._tokens, token_id)

    def data_lane(self) -> FrameBudget:
        """For a data lane. Its token is not charged: thousands of idle lanes answer PINGs."""
        return DataLaneBudget(self._clock)


class _ControlLaneBudget:
    __slots__ = ("_lane", "_token_id", "_tokens")
    unread: Final = UNREAD

    def __init__(self, lane: TokenBucket, tokens: KeyedRate[str], token_id: str) -> None:
        self._lane = lane
        self._tokens = tokens
        self._token_id = token_id

    def charge(self, frames: int, size: int) -> float:
        cost = frames + size / BYTES_PER_FRAME
        return max(self._lane.charge(cost), self._tokens.charge(self._token_id, cost))
