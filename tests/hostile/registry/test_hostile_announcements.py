"""A node with a valid certificate that announces what its clients did not place there."""

import asyncio
from typing import Any

import grpc
import pytest
from portway_proto.v1 import admin_pb2
from portway_proto.v1.admin_pb2_grpc import AdminStub
from portway_proto.v1.discovery_pb2 import RenewRequest
from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub
from portway_proto.v1.mesh_pb2 import (
    EVICTION_REASON_INVALID,
    EVICTION_REASON_QUOTA,
    EVICTION_REASON_SUPERSEDED,
    AnnouncedSession,
    ResolveRequest,
    ResolveResponse,
)
from portway_proto.v1.mesh_pb2_grpc import MeshStub
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.statements import SigningKey, read_claim, sign_presence
from portway_registry.config import Config
from portway_registry.server import Registry
from portway_testkit import signers
from portway_testkit.clusters.admin_caller import AdminCaller
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.clusters.node_stream import NodeStream, all_known, kept_alive
from portway_testkit.clusters.registry import PATIENCE, Pki, bearer, channel, client_of, node_info, running
from portway_testkit.signers import AnnouncedClient, SessionSigner, now_ms

MINUTE = 60_000
FLOOD = 90.0  # seconds: more than a flood takes on a busy machine


@pytest.fixture
async def evil(registry: Registry, pki: Pki) -> Any:
    async with NodeStream(registry.mesh_address, pki, node_info("evil")) as evil, kept_alive(evil):
        yield evil


@pytest.fixture
async def good(registry: Registry, pki: Pki) -> Any:
    async with NodeStream(registry.mesh_address, pki, node_info("good")) as good, kept_alive(good):
        await all_known(good)
        yield good


async def held(admin: AdminCaller) -> dict[str, str]:
    """The home node of each tunnel, as an operator is listed it once the replica shows what was announced before."""
    return {label: node for label, (node, _) in (await admin.tunnels()).items()}


def refusals(node: NodeStream) -> set[int]:
    return {reason for _, _, reason in node.evicted}


def invented(victim: AnnouncedClient, number: int) -> list[TunnelInfo]:
    """Tunnels of keys of the node's own making, claimed at it for the victim's session key."""
    node = SessionSigner(victim.signer.cluster, victim.signer.key)
    return [signers.tunnel_info(node.claim(node="evil", epoch=1), "fra") for _ in range(number)]


async def test_tunnels_invented_in_a_tenants_name_take_none_of_its_places(
    registry: Registry, admin: AdminCaller, public: grpc.aio.Channel, evil: NodeStream, good: NodeStream
) -> None:
    """Its client was attached to the node, which has its grant and a presence of now. Without the session's key it
    cannot present anything else: not with that presence, not with one that it signs itself for the victim's session key
    or for one of its own. All are refused, and the tenant opens as many tunnels as it may."""
    token = await admin.stub.CreateToken(
        admin_pb2.CreateTokenRequest(tenant="victim", role=admin_pb2.ROLE_CLIENT, max_tunnels=3),
        metadata=admin.shown,
    )
    victim = await client_of(public, token.token)
    own = victim.tunnel("evil")
    session = victim.session("evil")
    made_up = invented(victim, 99)
    await evil.announce(own, *made_up, sessions=[session])
    forger = AnnouncedClient(SessionSigner(victim.signer.cluster), victim.grant)
    forged = invented(victim, 2)
    ids = frozenset(read_claim(one.claim).id for one in forged)
    presence = sign_presence(
        forger.signer.key, victim.signer.cluster, time_ms=now_ms() + 1_000, node="evil", ids=ids
    ).encoded
    own_key = AnnouncedSession(grant=victim.grant, presence=victim.signer.key.public + presence[32:])
    await evil.announce(*forged, sessions=[own_key])
    others = [forger.tunnel("evil") for _ in range(2)]
    await evil.announce(*others, of=[forger])
    made_up += [*forged, *others]
    assert {label for label, _, _ in evil.evicted} == {one.label for one in made_up}
    assert refusals(evil) == {EVICTION_REASON_INVALID}
    elsewhere = await client_of(public, token.token)
    more = [elsewhere.tunnel("good") for _ in range(2)]
    await good.announce(*more, of=[elsewhere])
    assert good.evicted == []
    assert await held(admin) == {own.label: "evil", **{one.label: "good" for one in more}}


@pytest.mark.timeout(120)
async def test_30_000_tunnels_of_a_token_that_nobody_has_leave_nothing(
    registry: Registry, admin: AdminCaller, evil: NodeStream, good: NodeStream
) -> None:
    """The grant is not signed by a registry: every one is refused, none is stored, and an honest node's tunnels are all
    taken up meanwhile."""
    await admin.set_quota("demo", 1_000_000)
    honest, thief = await admin.client(), await admin.client()
    head = thief.grant.rpartition(".")[0]
    forged = AnnouncedSession(grant=f"{head}.{'A' * 86}", presence=thief.session("evil").presence)
    claim = thief.signer.claim(node="evil", epoch=1)
    digits = "abcdefghijklmnopqrstuvwxyz234567"
    flood = [
        TunnelInfo(label="".join(digits[number >> 5 * place & 31] for place in range(16)), epoch=1, claim=claim.encoded)
        for number in range(30_000)
    ]
    flooding = asyncio.ensure_future(evil.announce(*flood, sessions=[forged], within=FLOOD))
    taken_up: list[str] = []
    while not flooding.done():
        tunnel = honest.tunnel("good")
        await good.announce(tunnel, of=[honest])
        taken_up.append(tunnel.label)
    await flooding
    assert len(evil.evicted) == 30_000
    assert await held(admin) == dict.fromkeys(taken_up, "good")


async def test_a_node_has_its_number_of_tunnels_whatever_its_tenant_may(
    registry: Registry,
    admin: AdminCaller,
    public: grpc.aio.Channel,
    evil: NodeStream,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tenant that is the node's accomplice, with a quota without end: 50 stand for the 20,000."""
    monkeypatch.setattr("portway_registry.tunnels.announcements.MAX_TUNNELS", 50)
    await admin.set_quota("evil", 1_000_000)
    token = await admin.stub.CreateToken(
        admin_pb2.CreateTokenRequest(tenant="evil", role=admin_pb2.ROLE_CLIENT),
        metadata=admin.shown,
    )
    clients = [await client_of(public, token.token) for _ in range(4)]
    for client in clients:
        await evil.announce(*(client.tunnel("evil") for _ in range(40)), of=[client])
    assert len(await held(admin)) == 50
    assert refusals(evil) == {EVICTION_REASON_QUOTA}


async def seen(registry: Registry, pki: Pki, admin: AdminCaller, label: str) -> ResolveResponse:
    """What any node of the cluster is told of a label, once the replica shows what was announced before."""
    await admin.tunnels()
    async with channel(registry.mesh_address, pki.ca, pki.node("evil"), mesh=True) as mesh, asyncio.timeout(PATIENCE):
        while not (found := await MeshStub(mesh).Resolve(ResolveRequest(label=label))).presence:
            pass  # presences have a copy of their own in the replica's memory
    return found


async def test_statements_that_were_seen_are_of_no_use(
    registry: Registry, pki: Pki, admin: AdminCaller, public: grpc.aio.Channel, evil: NodeStream, good: NodeStream
) -> None:
    """The victim's claim and presence as the registry tells them, with a grant of an accomplice's for the victim's
    session key, or for a session key of its own; a higher claim that the label's key has not signed: the label stays at
    its home, and with its tenant."""
    victim, accomplice = await admin.client(), await admin.client()
    tunnel = victim.tunnel("good")
    await good.announce(tunnel, of=[victim])
    found = await seen(registry, pki, admin, tunnel.label)
    assert (found.tunnel.tenant, found.tunnel.token_id) == ("", "")
    token = (await admin.new_token()).token
    request = RenewRequest(session_key=victim.signer.key.public)
    grant = (await DiscoveryStub(public).Renew(request, metadata=bearer(token))).grant.token
    copies = [
        [AnnouncedSession(grant=grant, presence=found.presence)],
        [AnnouncedSession(grant=victim.grant, presence=found.presence)],
        [accomplice.session("evil")],
        [],
    ]
    for sessions in copies:
        await evil.announce(found.tunnel, sessions=sessions)
    forged = accomplice.tunnel("evil", epoch=2)
    raised = tunnel.claim[:32] + forged.claim[32:]
    accomplice.signer.held[:] = [read_claim(raised)]
    forged.label, forged.claim = tunnel.label, raised
    await evil.announce(forged, of=[accomplice])
    assert len(evil.evicted) == len(copies) + 1
    assert refusals(evil) <= {EVICTION_REASON_INVALID, EVICTION_REASON_SUPERSEDED}
    assert good.evicted == []
    after = await seen(registry, pki, admin, tunnel.label)
    assert (after.tunnel, after.presence) == (found.tunnel, found.presence)


async def test_a_closed_label_leads_nowhere_after_a_flood_of_others(
    registry: Registry, pki: Pki, admin: AdminCaller, evil: NodeStream, good: NodeStream
) -> None:
    """Nothing of it is remembered that could be flushed: its claim names its home, and there a later presence says
    no. 5,000 invented labels come in between."""
    victim, thief = await admin.client(), await admin.client()
    tunnel, kept = victim.tunnel("good"), victim.tunnel("good")
    before = victim.session("good")
    await good.announce(tunnel, kept, sessions=[before])
    found = await seen(registry, pki, admin, tunnel.label)
    victim.close(tunnel)
    await good.announce(withdrawn=(tunnel,), of=[victim])
    for start in range(0, 5_000, 1_000):
        claim = thief.signer.claim(node="evil", epoch=start + 1)
        await evil.announce(*(TunnelInfo(label=claim.label, claim=claim.encoded) for _ in range(1_000)))
    await evil.announce(found.tunnel, sessions=[AnnouncedSession(grant=victim.grant, presence=found.presence)])
    another = thief.tunnel("evil")
    another.label = tunnel.label
    await evil.announce(another, of=[thief])
    # Its home itself, should it be the hostile one, cannot bring it back either.
    await good.announce(tunnel, sessions=[before])
    assert (tunnel.label, 1, EVICTION_REASON_INVALID) in good.evicted
    assert await held(admin) == {kept.label: "good"}


@pytest.mark.parametrize("minutes", [-60, -23, 16, 60 * 24 * 365 * 70])
async def test_a_presence_of_another_time_places_nothing(
    registry: Registry, admin: AdminCaller, evil: NodeStream, minutes: int
) -> None:
    """An accomplice signs what it likes, also for the year 2100: it is refused, and keeps nobody from signing now."""
    client = await admin.client()
    tunnel = client.tunnel("evil")
    await evil.announce(tunnel, sessions=[client.session("evil", now_ms() + minutes * MINUTE)])
    assert evil.evicted == [(tunnel.label, 1, EVICTION_REASON_INVALID)]
    await evil.announce(tunnel, sessions=[client.session("evil", now_ms())])
    assert await held(admin) == {tunnel.label: "evil"}


async def test_a_huge_epoch_takes_no_label(
    registry: Registry, admin: AdminCaller, evil: NodeStream, good: NodeStream
) -> None:
    """Neither one of the year 2100, with the label's own key, nor one of half an hour ahead by another key's claim."""
    victim, accomplice, key = await admin.client(), await admin.client(), SigningKey()
    tunnel = victim.tunnel("good", key, now_ms())
    await good.announce(tunnel, of=[victim])
    far = accomplice.tunnel("evil", key, 2**62)
    other = accomplice.tunnel("evil", SigningKey(), now_ms() + 29 * MINUTE)
    other.label = tunnel.label
    await evil.announce(far, of=[accomplice])
    await evil.announce(other, of=[accomplice])
    assert len(evil.evicted) == 2
    assert await held(admin) == {tunnel.label: "good"}


async def test_a_grant_of_another_cluster_gives_nothing(
    registry: Registry, pki: Pki, admin: AdminCaller, evil: NodeStream, tmp_path: Any
) -> None:
    """Of a registry that the attacker runs itself, with a key id and a token that this one knows, too."""
    folder = tmp_path / "other"
    folder.mkdir()
    async with running(pki.config(folder)) as other, channel(other.address, pki.ca) as public:
        shown = bearer((folder / "admin-token").read_text().strip())
        request = admin_pb2.CreateTokenRequest(tenant="demo", role=admin_pb2.ROLE_CLIENT)
        token = await AdminStub(public).CreateToken(request, metadata=shown)
        foreign = await client_of(public, token.token)
    tunnel = foreign.tunnel("evil")
    await evil.announce(tunnel, of=[foreign])
    honest = await admin.client()
    mixed = AnnouncedClient(SessionSigner(honest.signer.cluster), foreign.grant)
    second = mixed.tunnel("evil")
    await evil.announce(second, of=[mixed])
    assert [(label, reason) for label, _, reason in evil.evicted] == [
        (tunnel.label, EVICTION_REASON_INVALID),
        (second.label, EVICTION_REASON_INVALID),
    ]


async def test_a_node_that_keeps_what_its_clients_gave_up_loses_it(
    registry: Registry,
    admin: AdminCaller,
    public: grpc.aio.Channel,
    monkeypatch: pytest.MonkeyPatch,
    pki: Pki,
    config: Config,
) -> None:
    """It ignores that a token is revoked: its tunnel is out of the list soon. Looks follow each other closely here."""
    monkeypatch.setattr("portway_registry.nodes.unplaced._LOOKED_EVERY", 0.1)
    async with running(config) as second, channel(second.address, pki.ca) as calls:
        assert config.admin_token_file is not None
        shown = bearer(config.admin_token_file.read_text().strip())
        request = admin_pb2.CreateTokenRequest(tenant="demo", role=admin_pb2.ROLE_CLIENT)
        token = await AdminStub(calls).CreateToken(request, metadata=shown)
        client = await client_of(calls, token.token)
        async with NodeStream(second.mesh_address, pki, node_info("evil")) as evil:
            key = SigningKey()
            tunnel = client.tunnel("evil", key)
            await evil.announce(tunnel, of=[client], full=True)
            await AdminStub(calls).RevokeToken(admin_pb2.RevokeTokenRequest(id=token.info.id), metadata=shown)
            await evil.until(lambda: evil.evicted)
            await evil.announce(tunnel, client.tunnel("evil", key, 2), of=[client])
            # The copy of the store that is looked at may show for another look what was removed.
            assert set(evil.evicted) == {(tunnel.label, epoch, EVICTION_REASON_INVALID) for epoch in (1, 2)}


async def test_a_token_made_at_another_replica_is_good_at_once(etcd: EtcdServer, pki: Pki, tmp_path: Any) -> None:
    """No tunnel of an honest client is refused for a token that this replica has not heard of yet."""
    store = f"etcd:{etcd.url}"
    one, two = pki.config(tmp_path, store=store), pki.config(tmp_path, store=store)
    async with (
        running(one) as first,
        running(two) as second,
        channel(first.address, pki.ca) as public,
        NodeStream(second.mesh_address, pki, node_info("good")) as good,
    ):
        assert one.admin_token_file is not None
        shown = bearer(one.admin_token_file.read_text().strip())
        for _ in range(10):
            request = admin_pb2.CreateTokenRequest(tenant="demo", role=admin_pb2.ROLE_CLIENT)
            client = await client_of(public, (await AdminStub(public).CreateToken(request, metadata=shown)).token)
            await good.announce(client.tunnel("good"), of=[client])
        assert good.evicted == []


@pytest.mark.timeout(120)
async def test_a_flood_of_valid_statements_costs_its_sender_alone(
    registry: Registry, admin: AdminCaller, public: grpc.aio.Channel, evil: NodeStream, good: NodeStream
) -> None:
    """An accomplice signs 6,000 claims for a node, which waits for its own pace; an honest node's tunnels are taken up
    meanwhile, one after the other."""
    for tenant in ("evil", "demo"):
        await admin.set_quota(tenant, 1_000_000)
    token = await admin.stub.CreateToken(
        admin_pb2.CreateTokenRequest(tenant="evil", role=admin_pb2.ROLE_CLIENT),
        metadata=admin.shown,
    )
    honest = await admin.client()
    flood: list[TunnelInfo] = []
    accomplices = [await client_of(public, token.token) for _ in range(6)]
    for client in accomplices:
        for _ in range(10):  # the registry is in this loop, and its connections have to be answered meanwhile
            flood += [client.tunnel("evil") for _ in range(100)]
            await asyncio.sleep(0)
    flooding = asyncio.ensure_future(evil.announce(*flood, of=accomplices, within=FLOOD))
    taken_up = 0  # one that waited for the whole flood would be the only one
    while not flooding.done():
        await good.announce(honest.tunnel("good"), of=[honest])
        taken_up += 1
    await flooding
    assert good.evicted == evil.evicted == []
    assert taken_up > 5
