"""What other nodes may send outside visits: a budget for each node, for control lanes to and from it together.

A lane of a node above its budget is not read until the budget has caught up: the node waits, and nobody else does. Not
here: counting the frames (the carrier), data lanes (net/data_lane_budget.py), the checks of signatures that frames lead
to (routing/statement_checks.py).
"""

from typing import Final

from portway_carrier.contract import FrameBudget
from portway_runtime.clocks import Monotonic
from portway_runtime.rates import KeyedRate

from portway_relay.net.data_lane_budget import DataLaneBudget

# Units of a node, of some 15 µs each: a tenth of a core. A frame, an entry of ROUTES and so many bytes count as one
# each, a question as one and a quarter, a tunnel without a raw port as three.
_PER_SECOND: Final = 8_000
_BYTES: Final = 100
# The same at once: a node reports 10,000 tunnels in 5,000 sessions when its lane comes up.
_BURST: Final = 50_000
# Nodes whose buckets are remembered. One that dials again has the bucket that it had.
_NODES: Final = 2_000


class PeerBudgets:
    """The budgets of all other nodes, by name."""

    def __init__(self, clock: Monotonic) -> None:
        self._clock = clock
        self._nodes: KeyedRate[str] = KeyedRate(_PER_SECOND, _BURST, clock, _NODES)

    def control_lane(self, node: str) -> "PeerBudget":
        """For a control lane to or from this node."""
        return PeerBudget(self._nodes, node)

    def data_lane(self) -> FrameBudget:
        """For a data lane from any node. The node is not charged: thousands of idle lanes answer PINGs."""
        return DataLaneBudget(self._clock)


class PeerBudget:
    """The FrameBudget of one control lane."""

    __slots__ = ("_node", "_nodes")
    # A report of all tunnels is long, and on one machine a segment alone is of this size.
    unread: Final = 64 * 1024

    def __init__(self, nodes: KeyedRate[str], node: str) -> None:
        self._nodes = nodes
        self._node = node

    def charge(self, frames: int, size: int) -> float:
        return self._nodes.charge(self._node, frames + size / _BYTES)

    def entries(self, number: int) -> None:
        """Charge so many entries of a frame; the lane is paused when the read that brought it is charged."""
        self._nodes.charge(self._node, number)
