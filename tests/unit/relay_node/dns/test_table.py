"""The nodes as DNS answers know them: state, lanes, and what of a record is read again."""

from dataclasses import dataclass, field

import pytest
from portway_geo.position import Position
from portway_proto.v1.types_pb2 import NODE_STATE_CORDONED, NODE_STATE_DRAINING, NODE_STATE_READY, NodeInfo
from portway_relay.dns.nodes import Health
from portway_relay.dns.table import NodeTable, health_of

OWN = NodeInfo(name="fra-1", region="fra", addresses=["192.0.2.1"], zones=["fra.example.com"])


@dataclass
class Lane:
    lost: bool = False


@dataclass
class Peer:
    info: NodeInfo
    control: Lane = field(default_factory=Lane)


def peer(**fields: object) -> Peer:
    return Peer(NodeInfo(name="iad-1", region="iad", addresses=["192.0.2.2", "2001:db8::2"], **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "lost", "health"),
    [
        (NODE_STATE_READY, False, Health.READY),
        (0, False, Health.READY),
        (NODE_STATE_CORDONED, False, Health.CORDONED),
        (NODE_STATE_DRAINING, False, Health.DRAINING),
        (NODE_STATE_READY, True, Health.LOST),
        (NODE_STATE_DRAINING, True, Health.LOST),
    ],
)
def test_health(state: int, lost: bool, health: Health) -> None:
    assert health_of(NodeInfo(state=state), lost=lost) is health  # type: ignore[arg-type]


def test_what_is_known_of_a_node() -> None:
    other = peer(latitude=39.0, longitude=-77.5, zones=["iad.example.com"])
    table = NodeTable(lambda: OWN, lambda: [other], "example.com")
    assert table.look()
    mine, its = table.nodes
    assert (mine.ipv4, mine.ipv6, mine.position) == ((b"\xc0\0\2\1",), (), None)
    assert (its.position, its.zones) == (Position(39.0, -77.5), {"iad.example.com"})
    assert (len(its.ipv4), len(its.ipv6), its.health) == (1, 1, Health.READY)


def test_a_change_is_seen_at_the_next_look() -> None:
    own, others = [OWN], [peer()]
    table = NodeTable(lambda: own[0], lambda: others, "example.com")
    assert [table.look(), table.look()] == [True, False]
    others[0].control.lost = True
    assert [table.look(), table.look()] == [True, False]
    others[0].control.lost = False
    others[0].info = peer(state=NODE_STATE_DRAINING).info
    assert [table.look(), table.look()] == [True, False]
    assert table.nodes[1].health is Health.DRAINING
    own[0] = NodeInfo(name="fra-1", region="fra", state=NODE_STATE_DRAINING)
    assert [table.look(), table.look()] == [True, False]
    others.clear()
    assert [table.look(), table.look()] == [True, False]
    assert len(table.nodes) == 1


def test_nodes_of_another_domain_are_not_in_it() -> None:
    """Each node's own word counts where the registry names no domain."""
    table = NodeTable(lambda: OWN, lambda: [peer(domain="other.example")], "example.com")
    table.look()
    assert [node.name for node in table.nodes] == ["fra-1"]
