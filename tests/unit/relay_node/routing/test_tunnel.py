"""A tunnel's counts, the store of tunnels, and how a label is shown."""

from typing import Any

import pytest
from portway_proto.v1.types_pb2 import TunnelOptions
from portway_proto.wire.frames import Opening
from portway_proto.wire.labels import short_label
from portway_proto.wire.statements import SigningKey, StatementInvalid
from portway_relay.routing.tunnel import HeldTunnels, HomeNode, Tunnel, claim_of
from portway_testkit.signers import SessionSigner, label_of, tunnel_info

KEY = SigningKey(b"\x08" * 32)
LABEL = label_of(KEY)
CLAIM = SessionSigner().claim(KEY, node="here", epoch=1)


class FakeVisit:
    """Remembers that it was cut; its end comes at once, as a cruel carrier might tell it."""

    opening = Opening(LABEL, "192.0.2.7", 4711)
    bytes_in = bytes_out = buffered = 0
    unreached_for: float | None = None

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self.cuts = 0

    def close(self) -> None: ...

    def take_back(self) -> None: ...

    def cut(self) -> None:
        self.cuts += 1
        self._tunnel.visits.discard(self)


def tunnel(max_visits: int = 2) -> Tunnel:
    holder: Any = object()
    return Tunnel(CLAIM, holder, TunnelOptions(), max_visits=max_visits, opened_at_ms=0)


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
    """Logs get a label's beginning; a tunnel that is printed by accident shows neither label nor claim."""
    assert short_label(LABEL) == f"{LABEL[:4]}…"
    assert LABEL not in repr(tunnel())
    assert "claim" not in repr(tunnel())


@pytest.mark.parametrize("changed", ["label", "node", "epoch", "h2_enabled", "claim"])
def test_a_description_says_what_its_claim_says(changed: str) -> None:
    """Nodes and registries go by the claim: what is beside it must be the same."""
    described = tunnel_info(CLAIM)
    assert claim_of(described) == CLAIM
    if changed == "label":
        described.label = "k5zq2w7b3xav6mdy"
    elif changed == "node":
        described.node = "there"
    elif changed == "epoch":
        described.epoch += 1
    elif changed == "h2_enabled":
        described.options.h2_enabled = True
    else:
        described.claim = b"short"
    with pytest.raises(StatementInvalid):
        claim_of(described)


def test_nobody_is_told_whose_a_tunnel_is() -> None:
    """Neither other nodes nor a registry, which reads it from the grant."""
    described = HomeNode("here", "fra", "fra.example.com").describe(tunnel())
    assert (described.tenant, described.token_id) == ("", "")
    assert described.claim == CLAIM.encoded
    assert claim_of(described) == CLAIM


OWN = f"{CLAIM.label}.fra.example.com"


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("", OWN),
        (OWN, OWN),
        (f"{CLAIM.label}.iad-2.example.com", f"{CLAIM.label}.iad-2.example.com"),
        (f"{'a' * 16}.iad.example.com", OWN),
        (f"{CLAIM.label}.iad.example.org", OWN),
        (f"{CLAIM.label}.example.com", OWN),
        (f"{CLAIM.label}.a.iad.example.com", OWN),
        (f"{CLAIM.label}.-.example.com", OWN),
        (f"{CLAIM.label}.\x1b[2J.example.com", OWN),
        (f"{CLAIM.label}.{'a' * 64}.example.com", OWN),
    ],
)
def test_a_tunnel_is_told_under_the_host_of_its_url(host: str, told: str) -> None:
    """Which has the region that it was opened in. A client's word counts for a host of its label in this domain."""
    one = tunnel()
    one.host = host
    assert HomeNode("here", "fra", "fra.example.com").describe(one).host == told


class Holder:
    """Holds tunnels for a token of one tenant."""

    def __init__(self, token_id: str) -> None:
        self.token_id = token_id
        self.tenant = "acme"
        self.presence = SessionSigner().present("here")


LABELS = {name: label_of(SigningKey(name.encode() * 32)) for name in "abc"}


def held(name: str, token_id: str = "t1") -> Tunnel:
    holder: Any = Holder(token_id)
    claim = SessionSigner().claim(SigningKey(name.encode() * 32), node="here", epoch=3)
    return Tunnel(claim, holder, TunnelOptions(), max_visits=1, opened_at_ms=0)


def test_the_store_counts_live_tunnels() -> None:
    """All of them, and those of each token; a suspended one is there, and does not count."""
    tunnels, one, two, other = HeldTunnels(), held("a"), held("b"), held("c", "t2")
    for each in (one, two, other):
        tunnels.add(each)
    assert (len(tunnels), tunnels.live_of_token("t1"), tunnels.live_of_token("t2")) == (3, 2, 1)
    tunnels.set_live(one, False)
    tunnels.set_live(one, False)
    assert (len(tunnels), tunnels.live_of_token("t1"), tunnels.live_of_tenant("acme")) == (2, 1, 2)
    assert (tunnels.live(LABELS["a"]), tunnels.get(LABELS["a"]), tunnels.claim(LABELS["a"])) == (None, one, one.claim)
    assert list(tunnels.all_live()) == [two, other]
    assert list(tunnels.presences()) == [two.holder.presence, other.holder.presence]
    tunnels.set_live(one, True)
    assert tunnels.live(LABELS["a"]) is one


def test_a_removed_tunnel_is_not_live() -> None:
    """Removed live or suspended, nothing of it is left in the counts."""
    tunnels, one, two = HeldTunnels(), held("a"), held("b")
    tunnels.add(one)
    tunnels.add(two)
    tunnels.set_live(two, False)
    tunnels.remove(one)
    tunnels.remove(two)
    assert (len(tunnels), tunnels.live_of_token("t1"), one.live, two.live) == (0, 0, False, False)
    assert (tunnels.get(LABELS["a"]), tunnels.live(LABELS["a"]), tunnels.claim(LABELS["a"])) == (None, None, None)
