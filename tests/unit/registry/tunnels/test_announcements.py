"""From a node's batches to the store, whatever happens in between."""

from collections.abc import Sequence
from typing import Protocol

import pytest
from portway_proto.v1.mesh_pb2 import (
    EVICTION_REASON_INVALID,
    EVICTION_REASON_QUOTA,
    EVICTION_REASON_SUPERSEDED,
    Announce,
    AnnouncedSession,
    Eviction,
    Withdrawal,
)
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.statements import Signed, SigningKey, read_claim
from portway_registry.errors import InvalidRequest, LeaseLost, StoreUnavailable
from portway_registry.state import keys
from portway_registry.state.records import TokenRecord
from portway_registry.state.views import Views
from portway_registry.store.contract import LeaseId, Put, Write
from portway_registry.store.embedded import EmbeddedStore
from portway_registry.tunnels import announcements as announcements_module
from portway_registry.tunnels.announcements import checked
from portway_testkit.clusters.announcing import Announcing
from portway_testkit.clusters.registry import tunnel_info
from portway_testkit.signers import AnnouncedClient, label_of


class Cluster(Protocol):
    store: EmbeddedStore
    views: Views

    async def settle(self) -> None: ...

    async def put_token(self, token_id: str, *, max_tunnels: int = ..., revoked_at_ms: int = ...) -> None: ...

    async def put_tenant(self, name: str, max_tunnels: int) -> None: ...

    async def put_tunnel(self, tunnel: TunnelInfo) -> None: ...

    async def tunnels(self) -> dict[str, tuple[str, int]]: ...


class Node:
    """What one node announces, with the sessions of the clients that are named."""

    def __init__(self, cluster: Cluster, announcing: Announcing, name: str, store: EmbeddedStore | None = None) -> None:
        self._cluster = cluster
        self.name = name
        self.announcements = announcing.node(name, store=store)
        self.lease = LeaseId(0)

    async def announce(
        self,
        *bound: TunnelInfo,
        of: AnnouncedClient | Sequence[AnnouncedClient] = (),
        sessions: Sequence[AnnouncedSession] = (),
        withdrawn: Sequence[TunnelInfo] = (),
        full: bool = False,
    ) -> list[tuple[str, int, int]]:
        """What it is told to drop: label, epoch, reason."""
        return [(one.label, one.epoch, one.reason) for one in await self.evicted(bound, of, sessions, withdrawn, full)]

    async def evicted(
        self,
        bound: Sequence[TunnelInfo],
        of: AnnouncedClient | Sequence[AnnouncedClient] = (),
        sessions: Sequence[AnnouncedSession] = (),
        withdrawn: Sequence[TunnelInfo] = (),
        full: bool = False,
    ) -> list[Eviction]:
        if not self.lease:
            self.lease = await self._cluster.store.grant_lease(60)
        clients = [of] if isinstance(of, AnnouncedClient) else of
        batch = Announce(
            batch=1,
            bound=bound,
            withdrawn=[Withdrawal(label=one.label, epoch=one.epoch) for one in withdrawn],
            full=full,
            sessions=[*sessions, *(client.session(self.name) for client in clients)],
        )
        return await self.announcements.apply(await checked(batch), self.lease)


@pytest.fixture
def node(cluster: Cluster, announcing: Announcing) -> Node:
    return Node(cluster, announcing, "fra-1")


@pytest.fixture
def other(cluster: Cluster, announcing: Announcing) -> Node:
    return Node(cluster, announcing, "lon-1")


async def test_a_batch_is_in_the_store_on_the_node_s_lease(
    cluster: Cluster, announcing: Announcing, node: Node
) -> None:
    """Every tunnel is written as its node's own and as its grant's tenant's, and vanishes with its lease."""
    client = await announcing.client("token9", "tenant9")
    tunnels = [client.tunnel("fra-1", region="else", tenant="someone", token_id="someone") for _ in range(3)]
    assert await node.announce(*tunnels, of=client) == []
    assert await cluster.tunnels() == {tunnel.label: ("fra-1", 1) for tunnel in tunnels}
    await cluster.settle()
    stored = cluster.views.tunnels.get(tunnels[0].label)
    assert stored is not None
    assert (stored.region, stored.tenant, stored.token_id) == ("fra", "tenant9", "token9")
    assert stored.claim == tunnels[0].claim
    await cluster.store.revoke_lease(node.lease)
    assert await cluster.tunnels() == {}


async def test_presences_stay_when_the_node_goes(cluster: Cluster, announcing: Announcing, node: Node) -> None:
    """They are on no lease: as long as an earlier one could be believed, the later one says no."""
    client = await announcing.client()
    await node.announce(client.tunnel("fra-1"), of=client)
    await cluster.store.revoke_lease(node.lease)
    assert await cluster.store.get(keys.presence(client.signer.key.public)) is not None


async def test_a_batch_applied_twice_does_no_harm(cluster: Cluster, announcing: Announcing, node: Node) -> None:
    """What is tried again after an outage writes nothing new."""
    client = await announcing.client()
    tunnel, session = client.tunnel("fra-1"), client.session("fra-1")
    await node.announce(tunnel, sessions=[session])
    await cluster.settle()
    revision = (await cluster.store.list("")).revision
    assert await node.announce(tunnel, sessions=[session]) == []
    assert (await cluster.store.list("")).revision == revision


async def test_a_view_that_is_late_misleads_nobody(
    cluster: Cluster, announcing: Announcing, node: Node, other: Node
) -> None:
    """What another node wrote a moment ago, and this replica has not heard of, counts all the same."""
    client, key = await announcing.client(), SigningKey()
    first = client.tunnel("fra-1", key, 2)
    second = client.tunnel("lon-1", key, 3)
    await other.announce(second, of=client)
    # The view is as it was before: nothing here has let its watch run.
    twin = await announcing.client()
    late = twin.tunnel("fra-1", key, 2)
    (gone,) = await node.evicted([late], twin)
    assert (gone.label, gone.reason, gone.claim) == (late.label, EVICTION_REASON_SUPERSEDED, second.claim)
    assert await node.announce(withdrawn=[first]) == []
    assert await cluster.tunnels() == {second.label: ("lon-1", 3)}
    await other.announce(withdrawn=[second])
    assert await cluster.tunnels() == {}


async def test_a_session_that_moved_takes_its_labels_along(
    cluster: Cluster, announcing: Announcing, node: Node, other: Node
) -> None:
    """The next epoch at the next node, with a later presence; what the first node says afterwards changes nothing."""
    client, key = await announcing.client(), SigningKey()
    here, presence = client.tunnel("fra-1", key, 5), client.session("fra-1")
    await node.announce(here, sessions=[presence])
    there = client.tunnel("lon-1", key, 6)
    assert await other.announce(there, of=client) == []
    assert await cluster.tunnels() == {here.label: ("lon-1", 6)}
    for _ in range(2):
        assert await node.announce(here, sessions=[presence]) == [(here.label, 5, EVICTION_REASON_SUPERSEDED)]
        await cluster.settle()
    assert await cluster.tunnels() == {here.label: ("lon-1", 6)}


async def test_one_forged_tunnel_does_not_spoil_its_batch(cluster: Cluster, announcing: Announcing, node: Node) -> None:
    """The others of the batch are written."""
    client = await announcing.client()
    good, bad = client.tunnel("fra-1"), client.tunnel("fra-1")
    bad.claim = bad.claim[:-1] + bytes([bad.claim[-1] ^ 1])
    # The presence lists what is announced, so that the signature alone is wrong.
    client.close(bad)
    client.signer.held.append(read_claim(bad.claim))
    assert await node.announce(bad, good, of=client) == [(bad.label, 1, EVICTION_REASON_INVALID)]
    assert set(await cluster.tunnels()) == {good.label}


async def test_a_claim_that_cannot_be_read_is_refused(cluster: Cluster, announcing: Announcing, node: Node) -> None:
    """As any that is not genuine."""
    client = await announcing.client()
    good, bad = client.tunnel("fra-1"), client.tunnel("fra-1")
    bad.claim = b"no claim"
    assert await node.announce(bad, good, of=client) == [(bad.label, 1, EVICTION_REASON_INVALID)]


async def test_claims_of_other_nodes_are_refused(
    cluster: Cluster, announcing: Announcing, node: Node, other: Node
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
    cluster: Cluster, announcing: Announcing, node: Node
) -> None:
    """A claim is for one session key; a grant is for one, too."""
    one, two = await announcing.client(), await announcing.client()
    tunnel = one.tunnel("fra-1")
    mixed = AnnouncedSession(grant=two.grant, presence=one.session("fra-1").presence)
    assert await node.announce(tunnel, sessions=[mixed]) == [(tunnel.label, 1, EVICTION_REASON_INVALID)]
    assert await node.announce(tunnel, of=two) == [(tunnel.label, 1, EVICTION_REASON_INVALID)]
    assert await node.announce(tunnel, of=one) == []


async def test_a_forged_presence_places_nothing(cluster: Cluster, announcing: Announcing, node: Node) -> None:
    """A node cannot make tunnels in its client's name: it has no session key to present them with."""
    client, forger = await announcing.client(), await announcing.client()
    invented = client.tunnel("fra-1")
    session = client.session("fra-1")
    session.presence = session.presence[:-64] + forger.session("fra-1").presence[-64:]
    assert await node.announce(invented, sessions=[session]) == [(invented.label, 1, EVICTION_REASON_INVALID)]
    assert await cluster.store.get(keys.presence(client.signer.key.public)) is None


async def test_a_forged_grant_gives_nothing(cluster: Cluster, announcing: Announcing, node: Node) -> None:
    """Also one that names a token which nobody has: it is not looked up."""
    client = await announcing.client()
    tunnel = client.tunnel("fra-1")
    head, _, _ = client.grant.rpartition(".")
    client.grant = f"{head}.{'A' * 86}"
    assert await node.announce(tunnel, of=client) == [(tunnel.label, 1, EVICTION_REASON_INVALID)]
    client.grant = "none"
    assert await node.announce(tunnel, of=client) == [(tunnel.label, 1, EVICTION_REASON_INVALID)]


async def test_a_session_must_be_announced(cluster: Cluster, announcing: Announcing, node: Node) -> None:
    """A tunnel without grant and presence is nobody's."""
    client = await announcing.client()
    tunnel = client.tunnel("fra-1")
    assert await node.announce(tunnel) == [(tunnel.label, 1, EVICTION_REASON_INVALID)]


MINUTE = 60_000


@pytest.mark.parametrize(("minutes", "counts"), [(-16, False), (-14, True), (21, True), (23, False)])
async def test_a_presence_counts_for_its_time(
    cluster: Cluster, announcing: Announcing, node: Node, minutes: int, counts: bool
) -> None:
    """For seven minutes, with a quarter of an hour for clocks either way."""
    client = await announcing.client()
    tunnel, session = client.tunnel("fra-1"), client.session("fra-1")
    announcing.now_ms += minutes * MINUTE
    refused = [] if counts else [(tunnel.label, 1, EVICTION_REASON_INVALID)]
    assert await node.announce(tunnel, sessions=[session]) == refused


async def test_a_closed_label_stays_closed(cluster: Cluster, announcing: Announcing, node: Node) -> None:
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


async def test_the_presence_of_a_session_without_tunnels_is_not_stored(
    cluster: Cluster, announcing: Announcing, node: Node
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


async def test_a_node_brings_only_presences_at_itself(cluster: Cluster, announcing: Announcing, node: Node) -> None:
    """What counts as another node's share of the store is not for it to fill."""
    client = await announcing.client()
    await node.announce(client.tunnel("fra-1"), of=client)
    await cluster.settle()
    await node.announce(sessions=[client.session("lon-1")])
    await cluster.settle()
    assert cluster.views.presences.bytes_of_node("lon-1") == 0


async def test_a_renewed_presence_is_stored_by_itself(cluster: Cluster, announcing: Announcing, node: Node) -> None:
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


async def test_a_token_must_exist_and_be_good(cluster: Cluster, announcing: Announcing, node: Node) -> None:
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
    """A view of tokens that shows nothing until it was waited for."""

    def __init__(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waited = 0
        self._tokens = cluster.views.tokens
        self._get, self._caught_up = self._tokens.get, self._tokens.caught_up
        monkeypatch.setattr(self._tokens, "get", self.get)
        monkeypatch.setattr(self._tokens, "caught_up", self.caught_up)

    def get(self, name: str) -> TokenRecord | None:
        return self._get(name) if self.waited else None

    async def caught_up(self, name: str) -> None:
        self.waited += 1
        await self._caught_up(name)


async def test_a_token_that_was_just_made_is_looked_for(
    cluster: Cluster, announcing: Announcing, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At another replica a moment ago; once, and only for a grant that is genuine."""
    client = await announcing.client()
    late = Late(cluster, monkeypatch)
    tunnel = client.tunnel("fra-1")
    good = client.grant
    client.grant = f"{good.rpartition('.')[0]}.{'A' * 86}"
    assert await node.announce(tunnel, of=client) == [(tunnel.label, 1, EVICTION_REASON_INVALID)]
    assert late.waited == 0
    client.grant = good
    assert await node.announce(tunnel, of=client) == []
    assert late.waited == 1


async def test_what_the_store_has_is_not_checked_again(
    cluster: Cluster, announcing: Announcing, node: Node, monkeypatch: pytest.MonkeyPatch
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
    again = Node(cluster, announcing, "fra-1")
    assert await again.announce(old, sessions=[session], full=True) == []
    assert len(checks) == 0
    assert await again.announce(old, client.tunnel("fra-1"), of=client) == []
    assert len(checks) == 3  # the new claim, the new presence and the grant
    assert await again.announce(of=client) == []
    assert len(checks) == 4  # the grant is the same as before


async def test_a_grant_of_another_token_makes_no_tunnel_its_own(
    cluster: Cluster, announcing: Announcing, node: Node
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


async def test_a_quota_holds_within_one_batch(cluster: Cluster, announcing: Announcing, node: Node) -> None:
    """Of a batch over the quota as many are taken as there is room for; another token's are not touched."""
    await cluster.put_token("small", max_tunnels=2)
    small, other = await announcing.client("small"), await announcing.client("other")
    tunnels = [small.tunnel("fra-1") for _ in range(4)]
    free = other.tunnel("fra-1")
    told = await node.evicted([*tunnels, free], [small, other])
    assert {(one.reason, one.max_tunnels, one.of_token) for one in told} == {(EVICTION_REASON_QUOTA, 2, True)}
    assert set(await cluster.tunnels()) == {tunnel.label for tunnel in tunnels[:2]} | {free.label}


async def test_a_tenant_s_quota_holds_for_its_tokens_together(
    cluster: Cluster, announcing: Announcing, node: Node
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
    cluster: Cluster, announcing: Announcing, node: Node, monkeypatch: pytest.MonkeyPatch
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
    cluster: Cluster, announcing: Announcing, node: Node, batches: int
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
    cluster: Cluster, announcing: Announcing, node: Node, other: Node
) -> None:
    """A full quota does not keep a client from another node: its labels are counted already."""
    await cluster.put_token("small", max_tunnels=1)
    client, key = await announcing.client("small"), SigningKey()
    await node.announce(client.tunnel("fra-1", key, 1), of=client)
    await cluster.settle()
    assert await other.announce(client.tunnel("lon-1", key, 2), of=client) == []
    assert await cluster.tunnels() == {label_of(key): ("lon-1", 2)}


async def test_a_node_has_a_number_of_tunnels(
    cluster: Cluster, announcing: Announcing, node: Node, monkeypatch: pytest.MonkeyPatch
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
    cluster: Cluster, announcing: Announcing, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are made up."""
    monkeypatch.setattr(announcements_module, "MAX_TUNNELS", 3)
    client = await announcing.client()
    for _ in range(3):
        assert len(await node.announce(*(tunnel_info() for _ in range(3)))) == 3
    assert await node.announce(client.tunnel("fra-1"), of=client) == []


async def test_presences_of_one_node_have_a_size(
    cluster: Cluster, announcing: Announcing, node: Node, monkeypatch: pytest.MonkeyPatch
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


async def test_full_state_removes_what_it_lacks(
    cluster: Cluster, announcing: Announcing, node: Node, other: Node
) -> None:
    """Only the node's own, and only what the batch does not have."""
    client, elsewhere = await announcing.client(), await announcing.client()
    stale, kept = client.tunnel("fra-1"), client.tunnel("fra-1")
    theirs = elsewhere.tunnel("lon-1")
    await node.announce(stale, kept, of=client)
    await other.announce(theirs, of=elsewhere)
    await cluster.settle()
    await node.announce(kept, of=client, full=True)
    assert await cluster.tunnels() == {kept.label: ("fra-1", 1), theirs.label: ("lon-1", 1)}


async def test_full_state_removes_what_is_seen_only_later(cluster: Cluster, announcing: Announcing, node: Node) -> None:
    """What an earlier session of the node wrote, and the view shows after the full batch, is found stale as well."""
    client = await announcing.client()
    stale, kept = client.tunnel("fra-1"), client.tunnel("fra-1")
    await node.announce(kept, of=client, full=True)
    await Node(cluster, announcing, "fra-1").announce(stale, of=client)
    await cluster.settle()
    items = cluster.views.tunnels.of_node("fra-1").values()
    assert {item.name for item in items if node.announcements.is_stale(item)} == {stale.label}
    assert not any(Node(cluster, announcing, "fra-1").announcements.is_stale(item) for item in items)


async def test_a_lost_lease_is_told(cluster: Cluster, announcing: Announcing, node: Node) -> None:
    """Nothing is written on a lease that is gone: the session gets a new one and comes again."""
    client = await announcing.client()
    node.lease = LeaseId(12345)
    with pytest.raises(LeaseLost):
        await node.announce(client.tunnel("fra-1"), of=client)
    assert await cluster.tunnels() == {}


class Contested(EmbeddedStore):
    """A store in which another node always writes first."""

    def __init__(self, key: SigningKey) -> None:
        super().__init__(None, on_failure=print)
        self._key = key
        self._epoch = 0

    async def write(self, writes: Sequence[Write]) -> tuple[bool, ...]:
        self._epoch += 1
        theirs = tunnel_info(self._key, self._epoch, node="lon-1")
        await super().write([Put(keys.tunnel(theirs.label), theirs.SerializeToString())])
        return await super().write(writes)


async def test_a_label_that_is_fought_over_is_left_for_later(cluster: Cluster, announcing: Announcing) -> None:
    """A key that changes under every try is not tried for ever: the batch is told to come again."""
    key, client = SigningKey(), await announcing.client()
    contested = Contested(key)
    node = Node(cluster, announcing, "fra-1", contested)
    node.lease = await contested.grant_lease(60)
    with pytest.raises(StoreUnavailable, match="changed each time"):
        await node.announce(client.tunnel("fra-1", key, 4000), of=client)
    await contested.close()


@pytest.mark.parametrize("field", ["grant", "presence"])
async def test_a_session_without_its_form_is_refused_whole(field: str) -> None:
    """It is not stored nor read; the node that sends it is no honest one."""
    session = AnnouncedSession(**{field: "a" * 10_000 if field == "grant" else b"a" * 10_000})  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=field):
        await checked(Announce(sessions=[session]))
