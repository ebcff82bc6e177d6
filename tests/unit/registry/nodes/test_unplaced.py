"""What is found unplaced, and when it is removed."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_registry.errors import StoreUnavailable
from portway_registry.nodes.unplaced import UnplacedTunnels
from portway_registry.state import keys
from portway_registry.state.views import Item
from portway_testkit.clusters.views import ViewedStore
from portway_testkit.signers import NOW_MS, SessionSigner, tunnel_info

MINUTE = 60_000


@dataclass(eq=False)
class Session:
    """A node's session, of which only this much is looked at."""

    is_idle: bool = True
    removed: list[str] = field(default_factory=list)

    def remove_unplaced(self, tunnel: Item[TunnelInfo]) -> None:
        self.removed.append(tunnel.name)


class Held:
    """A tunnel at fra-1, placed by a presence of NOW_MS, with a good token."""

    def __init__(self, cluster: ViewedStore) -> None:
        self.cluster = cluster
        self.session = Session()
        self.now_ms = NOW_MS
        self.signer = SessionSigner()
        self.tunnel = tunnel_info(self.signer.claim(node="fra-1"), "fra")
        self.tunnel.token_id = "token1"
        sessions: Any = {"fra-1": self.session}
        self.unplaced = UnplacedTunnels(cluster.views, sessions, lambda: self.now_ms)

    async def put_presence(self, *, lists: bool, node: str = "fra-1") -> None:
        if not lists:
            self.signer.held.clear()
        presence = self.signer.present(node, time_ms=self.now_ms)
        await self.cluster.store.put(keys.presence(presence.session_key), presence.encoded)
        await self.cluster.settle()

    async def looks(self, number: int) -> list[str]:
        for _ in range(number):
            await self.unplaced.look()
        return self.session.removed


@pytest.fixture
async def held(cluster: ViewedStore) -> Held:
    held = Held(cluster)
    await cluster.put_token("token1")
    await cluster.put_tunnel(held.tunnel)
    await held.put_presence(lists=True)
    return held


async def test_a_tunnel_that_is_placed_stays(held: Held) -> None:
    """As long as the presence is believed: for 22 minutes, seven and the leeway of clocks."""
    held.now_ms += 22 * MINUTE
    assert await held.looks(3) == []


async def test_a_tunnel_whose_presence_ended_is_removed(held: Held) -> None:
    """At the second look that finds it so."""
    held.now_ms += 22 * MINUTE + 1
    assert await held.looks(1) == []
    assert await held.looks(1) == [held.tunnel.label]


async def test_a_closed_tunnel_of_a_session_that_goes_on_is_removed(held: Held) -> None:
    """A node that keeps announcing it does not keep its tenant's place."""
    await held.put_presence(lists=False)
    assert await held.looks(2) == [held.tunnel.label]


async def test_a_tunnel_of_a_session_that_is_elsewhere_is_removed(held: Held) -> None:
    """A presence at another node places nothing here."""
    held.signer.claim(node="lon-1")
    await held.put_presence(lists=True, node="lon-1")
    assert await held.looks(2) == [held.tunnel.label]


async def test_a_tunnel_of_a_revoked_token_is_removed(held: Held) -> None:
    """Whatever its node says."""
    await held.cluster.put_token("token1", revoked_at_ms=NOW_MS)
    assert await held.looks(2) == [held.tunnel.label]


async def test_a_node_whose_announcements_wait_is_left_alone(held: Held) -> None:
    """After an outage of the store its renewed presences are among them."""
    held.now_ms += 60 * MINUTE
    await held.looks(1)
    held.session.is_idle = False
    await held.looks(1)
    held.session.is_idle = True
    await held.put_presence(lists=True)
    assert await held.looks(3) == []


async def test_what_is_found_must_be_found_twice_in_a_row(held: Held) -> None:
    """A presence that came in between counts; so does another binding of the label."""
    held.now_ms += 60 * MINUTE
    await held.looks(1)
    await held.put_presence(lists=True)
    await held.looks(1)
    held.now_ms += 60 * MINUTE
    assert await held.looks(1) == []


@pytest.mark.parametrize("hidden", ["presence", "token"])
async def test_what_the_view_does_not_show_is_looked_for_in_the_store(
    held: Held, monkeypatch: pytest.MonkeyPatch, hidden: str
) -> None:
    """The view may be behind; what the store lacks too is removed."""
    views = held.cluster.views
    if hidden == "presence":
        monkeypatch.setattr(views.presences, "of_session", lambda key: None)
    else:
        monkeypatch.setattr(views.tokens, "get", lambda name: None)
    assert await held.looks(3) == []
    if hidden == "presence":
        held.now_ms += 22 * MINUTE + 1
    else:
        await held.cluster.store.delete(keys.token("token1"))
    assert await held.looks(1) == [held.tunnel.label]


async def test_nothing_is_removed_while_the_store_is_away(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the view shows may be of before; it is looked at again."""

    async def away(names: object) -> None:
        raise StoreUnavailable("away")

    held.now_ms += 60 * MINUTE
    with monkeypatch.context() as outage:
        outage.setattr(held.cluster.views.presences, "read", away)
        assert await held.looks(3) == []
    assert await held.looks(1) == [held.tunnel.label]
