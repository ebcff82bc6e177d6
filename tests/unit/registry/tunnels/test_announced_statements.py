"""Which claims, presences and grants of a batch count."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from portway_proto.v1.mesh_pb2 import (
    EVICTION_REASON_INVALID,
    Announce,
    AnnouncedSession,
)
from portway_proto.wire.statements import SigningKey, read_claim
from portway_registry.errors import InvalidRequest
from portway_registry.state import keys
from portway_registry.state.views import Views
from portway_registry.store.embedded import EmbeddedStore
from portway_registry.tunnels import announcements
from portway_registry.tunnels.announcements import checked
from portway_testkit.clusters.announcing import Announcing, AnnouncingNode
from portway_testkit.clusters.registry import tunnel_info
from portway_testkit.clusters.replicas import LateStore
from portway_testkit.clusters.views import ViewedStore, settle
from portway_testkit.signers import AnnouncedClient


async def test_one_forged_tunnel_does_not_spoil_its_batch(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode
) -> None:
    """The others of the batch are written."""
    client = await announcing.client()
    good, bad = client.tunnel("fra-1"), client.tunnel("fra-1")
    bad.claim = bad.claim[:-1] + bytes([bad.claim[-1] ^ 1])
    # The presence lists what is announced, so that the signature alone is wrong.
    client.close(bad)
    client.signer.held.append(read_claim(bad.claim))
    assert await node.announce(bad, good, of=client) == [(bad.label, 1, EVICTION_REASON_INVALID)]
    assert set(await cluster.tunnels()) == {good.label}


async def test_a_claim_that_cannot_be_read_is_refused(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode
) -> None:
    """As any that is not genuine."""
    client = await announcing.client()
    good, bad = client.tunnel("fra-1"), client.tunnel("fra-1")
    bad.claim = b"no claim"
    assert await node.announce(bad, good, of=client) == [(bad.label, 1, EVICTION_REASON_INVALID)]


async def test_others_get_their_turn_while_a_batch_is_refused(
    announcing: Announcing, node: AnnouncingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every 64 of 1,000 tunnels, when they are copied and when they are judged."""
    looked_at = {"tunnel_record": 0, "read_claim": 0}

    def counted(name: str) -> Callable[[Any], Any]:
        look = getattr(announcements, name)

        def look_at(one: Any) -> Any:
            looked_at[name] += 1
            return look(one)

        return look_at

    for name in looked_at:
        monkeypatch.setattr(announcements, name, counted(name))
    tunnels = [tunnel_info() for _ in range(1_000)]
    refused = asyncio.ensure_future(node.announce(*tunnels))
    in_a_turn = []
    while not refused.done():
        before = sum(looked_at.values())
        await asyncio.sleep(0)
        in_a_turn.append(sum(looked_at.values()) - before)
    assert len(await refused) == 1_000
    assert looked_at == {"tunnel_record": 1_000, "read_claim": 1_000}
    assert max(in_a_turn) == 64


async def test_claims_of_other_nodes_are_refused(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode, other: AnnouncingNode
) -> None:
    """Neither a claim that the victim made for its own node, nor that claim with a session of the thief's, nor one that
    its client makes for it with the thief's session key."""
    victim, thief = await announcing.client(), await announcing.client("thief")
    key = SigningKey()
    theirs = victim.tunnel("lon-1", key, 5)
    shown = victim.session("lon-1")
    assert await node.announce(theirs, sessions=[shown]) == [(theirs.label, 5, EVICTION_REASON_INVALID)]
    assert await node.announce(theirs, of=thief) == [(theirs.label, 5, EVICTION_REASON_INVALID)]
    await other.announce(theirs, sessions=[shown])
    assert await node.announce(theirs, sessions=[shown]) == [(theirs.label, 5, EVICTION_REASON_INVALID)]
    assert await cluster.tunnels() == {theirs.label: ("lon-1", 5)}


async def test_a_presence_of_another_session_places_nothing(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode
) -> None:
    """A claim is for one session key; a grant is for one, too."""
    one, two = await announcing.client(), await announcing.client()
    tunnel = one.tunnel("fra-1")
    mixed = AnnouncedSession(grant=two.grant, presence=one.session("fra-1").presence)
    assert await node.announce(tunnel, sessions=[mixed]) == [(tunnel.label, 1, EVICTION_REASON_INVALID)]
    assert await node.announce(tunnel, of=two) == [(tunnel.label, 1, EVICTION_REASON_INVALID)]
    assert await node.announce(tunnel, of=one) == []


async def test_a_forged_presence_places_nothing(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode
) -> None:
    """A node cannot make tunnels in its client's name: it has no session key to present them with."""
    client, forger = await announcing.client(), await announcing.client()
    invented = client.tunnel("fra-1")
    session = client.session("fra-1")
    session.presence = session.presence[:-64] + forger.session("fra-1").presence[-64:]
    assert await node.announce(invented, sessions=[session]) == [(invented.label, 1, EVICTION_REASON_INVALID)]
    assert await cluster.store.get(keys.presence(client.signer.key.public)) is None


async def test_a_forged_grant_gives_nothing(cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode) -> None:
    """Also one that names a token which nobody has: it is not looked up."""
    client = await announcing.client()
    tunnel = client.tunnel("fra-1")
    head, _, _ = client.grant.rpartition(".")
    client.grant = f"{head}.{'A' * 86}"
    assert await node.announce(tunnel, of=client) == [(tunnel.label, 1, EVICTION_REASON_INVALID)]
    client.grant = "none"
    assert await node.announce(tunnel, of=client) == [(tunnel.label, 1, EVICTION_REASON_INVALID)]


async def test_a_session_must_be_announced(cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode) -> None:
    """A tunnel without grant and presence is nobody's."""
    client = await announcing.client()
    tunnel = client.tunnel("fra-1")
    assert await node.announce(tunnel) == [(tunnel.label, 1, EVICTION_REASON_INVALID)]


MINUTE = 60_000


@pytest.mark.parametrize(("minutes", "counts"), [(-16, False), (-14, True), (21, True), (23, False)])
async def test_a_presence_counts_for_its_time(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode, minutes: int, counts: bool
) -> None:
    """For seven minutes, with a quarter of an hour for clocks either way."""
    client = await announcing.client()
    tunnel, session = client.tunnel("fra-1"), client.session("fra-1")
    announcing.now_ms += minutes * MINUTE
    refused = [] if counts else [(tunnel.label, 1, EVICTION_REASON_INVALID)]
    assert await node.announce(tunnel, sessions=[session]) == refused


async def test_a_closed_label_stays_closed(cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode) -> None:
    """Neither the presence from before nor one of another node brings it back, though both could be believed: the
    store has the later one."""
    client = await announcing.client()
    closed, kept = client.tunnel("fra-1"), client.tunnel("fra-1")
    before = client.session("fra-1")
    await node.announce(closed, kept, sessions=[before])
    client.close(closed)
    await node.announce(withdrawn=[closed], of=client)
    for settled in (False, True):
        if settled:
            await cluster.settle()
        assert await node.announce(closed, sessions=[before]) == [(closed.label, 1, EVICTION_REASON_INVALID)]
        assert await node.announce(kept, sessions=[before]) == []
    assert set(await cluster.tunnels()) == {kept.label}


@pytest.mark.parametrize("behind", [(keys.PRESENCES,), (keys.PRESENCES, keys.TUNNELS)])
async def test_a_closed_label_stays_closed_where_the_views_are_behind(
    memory: EmbeddedStore, behind: tuple[str, ...]
) -> None:
    """The views show the presence from before as the newest one, and the tunnel or none. What the client still holds
    is taken up again."""
    failures: list[BaseException] = []
    store = LateStore(memory, owned=False)
    views = Views(store, on_failure=failures.append)
    await views.start()
    announcing, cluster = Announcing(memory, views), ViewedStore(memory, views)
    node = AnnouncingNode(cluster, announcing, "fra-1")
    client = await announcing.client()
    closed, kept = client.tunnel("fra-1"), client.tunnel("fra-1")
    before = client.session("fra-1")
    await node.announce(closed, kept, sessions=[before])
    await cluster.settle()
    store.hold(*behind)
    client.close(closed)
    await node.announce(withdrawn=[closed, kept], of=client)
    if keys.TUNNELS not in behind:
        await settle(memory, views.tunnels.mirror)
    assert await node.announce(closed, kept, sessions=[before]) == [(closed.label, 1, EVICTION_REASON_INVALID)]
    assert set(await cluster.tunnels()) == {kept.label}
    store.release()
    await views.close()
    announcing.close()
    assert not failures


async def test_the_presence_of_a_session_without_tunnels_is_not_stored(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode
) -> None:
    """Unless the store has an earlier one, also one that the view does not show yet."""
    idle, client = await announcing.client(), await announcing.client()
    await node.announce(of=idle)
    assert await cluster.store.get(keys.presence(idle.signer.key.public)) is None
    tunnel = client.tunnel("fra-1")
    await node.announce(tunnel, of=client)
    client.close(tunnel)
    await node.announce(withdrawn=[tunnel], of=client)
    entry = await cluster.store.get(keys.presence(client.signer.key.public))
    assert entry is not None
    assert entry.value == AnnouncedSession.FromString(client_presence(client)).presence


def client_presence(client: AnnouncedClient) -> bytes:
    """The session with its last presence again."""
    return client.session("fra-1", client._last_ms).SerializeToString()


async def test_a_node_brings_only_presences_at_itself(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode
) -> None:
    """What counts as another node's share of the store is not for it to fill."""
    client = await announcing.client()
    await node.announce(client.tunnel("fra-1"), of=client)
    await cluster.settle()
    await node.announce(sessions=[client.session("lon-1")])
    await cluster.settle()
    assert cluster.views.presences.bytes_of_node("lon-1") == 0


async def test_a_renewed_presence_is_stored_by_itself(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode
) -> None:
    """Batches without any tunnel bring it."""
    client = await announcing.client()
    await node.announce(client.tunnel("fra-1"), of=client)
    await cluster.settle()
    announcing.now_ms += 5 * MINUTE
    await node.announce(of=client)
    await cluster.settle()
    stored = cluster.views.presences.of_session(client.signer.key.public)
    assert stored is not None
    assert stored.value.time_ms == announcing.now_ms


@pytest.mark.parametrize("field", ["grant", "presence"])
async def test_a_session_without_its_form_is_refused_whole(field: str) -> None:
    """It is not stored nor read; the node that sends it is no honest one."""
    session = AnnouncedSession(**{field: "a" * 10_000 if field == "grant" else b"a" * 10_000})  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=field):
        await checked(Announce(sessions=[session]))
