"""What a token, a tenant and a node may announce, and how much of it."""

from collections.abc import Iterable

import pytest
from portway_proto.v1.mesh_pb2 import (
    EVICTION_REASON_INVALID,
    EVICTION_REASON_QUOTA,
)
from portway_proto.wire.statements import Signed, SigningKey
from portway_registry.state import keys
from portway_registry.state.records import TokenRecord
from portway_registry.state.views import Item
from portway_registry.tunnels import announcements as announcements_module
from portway_testkit.clusters.announcing import Announcing, AnnouncingNode
from portway_testkit.clusters.registry import tunnel_info
from portway_testkit.clusters.views import ViewedStore
from portway_testkit.signers import label_of


async def test_a_token_must_exist_and_be_good(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode
) -> None:
    """A grant outlives its token."""
    client = await announcing.client()
    tunnel = client.tunnel("fra-1")
    await cluster.put_token("token1", revoked_at_ms=1)
    assert await node.announce(tunnel, of=client) == [(tunnel.label, 1, EVICTION_REASON_INVALID)]
    await cluster.store.delete(keys.token("token1"))
    await cluster.settle()
    assert await node.announce(tunnel, of=client) == [(tunnel.label, 1, EVICTION_REASON_INVALID)]
    await cluster.put_token("token1")
    assert await node.announce(tunnel, of=client) == []


class Late:
    """A view of tokens that shows nothing; the store has them."""

    def __init__(self, cluster: ViewedStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads = 0
        self._read = cluster.views.tokens.read
        monkeypatch.setattr(cluster.views.tokens, "get", lambda name: None)
        monkeypatch.setattr(cluster.views.tokens, "read", self.read)

    async def read(self, names: Iterable[str]) -> dict[str, Item[TokenRecord] | None]:
        self.reads += 1
        return await self._read(names)


async def test_a_token_that_was_just_made_is_looked_for(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At another replica a moment ago; once for each session, and only for a grant that is genuine. The view is not
    waited for."""
    client = await announcing.client()
    late = Late(cluster, monkeypatch)
    tunnel = client.tunnel("fra-1")
    good = client.grant
    client.grant = f"{good.rpartition('.')[0]}.{'A' * 86}"
    assert await node.announce(tunnel, of=client) == [(tunnel.label, 1, EVICTION_REASON_INVALID)]
    assert late.reads == 0
    client.grant = good
    assert await node.announce(tunnel, of=client) == []
    assert late.reads == 1


async def test_what_the_store_has_is_not_checked_again(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that announces its full state to another replica costs it no signature, unless something is new."""
    client = await announcing.client()
    old = client.tunnel("fra-1")
    session = client.session("fra-1")
    await node.announce(old, sessions=[session])
    await cluster.settle()
    checks: list[Signed] = []
    is_genuine = Signed.is_genuine

    def counted(self: Signed) -> bool:
        checks.append(self)
        return is_genuine(self)

    monkeypatch.setattr(Signed, "is_genuine", counted)
    again = AnnouncingNode(cluster, announcing, "fra-1")
    assert await again.announce(old, sessions=[session], full=True) == []
    assert len(checks) == 0
    assert await again.announce(old, client.tunnel("fra-1"), of=client) == []
    assert len(checks) == 3  # the new claim, the new presence and the grant
    assert await again.announce(of=client) == []
    assert len(checks) == 4  # the grant is the same as before


async def test_a_grant_of_another_token_makes_no_tunnel_its_own(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode
) -> None:
    """A stored tunnel is not given to another tenant by a grant that nobody checked."""
    client = await announcing.client()
    tunnel, session = client.tunnel("fra-1"), client.session("fra-1")
    await node.announce(tunnel, sessions=[session])
    await cluster.put_token("victim")
    await cluster.settle()
    other = await announcing.client("victim", "victim", client.signer)
    forged = other.grant.rpartition(".")[0] + "." + client.grant.rpartition(".")[2]
    session.grant = forged
    assert await node.announce(tunnel, sessions=[session]) == [(tunnel.label, 1, EVICTION_REASON_INVALID)]
    assert cluster.views.tunnels.of_token("victim") == {}


async def test_a_quota_holds_within_one_batch(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode
) -> None:
    """Of a batch over the quota as many are taken as there is room for; another token's are not touched."""
    await cluster.put_token("small", max_tunnels=2)
    small, other = await announcing.client("small"), await announcing.client("other")
    tunnels = [small.tunnel("fra-1") for _ in range(4)]
    free = other.tunnel("fra-1")
    told = await node.evicted([*tunnels, free], [small, other])
    assert {(one.reason, one.max_tunnels, one.of_token) for one in told} == {(EVICTION_REASON_QUOTA, 2, True)}
    assert set(await cluster.tunnels()) == {tunnel.label for tunnel in tunnels[:2]} | {free.label}


async def test_a_tenant_s_quota_holds_for_its_tokens_together(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode
) -> None:
    """Whose a tunnel is stands in the grant: what the node says of it evades no quota, and takes none of another's."""
    await cluster.put_tenant("demo", 2)
    clients = [await announcing.client(f"t{number}") for number in range(3)]
    tunnels = [client.tunnel("fra-1", tenant="else", token_id="else") for client in clients]
    told = await node.evicted(tunnels, clients)
    assert [(one.label, one.max_tunnels, one.of_token) for one in told] == [(tunnels[2].label, 2, False)]
    assert told[0].reason == EVICTION_REASON_QUOTA
    assert set(await cluster.tunnels()) == {tunnel.label for tunnel in tunnels[:2]}


async def test_a_quota_holds_over_the_pieces_of_a_batch(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the view shows what the first piece took."""
    monkeypatch.setattr(announcements_module, "_PIECE", 2)
    await cluster.put_token("small", max_tunnels=3)
    client = await announcing.client("small")
    tunnels = [client.tunnel("fra-1") for _ in range(7)]
    assert len(await node.announce(*tunnels, of=client)) == 4
    assert set(await cluster.tunnels()) == {tunnel.label for tunnel in tunnels[:3]}


@pytest.mark.parametrize("batches", [1, 2])
async def test_a_place_given_back_can_be_taken_at_once(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode, batches: int
) -> None:
    """Close one, open another: in one batch or two, and before the view shows that there is room."""
    await cluster.put_token("small", max_tunnels=1)
    client = await announcing.client("small")
    old, new, further = (client.tunnel("fra-1") for _ in range(3))
    await node.announce(old, of=client)
    await cluster.settle()
    if batches == 1:
        assert await node.announce(new, of=client, withdrawn=[old]) == []
    else:
        await node.announce(withdrawn=[old])
        assert await node.announce(new, of=client) == []
    assert set(await cluster.tunnels()) == {new.label}
    await cluster.settle()
    assert await node.announce(further, of=client) == [(further.label, 1, EVICTION_REASON_QUOTA)]


async def test_a_tunnel_that_moves_needs_no_further_place(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode, other: AnnouncingNode
) -> None:
    """A full quota does not keep a client from another node: its labels are counted already."""
    await cluster.put_token("small", max_tunnels=1)
    client, key = await announcing.client("small"), SigningKey()
    await node.announce(client.tunnel("fra-1", key, 1), of=client)
    await cluster.settle()
    assert await other.announce(client.tunnel("lon-1", key, 2), of=client) == []
    assert await cluster.tunnels() == {label_of(key): ("lon-1", 2)}


async def test_a_node_has_a_number_of_tunnels(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one batch or many; what it withdraws makes room, and another node has its own."""
    monkeypatch.setattr(announcements_module, "MAX_TUNNELS", 3)
    client = await announcing.client()
    tunnels = [client.tunnel("fra-1") for _ in range(5)]
    assert await node.announce(*tunnels, of=client, full=True) == [
        (tunnel.label, 1, EVICTION_REASON_QUOTA) for tunnel in tunnels[3:]
    ]
    assert await node.announce(tunnels[3], of=client) == [(tunnels[3].label, 1, EVICTION_REASON_QUOTA)]
    assert await node.announce(tunnels[3], of=client, withdrawn=[tunnels[0]]) == []
    assert set(await cluster.tunnels()) == {tunnel.label for tunnel in tunnels[1:4]}


async def test_refused_tunnels_take_no_place_of_a_node(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are made up."""
    monkeypatch.setattr(announcements_module, "MAX_TUNNELS", 3)
    client = await announcing.client()
    for _ in range(3):
        assert len(await node.announce(*(tunnel_info() for _ in range(3)))) == 3
    assert await node.announce(client.tunnel("fra-1"), of=client) == []


async def test_presences_of_one_node_have_a_size(
    cluster: ViewedStore, announcing: Announcing, node: AnnouncingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node cannot fill the store with sessions whose tunnels it closes again; those that the store knows go on."""
    monkeypatch.setattr("portway_registry.tunnels.sessions.MAX_PRESENCES", 300)  # of 120 bytes each
    clients = [await announcing.client() for _ in range(3)]
    tunnels = [client.tunnel("fra-1") for client in clients]
    for tunnel, client in zip(tunnels[:2], clients, strict=False):
        assert await node.announce(tunnel, of=client) == []
        await node.announce(withdrawn=[tunnel])
    await cluster.settle()
    assert await node.announce(tunnels[2], of=clients[2]) == [(tunnels[2].label, 1, EVICTION_REASON_INVALID)]
    assert await node.announce(tunnels[0], of=clients[0]) == []
