"""A node as placement sees it."""

import pytest
from portway_geo.position import Position
from portway_proto.v1.types_pb2 import NODE_STATE_CORDONED, NODE_STATE_DRAINING, NODE_STATE_READY, NodeInfo, NodeState
from portway_registry.placement.placed_nodes import FULL_VISITS, PlacedNode, placed_node


def node(sessions: int = 0, max_sessions: int = 0, visits: int = 0, *, ready: bool = True) -> PlacedNode:
    return PlacedNode("a", "fra", None, ready, sessions, max_sessions, visits)


@pytest.mark.parametrize(
    ("placed", "takes"),
    [
        (node(), True),
        (node(sessions=10_000), True),
        (node(sessions=9, max_sessions=10), True),
        (node(sessions=10, max_sessions=10), False),
        (node(sessions=11, max_sessions=10), False),
        (node(ready=False), False),
    ],
)
def test_who_takes_clients(placed: PlacedNode, takes: bool) -> None:
    """A node that is ready and not full; 0 is no limit."""
    assert placed.takes_clients is takes


@pytest.mark.parametrize(
    ("placed", "penalty"),
    [
        (node(), 0),
        (node(sessions=5, max_sessions=10), 8),
        (node(sessions=9, max_sessions=10), 24),
        (node(visits=FULL_VISITS), 30),
        (node(visits=FULL_VISITS * 5), 30),
        (node(sessions=5, max_sessions=10, visits=FULL_VISITS), 30),
        (node(sessions=1, max_sessions=100), 0),
    ],
)
def test_load_costs_by_the_square(placed: PlacedNode, penalty: int) -> None:
    """Half full costs a quarter of full, whichever limit is nearer; a little load costs nothing."""
    assert placed.penalty_ms == penalty


@pytest.mark.parametrize(
    ("latitude", "longitude", "position"),
    [
        (50.1, 8.7, Position(50.1, 8.7)),
        (0.0, 0.0, None),
        (0.0, 8.7, Position(0.0, 8.7)),
        (91.0, 0.0, None),
        (0.0, -181.0, None),
        (float("nan"), 1.0, None),
    ],
)
def test_a_position_is_read_where_there_is_one(latitude: float, longitude: float, position: Position | None) -> None:
    """Both zero means unknown, and so do degrees that are none."""
    info = NodeInfo(name="a", region="fra", latitude=latitude, longitude=longitude, state=NODE_STATE_READY)
    assert placed_node(info).position == position


@pytest.mark.parametrize(
    ("state", "ready"),
    [(NODE_STATE_READY, True), (NODE_STATE_CORDONED, False), (NODE_STATE_DRAINING, False), (0, False)],
)
def test_only_a_ready_node_is_ready(state: "NodeState.ValueType", ready: bool) -> None:
    """Cordoned, draining and untold are not."""
    assert placed_node(NodeInfo(state=state)).ready is ready
