"""Which visits make room when a token's hold too much, or the node has too little memory."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from portway_proto.v1.types_pb2 import TunnelOptions
from portway_relay.memory_limit import MIB, MemoryLimit, choose
from portway_relay.routing.tunnel import Tunnel
from portway_testkit.signers import SessionSigner

KIB = 1024
CLAIM = SessionSigner().claim(node="here")


@dataclass(eq=False)
class HeldVisit:
    buffered: int
    was_cut: bool = False

    def cut(self) -> None:
        self.was_cut = True


@dataclass
class Node:
    """A node that uses `used` bytes; its limit is 100 MiB, and that of a token 10."""

    used: int = 0
    visits: list[tuple[Any, Any]] = field(default_factory=list)
    dropped: int = 0
    returned: int = 0

    def __post_init__(self) -> None:
        self.memory = MemoryLimit(
            100 * MIB,
            10 * MIB,
            lambda: self.visits,
            self.drop_closing,
            resident=lambda: self.used,
            return_freed=self.return_freed,
        )

    def drop_closing(self) -> None:
        self.dropped += 1

    def return_freed(self) -> None:
        self.returned += 1

    def visit(self, destination: Any, mib: float) -> HeldVisit:
        visit = HeldVisit(int(mib * MIB))
        self.visits.append((visit, destination))
        return visit

    def look(self) -> int:
        """Look, and return how many visits were cut."""
        before = len(self.visits)
        self.memory.look()
        self.visits = [(visit, to) for visit, to in self.visits if not visit.was_cut]
        return before - len(self.visits)


def tunnel_of(token_id: str) -> Tunnel:
    holder: Any = SimpleNamespace(token_id=token_id)
    return Tunnel(CLAIM, holder, TunnelOptions(), max_visits=1, opened_at_ms=0)


def route(label: str) -> Any:
    return SimpleNamespace(label=label)


def test_nobody_is_cut_while_memory_is_plenty() -> None:
    """Below half of the limit a token's visits may hold what they like."""
    node = Node(used=50 * MIB)
    node.visit(tunnel_of("t1"), 40)
    assert node.look() == 0
    assert node.returned == node.dropped == 0


def test_a_token_is_cut_to_its_share() -> None:
    """Its visits that hold most, over all its tunnels; other tokens' visits stay, however large each is."""
    node = Node(used=60 * MIB)
    visits = [node.visit(tunnel_of("t1"), size) for size in (3, 4, 3.5, 5)]
    other = node.visit(tunnel_of("t2"), 9)
    assert node.look() == 2
    assert [visit.was_cut for visit in visits] == [False, True, False, True]
    assert not other.was_cut
    assert not node.memory.scarce
    assert node.look() == 0
    assert node.returned == 1


def test_above_the_limit_whoever_holds_most_makes_room() -> None:
    """Connections that are over first; then the token with most, down to the next one, until the excess is gone.
    Labels of other nodes count for themselves."""
    node = Node(used=103 * MIB)
    large = [node.visit(tunnel_of("t1"), 2) for _ in range(4)]
    small = node.visit(tunnel_of("t2"), 1)
    elsewhere = [node.visit(route("b"), 3), node.visit(route("b"), 2), node.visit(route("c"), 3)]
    assert node.look() == 2
    assert node.dropped == 1
    assert node.memory.scarce
    assert sum(visit.was_cut for visit in large) == 2
    assert not small.was_cut
    assert not any(visit.was_cut for visit in elsewhere)
    node.used = 100 * MIB
    assert node.look() == 0
    assert not node.memory.scarce


def test_visits_that_hold_next_to_nothing_are_not_cut() -> None:
    """Cutting them would free nothing: something else has the memory."""
    node = Node(used=200 * MIB)
    visit = node.visit(tunnel_of("t1"), 0.05)
    assert node.look() == 0
    assert node.memory.scarce
    assert not visit.was_cut


def test_many_visits_are_chosen_in_little_time() -> None:
    """Twenty thousand, of a thousand tokens."""
    held: list[Any] = [(f"t{number % 1000}", 64 * KIB + number, HeldVisit(0)) for number in range(20_000)]
    assert len(choose(held, 10 * 64 * KIB, 0)) == pytest.approx(11_000, rel=0.1)


def test_without_settings_the_limits_follow_the_memory_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of it, and an eighth of that for a token."""
    monkeypatch.setattr("portway_relay.process_memory.available", lambda: 1024 * MIB)
    used = 300 * MIB
    visits: list[Any] = [(HeldVisit(33 * MIB), tunnel_of("t1")) for _ in range(2)]
    memory = MemoryLimit(0, 0, lambda: visits, lambda: None, resident=lambda: used, return_freed=lambda: None)
    memory.look()
    assert [visit.was_cut for visit, _ in visits].count(True) == 1
    used = 513 * MIB
    memory.look()
    assert memory.scarce
