"""Whose word about a raw port counts."""

import pytest
from portway_relay.config import PortRange
from portway_relay.raw_ports.owners import PortOwners
from portway_relay.raw_ports.tickets import Ticket
from portway_testkit.fakes.raw_ports import signed_by

PORT, OWN = 20_070, 20_003


@pytest.fixture
def owners() -> PortOwners:
    owners = PortOwners("here", lambda port: port < 20_064)
    owners.learn([(PortRange(20_064, 20_127), "a"), (PortRange(20_128, 20_191), "b")])
    return owners


def ticket(node: str, label: str, time_ms: int = 1, port: int = PORT) -> Ticket:
    return signed_by(node, time_ms=time_ms)(label, port)


def test_a_port_is_its_owners_to_give(owners: PortOwners) -> None:
    """A ticket of any other node gives nothing, whatever its time."""
    assert owners.newest(ticket("b", "one", 9)) is None
    assert owners.newest(ticket("here", "one", 9)) is None
    mine = ticket("a", "one")
    assert owners.newest(mine) is mine
    assert owners.newest(ticket("a", "one", port=30_000)) is None


def test_own_blocks_need_no_registrys_list(owners: PortOwners) -> None:
    """This node knows of them first; nobody else has a port of them, not even by a list that says so."""
    owners.learn([(PortRange(20_000, 20_063), "a")])
    assert owners.newest(ticket("a", "one", port=OWN)) is None
    assert owners.newest(ticket("here", "one", port=OWN)) is not None


def test_of_two_tickets_the_later_one_counts(owners: PortOwners) -> None:
    """Its owner has given the port to another label after a rest."""
    before, after = ticket("a", "one", 1), ticket("a", "two", 2)
    assert owners.newest(before) is before
    assert owners.newest(after) is after
    assert owners.newest(before) is None
    assert owners.newest(ticket("a", "two", 1)) is after, "the label keeps its port by an older ticket of its own"


def test_a_block_that_another_node_has_by_now(owners: PortOwners) -> None:
    """Tickets of the node before, however late their time, are in nobody's way."""
    assert owners.newest(ticket("a", "one", 2**60)) is not None
    owners.learn([(PortRange(20_064, 20_127), "b")])
    assert owners.newest(ticket("a", "one", 2**60)) is None
    assert owners.newest(ticket("b", "two")) is not None


def test_what_this_node_has_signed_is_its_newest(owners: PortOwners) -> None:
    """The label that had the port before shows its ticket, which is genuine, and gets nothing; a ticket of this node's
    that a later start of it has signed counts again."""
    before, mine = ticket("here", "one", 1, OWN), ticket("here", "two", 2, OWN)
    assert owners.signed(mine) is mine
    assert owners.newest(before) is None
    assert owners.newest(mine) is mine
    later = ticket("here", "one", 3, OWN)
    assert owners.newest(later) is later
