"""What a registry is told of the tunnels: changes in batches, everything after a registration, nothing twice."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from portway_proto.v1.mesh_pb2 import Announce
from portway_proto.v1.types_pb2 import TunnelOptions
from portway_proto.wire.statements import Presence
from portway_relay.registry_link.outbox import Outbox
from portway_relay.routing.tunnel import HomeNode
from portway_testkit.signers import SessionSigner


@dataclass(eq=False)
class FakeHolder:
    """A session with a presence."""

    grant_token: str = "a grant"
    presence: Presence | None = field(default_factory=lambda: SessionSigner().present("relay-1"))
    token_id: str = "t1"


@dataclass
class FakeRaw:
    port: int
    ticket: bytes = b"a ticket"


@dataclass(eq=False)
class FakeTunnel:
    """A tunnel, as far as it is announced."""

    label: str
    epoch: int = 1
    holder: Any = field(default_factory=FakeHolder)
    raw: Any = None
    options: TunnelOptions = field(default_factory=TunnelOptions)
    opened_at_ms: int = 7
    host: str = ""
    claim: Any = field(default_factory=lambda: SessionSigner().claim(node="relay-1"))


@pytest.fixture
async def outbox() -> Outbox:
    return Outbox(HomeNode("relay-1", "fra", "fra.example.com").describe)


@pytest.fixture
async def connected(outbox: Outbox) -> Outbox:
    """A registry has been told everything, which is nothing."""
    outbox.whole([])
    return outbox


def bound(outbox: Outbox, *tunnels: FakeTunnel) -> None:
    for tunnel in tunnels:
        outbox.bound(tunnel)  # type: ignore[arg-type]


def take(outbox: Outbox) -> Announce:
    batch = outbox.take()
    assert batch is not None
    return batch


async def test_a_registration_is_followed_by_everything(outbox: Outbox) -> None:
    """One batch, marked as all that the node holds: whatever else the store has of it is stale."""
    tunnels: Any = [FakeTunnel("a"), FakeTunnel("b", epoch=3)]
    batch = outbox.whole(tunnels)
    assert batch.full
    assert [(one.label, one.epoch) for one in batch.bound] == [("a", 1), ("b", 3)]
    assert not batch.withdrawn
    assert outbox.take() is None


async def test_a_tunnel_is_announced_with_all_that_others_need(connected: Outbox) -> None:
    """Its claim, its options, its raw port with the ticket, its host; not whose it is, which the grant says."""
    tunnel = FakeTunnel("a", epoch=2, options=TunnelOptions(h2_enabled=True))
    bound(connected, tunnel, FakeTunnel("b", raw=FakeRaw(20_001)))
    first, second = take(connected).bound
    assert (first.label, first.epoch, first.claim) == ("a", 2, tunnel.claim.encoded)
    assert (first.node, first.region, first.host) == ("relay-1", "fra", "a.fra.example.com")
    assert (first.tenant, first.token_id, first.opened_at_ms) == ("", "", 7)
    assert first.options.h2_enabled
    assert (first.unencrypted_port, first.ticket) == (0, b"")
    assert (second.unencrypted_port, second.ticket) == (20_001, b"a ticket")


async def test_the_sessions_of_a_batch_are_announced_with_it(connected: Outbox) -> None:
    """Each once, with its newest grant and presence; also one whose presence was renewed, and with everything."""
    one, two, renewed = FakeHolder("1"), FakeHolder("2"), FakeHolder("3")
    tunnels: Any = [FakeTunnel("a", holder=one), FakeTunnel("b", holder=one), FakeTunnel("c", holder=two)]
    bound(connected, *tunnels)
    connected.presence_renewed(renewed)  # type: ignore[arg-type]
    one.grant_token = "a newer grant"
    batch = take(connected)
    assert [session.grant for session in batch.sessions] == ["a newer grant", "2", "3"]
    assert renewed.presence is not None
    assert batch.sessions[2].presence == renewed.presence.encoded
    connected.presence_renewed(renewed)  # type: ignore[arg-type]
    batch = take(connected)
    assert ([session.grant for session in batch.sessions], list(batch.bound)) == (["3"], [])
    assert [session.grant for session in connected.whole(tunnels).sessions] == ["a newer grant", "2"]


async def test_changes_are_gathered_into_one_batch(connected: Outbox) -> None:
    """Taken once; there is no empty batch."""
    bound(connected, FakeTunnel("a"), FakeTunnel("b"))
    connected.withdrawn("c", 4)
    batch = take(connected)
    assert [one.label for one in batch.bound] == ["a", "b"]
    assert [(one.label, one.epoch) for one in batch.withdrawn] == [("c", 4)]
    assert not batch.full
    assert connected.take() is None


async def test_of_one_label_only_the_last_news_count(connected: Outbox) -> None:
    """Bound and let go in one batch is let go; let go and bound again is bound, once."""
    bound(connected, FakeTunnel("a"), FakeTunnel("b"))
    connected.withdrawn("a", 1)
    connected.withdrawn("b", 1)
    bound(connected, FakeTunnel("b", epoch=2), FakeTunnel("b", epoch=3))
    batch = take(connected)
    assert [(one.label, one.epoch) for one in batch.bound] == [("b", 3)]
    assert [one.label for one in batch.withdrawn] == ["a"]


async def test_batches_are_numbered_without_end(outbox: Outbox) -> None:
    """Across registrations too: an answer to an old batch is none to a new one."""
    numbers = [outbox.whole([]).batch]
    bound(outbox, FakeTunnel("a"))
    numbers.append(take(outbox).batch)
    outbox.disconnected()
    numbers.append(outbox.whole([]).batch)
    assert numbers == [1, 2, 3]


async def test_without_a_registry_nothing_is_kept(outbox: Outbox) -> None:
    """An outage of days costs no memory: the next registration tells everything."""
    bound(outbox, FakeTunnel("a"))
    assert outbox.take() is None
    outbox.whole([])
    bound(outbox, FakeTunnel("b"))
    outbox.disconnected()
    outbox.withdrawn("b", 1)
    assert outbox.take() is None
    assert not outbox.whole([]).bound


async def test_what_changed_before_everything_was_told_is_not_told_again(connected: Outbox) -> None:
    """A second registration on one stream: the whole state has the change in it."""
    tunnel: Any = FakeTunnel("a")
    bound(connected, tunnel)
    assert [one.label for one in connected.whole([tunnel]).bound] == ["a"]
    assert connected.take() is None


async def test_news_wake_who_tells_them(connected: Outbox) -> None:
    """Each change sets the event; without a registry there are no news."""
    connected.filled.clear()
    bound(connected, FakeTunnel("a"))
    assert connected.filled.is_set()
    connected.filled.clear()
    connected.withdrawn("a", 1)
    assert connected.filled.is_set()
    connected.disconnected()
    connected.filled.clear()
    bound(connected, FakeTunnel("a"))
    assert not connected.filled.is_set()
