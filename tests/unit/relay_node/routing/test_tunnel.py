"""A tunnel's counts, the store of tunnels, and how a label is shown."""

from typing import Any

from portway_proto.wire.frames import Opening
from portway_proto.wire.labels import Epoch, Label, short_label
from portway_relay.routing.tunnel import HeldTunnels, Tunnel

LABEL = Label("k5zq2w7b3xav6mdy")


class FakeVisit:
    """Remembers that it was cut; its end comes at once, as a cruel carrier might tell it."""

    opening = Opening(LABEL, "192.0.2.7", 4711)
    bytes_in = bytes_out = buffered = 0

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self.cuts = 0

    def cut(self) -> None:
        self.cuts += 1
        self._tunnel.visits.discard(self)


def tunnel(max_visits: int = 2) -> Tunnel:
    holder: Any = object()
    return Tunnel(LABEL, Epoch(1), b"proof", holder, h2_enabled=False, max_visits=max_visits, opened_at_ms=0)


def test_a_tunnel_is_full_at_its_limit() -> None:
    """As many visits as the limit and no more are taken."""
    of_two = tunnel(2)
    assert not of_two.full
    of_two.visits.add(FakeVisit(of_two))
    assert not of_two.full
    of_two.visits.add(FakeVisit(of_two))
    assert of_two.full


def test_cutting_reaches_every_visit() -> None:
    """Visits that leave while others are cut disturb nobody."""
    cut = tunnel(5)
    visits = [FakeVisit(cut) for _ in range(5)]
    cut.visits.update(visits)
    cut.cut_visits()
    assert [visit.cuts for visit in visits] == [1] * 5
    assert not cut.visits


def test_tunnels_are_told_apart_by_identity() -> None:
    """The same label and epoch, bound twice, are two tunnels: a late goodbye must not hit the new one."""
    assert tunnel() != tunnel()
    assert len({tunnel(), tunnel()}) == 2


def test_secrets_are_not_shown() -> None:
    """Logs get a label's beginning; a tunnel that is printed by accident shows neither label nor proof."""
    assert short_label(LABEL) == "k5zq…"
    assert LABEL not in repr(tunnel())
    assert "proof" not in repr(tunnel())


class Holder:
    """Holds tunnels for a token of one tenant."""

    def __init__(self, token_id: str) -> None:
        self.token_id = token_id
        self.tenant = "acme"


def held(label: str, token_id: str = "t1") -> Tunnel:
    holder: Any = Holder(token_id)
    return Tunnel(Label(label), Epoch(3), b"proof", holder, h2_enabled=False, max_visits=1, opened_at_ms=0)


def test_the_store_counts_live_tunnels() -> None:
    """All of them, and those of each token; a suspended one is there, and does not count."""
    tunnels, one, two, other = HeldTunnels(), held("a"), held("b"), held("c", "t2")
    for each in (one, two, other):
        tunnels.add(each)
    assert (len(tunnels), tunnels.live_of_token("t1"), tunnels.live_of_token("t2")) == (3, 2, 1)
    tunnels.set_live(one, False)
    tunnels.set_live(one, False)
    assert (len(tunnels), tunnels.live_of_token("t1"), tunnels.live_of_tenant("acme")) == (2, 1, 2)
    assert (tunnels.live("a"), tunnels.get("a"), tunnels.epoch("a")) == (None, one, 3)
    assert list(tunnels.all_live()) == [two, other]
    tunnels.set_live(one, True)
    assert tunnels.live("a") is one


def test_a_removed_tunnel_is_not_live() -> None:
    """Removed live or suspended, nothing of it is left in the counts."""
    tunnels, one, two = HeldTunnels(), held("a"), held("b")
    tunnels.add(one)
    tunnels.add(two)
    tunnels.set_live(two, False)
    tunnels.remove(one)
    tunnels.remove(two)
    assert (len(tunnels), tunnels.live_of_token("t1"), one.live, two.live) == (0, 0, False, False)
    assert (tunnels.get("a"), tunnels.live("a"), tunnels.epoch("a")) == (None, None, 0)
