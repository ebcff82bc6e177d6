"""What one change means to every node's session of a replica, without any gRPC."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from portway_proto.v1.mesh_pb2 import (
    EVICTION_REASON_SUPERSEDED,
    DnsHeld,
    KeepAlive,
    RegistryMessage,
)
from portway_proto.v1.types_pb2 import NODE_STATE_READY, NodeInfo
from portway_proto.wire.statements import SigningKey
from portway_registry.access.grant_keys import make_first_key, new_key
from portway_registry.access.grants import Grants
from portway_registry.dns.board import DnsBoard
from portway_registry.errors import CertificateUntrusted, Replaced
from portway_registry.nodes import peer_lists
from portway_registry.nodes.hub import Hub
from portway_registry.pki.cluster_authority import ClusterAuthority
from portway_registry.pki.signing import Signer
from portway_registry.pki.signing import new_key as key_pair
from portway_registry.state import keys
from portway_registry.state.audit import Audit
from portway_registry.state.domain_records import StaticRecord
from portway_registry.state.records import PortBlockRecord, ReplicaRecord, encode
from portway_registry.state.store_reach import StoreReach
from portway_registry.state.tunnel_limits import TunnelLimits
from portway_registry.store.contract import LeaseId
from portway_registry.tunnels.quota import Quota
from portway_testkit.clusters.hub_node import HubNode, node
from portway_testkit.clusters.registry import node_info, tunnel_info
from portway_testkit.clusters.views import ViewedStore, shows
from portway_testkit.signers import label_of

PATIENCE = 10.0
HOUR = 3_600_000
SIGNER = Signer.create()
NOW = 1_800_000_000_000


@pytest.fixture
async def hub(cluster: ViewedStore) -> AsyncIterator[Hub]:
    failures: list[BaseException] = []
    await make_first_key(cluster.store, now_ms=1)
    await cluster.settle()
    limits = TunnelLimits(cluster.views.tokens, cluster.views.tenants, default=100)
    grants = Grants("cluster", cluster.views.grant_keys, limits, lambda: NOW)
    hub = Hub(
        cluster.store,
        cluster.views,
        grants,
        Quota(limits, cluster.views.tunnels),
        Audit(cluster.store, lambda: NOW),
        lambda: NOW,
        cluster_id="cluster",
        authority=ClusterAuthority(SIGNER.pem, SIGNER),
        lease_seconds=60,
        on_failure=failures.append,
        dns=DnsBoard(cluster.views, domain="tunnels.example", registry_name=""),
        registry_name="registry.example.com",
        reach=StoreReach(cluster.store, on_failure=failures.append),
    )
    hub.start()
    yield hub
    await hub.close()
    assert not failures


async def test_a_registered_node_is_told_the_rules(hub: Hub) -> None:
    """Lease, settings and peers come first; a node that told no state counts as ready."""
    async with node(hub, "fra-1") as one:
        settings = (await one.until("settings")).settings
        assert (settings.cluster_id, [key.kid for key in settings.grant_keys]) == ("cluster", ["1"])
        peers = await one.lists("fra-1")
        assert [(peer.name, peer.state, peer.started_at_ms) for peer in peers.nodes] == [
            ("fra-1", NODE_STATE_READY, NOW)
        ]
        assert hub.sessions == 1
        assert hub.has("fra-1")


async def test_nodes_are_told_whether_the_store_is_reached(hub: Hub) -> None:
    """When that changes; who registers while it is not, at once."""
    reach = hub._reach
    assert reach is not None
    async with node(hub, "fra-1") as one:
        reach._set(away=True)
        assert (await one.until("store_reach")).store_reach.away
        async with node(hub, "iad-1") as other:
            assert (await other.until("store_reach")).store_reach.away
            reach._set(away=False)
            for each in (one, other):
                assert not (await each.until("store_reach", 2)).store_reach.away
        async with node(hub, "iad-2") as last:
            await last.until("order")
            assert not any(message.HasField("store_reach") for message in last.heard)


async def test_the_end_of_a_session_is_told_once(hub: Hub) -> None:
    """Whoever wants to know is told the node's name when its stream is over."""
    ended: list[str] = []
    hub.on_end.append(ended.append)
    async with node(hub, "fra-1"):
        pass
    assert ended == ["fra-1"]
    assert (hub.sessions, hub.has("fra-1")) == (0, False)


async def test_a_replaced_session_s_end_is_nobody_s(hub: Hub) -> None:
    """The older stream's goodbye does not remove the newer one."""
    ended: list[str] = []
    hub.on_end.append(ended.append)
    async with node(hub, "fra-1") as older:
        async with node(hub, "fra-1"):
            with pytest.raises(Replaced):
                await older.task
            assert ended == []
            assert hub.has("fra-1")
        assert ended == ["fra-1"]


async def test_a_session_ends_with_the_trust_in_its_certificate(hub: Hub) -> None:
    """Of a CA that is retired: whoever has stolen its key is out, and any other node comes back with a newer one."""
    next_one = Signer.create()
    old, new = (
        signer.node(key_pair().public_key(), "fra-1", "fra").public_bytes(Encoding.PEM) for signer in (SIGNER, next_one)
    )
    hub._authority.replace(next_one.pem + SIGNER.pem, next_one)
    thief, honest = HubNode(hub, "fra-1", old), HubNode(hub, "fra-2", new)
    for one in (thief, honest):
        await one.until("registered")
    hub._authority.replace(next_one.pem, next_one)
    with pytest.raises(CertificateUntrusted, match="fra-1"):
        await asyncio.wait_for(thief.task, PATIENCE)
    with pytest.raises(CertificateUntrusted, match="fra-1"):
        await HubNode(hub, "fra-1", old).task
    settings = (await honest.until("settings", 2)).settings
    assert settings.cluster_ca == next_one.pem
    await honest.stop()


async def test_a_revocation_is_told_to_all_and_once(cluster: ViewedStore, hub: Hub) -> None:
    """Each session hears it; what is written again afterwards is no news."""
    async with node(hub, "fra-1") as one, node(hub, "lon-1") as other:
        await cluster.put_token("good")
        await cluster.put_token("bad")
        await cluster.put_token("bad", revoked_at_ms=NOW)
        await cluster.put_token("bad", revoked_at_ms=NOW)
        await cluster.put_token("worse", revoked_at_ms=NOW)
        for session in (one, other):
            told: list[str] = []
            number = 1
            while "worse" not in told:
                told += (await session.until("revocations", number)).revocations.token_ids
                number += 1
            assert told == ["bad", "worse"]


async def test_old_revocations_are_of_no_interest(cluster: ViewedStore, hub: Hub) -> None:
    """Who registers hears of tokens whose last grant may still be honoured, not of all there ever were."""
    await cluster.put_token("old", revoked_at_ms=NOW - 25 * HOUR)
    await cluster.put_token("young", revoked_at_ms=NOW - 25 * HOUR + 1)
    async with node(hub, "fra-1") as one:
        assert list((await one.until("revocations")).revocations.token_ids) == ["young"]


async def test_a_new_key_is_told_to_all(cluster: ViewedStore, hub: Hub) -> None:
    """Settings come again, whole, when the keys change."""
    async with node(hub, "fra-1") as one:
        await one.until("settings")
        await cluster.store.put(keys.grant_key("2"), encode(new_key("2", active_from_ms=NOW)))
        settings = (await one.until("settings", 2)).settings
        assert [key.kid for key in settings.grant_keys] == ["1", "2"]


async def test_counts_are_no_news_to_peers(cluster: ViewedStore, hub: Hub) -> None:
    """A node's counts change all the time; only what others act on makes a new list."""
    async with node(hub, "fra-1") as one:
        await cluster.store.put(keys.node("iad-1"), node_info("iad-1").SerializeToString())
        await one.lists("fra-1", "iad-1")
        lists = sum(message.HasField("peers") for message in one.heard)
        entry = await cluster.store.get(keys.node("fra-1"))
        assert entry is not None
        record = NodeInfo.FromString(entry.value)
        record.sessions = 99
        await cluster.store.put(entry.key, record.SerializeToString(), lease=entry.lease)
        await cluster.store.put(keys.node("lon-1"), node_info("lon-1").SerializeToString())
        peers = (await one.until("peers", lists + 1)).peers
        assert {peer.name for peer in peers.nodes} == {"fra-1", "iad-1", "lon-1"}


async def test_a_label_that_moved_is_evicted_where_it_was(cluster: ViewedStore, hub: Hub) -> None:
    """The old holder hears which epoch of it is over, with the claim that owns it; other nodes hear nothing."""
    key = SigningKey()
    async with node(hub, "fra-1") as holder, node(hub, "lon-1") as other:
        await cluster.put_tunnel(tunnel_info(key, 1, node="fra-1"))
        owner = tunnel_info(key, 2, node="lon-1")
        await cluster.put_tunnel(owner)
        (gone,) = (await holder.until("evictions")).evictions.evictions
        assert (gone.label, gone.epoch, gone.reason) == (label_of(key), 1, EVICTION_REASON_SUPERSEDED)
        assert gone.claim == owner.claim
        assert not any(message.HasField("evictions") for message in other.heard)


async def test_a_newer_session_at_another_replica_ends_this_one(cluster: ViewedStore, hub: Hub) -> None:
    """When the store shows the node with a later start, its stream here is over."""
    async with node(hub, "fra-1") as one:
        later = node_info("fra-1", started_at_ms=NOW + 1)
        await cluster.store.put(keys.node("fra-1"), later.SerializeToString())
        with pytest.raises(Replaced, match="another replica"):
            await one.task


async def test_a_record_that_was_lost_is_written_anew_at_once(cluster: ViewedStore, hub: Hub) -> None:
    """A store that forgot a lease while the node was heard of has the node back without waiting for it."""
    async with node(hub, "fra-1") as one:
        first = (await one.until("registered")).registered
        await cluster.store.revoke_lease(LeaseId(first.lease_id))
        second = (await one.until("registered", 2)).registered
        entry = await cluster.store.get(keys.node("fra-1"))
        assert entry is not None
        assert entry.lease == second.lease_id != first.lease_id


async def test_a_list_of_peers_comes_in_as_many_messages_as_it_needs(
    cluster: ViewedStore, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is left out, and none is larger than a message may be."""
    monkeypatch.setattr(peer_lists, "_LARGEST_PART", 1_000)
    names = [f"lon-{number:02}" for number in range(20)]
    for name in names:
        await cluster.store.put(keys.node(name), node_info(name).SerializeToString())
    await cluster.settle()
    async with node(hub, "fra-1") as one:
        parts = [(await one.until("peers")).peers]
        while parts[-1].more:
            parts.append((await one.until("peers", len(parts) + 1)).peers)
        assert len(parts) > 1
        assert max(part.ByteSize() for part in parts) <= 1_000 + 4
        assert [part.part for part in parts] == [*range(len(parts))]
        assert [peer.name for part in parts for peer in part.nodes] == ["fra-1", *names]


async def put_block(cluster: ViewedStore, region: str, first: int, node: str, asked_at_ms: int = NOW) -> None:
    await cluster.store.put(keys.port_block(region, first), encode(PortBlockRecord(node, asked_at_ms)))
    await cluster.settle()


def owners(message: RegistryMessage) -> list[tuple[int, int, str]]:
    return [(one.first, one.last, one.node) for one in message.port_owners.owners]


async def test_nodes_know_whose_their_region_s_ports_are(cluster: ViewedStore, hub: Hub) -> None:
    """At their registration, and when a block gets an owner or another one; a renewal is no news."""
    async with node(hub, "fra-1") as one:
        assert owners(await one.until("port_owners")) == []
        await put_block(cluster, "fra", 20_032, "fra-1")
        assert owners(await one.until("port_owners", 2)) == [(20_032, 20_095, "fra-1")]
        async with node(hub, "lon-1", region="lon") as far:
            await far.until("port_owners")
            await put_block(cluster, "fra", 20_032, "fra-1", NOW + 1)
            await put_block(cluster, "fra-2", 20_096, "else")
            await put_block(cluster, "lon", 20_032, "lon-1")
            assert owners(await far.until("port_owners", 2)) == [(20_032, 20_095, "lon-1")]
        await put_block(cluster, "fra", 20_096, "fra-2")
        both = [(20_032, 20_095, "fra-1"), (20_096, 20_159, "fra-2")]
        assert owners(await one.until("port_owners", 3)) == both
        async with node(hub, "fra-2") as other:
            assert owners(await other.until("port_owners")) == both
        await put_block(cluster, "fra", 20_032, "fra-3")
        assert owners(await one.until("port_owners", 4))[0] == (20_032, 20_095, "fra-3")


async def test_nodes_that_answer_dns_are_told_its_records(hub: Hub, cluster: ViewedStore) -> None:
    """When they register and at each change; those that do not answer hear nothing of them."""
    async with node(hub, "fra-1", dns=True) as one, node(hub, "fra-2") as two:
        first = (await one.until("dns_records")).dns_records
        assert (list(first.records), first.registry_name) == ([], "tunnels.example")
        record = StaticRecord("a.tunnels.example", "TXT", 60, '"x"')
        await cluster.store.put(keys.dns_record("1"), encode(record))
        second = (await one.until("dns_records", 2)).dns_records
        assert [(record.name, record.type, record.ttl, record.data) for record in second.records] == [
            ("a.tunnels.example", "TXT", 60, '"x"')
        ]
        assert second.version > first.version
        await two.lists("fra-1", "fra-2")
        assert not any(message.HasField("dns_records") for message in two.heard)


async def test_a_node_that_begins_to_answer_dns_is_told(hub: Hub) -> None:
    async with node(hub, "fra-1") as one:
        one.say(keep_alive=KeepAlive(dns=True))
        await one.until("dns_records")


async def test_which_version_a_node_has_is_in_its_record(hub: Hub, cluster: ViewedStore) -> None:
    """By its word on this stream alone: every replica waits for it before a certificate authority is told to look."""
    async with node(hub, "fra-1", dns=True, dns_version=99) as one:
        version = (await one.until("dns_records")).dns_records.version
        await cluster.settle()
        stored = cluster.views.nodes.get("fra-1")
        assert stored is not None
        assert stored.dns_version == 0
        one.say(dns_held=DnsHeld(version=version))
        nodes = cluster.views.nodes
        await shows(nodes, lambda: [node.dns_version for node in nodes.values()] == [version])


async def test_nodes_are_told_where_registries_are(hub: Hub, cluster: ViewedStore) -> None:
    """The name, the replicas that serve, and a key that is theirs alone; when that changes, again."""
    async with node(hub, "fra-1") as one, node(hub, "fra-2") as other:
        # The first lists may be from before the key was made.
        first = (await one.last("registry_fronts", lambda message: message.registry_fronts.key)).registry_fronts
        assert (first.name, list(first.fronts), len(first.key)) == ("registry.example.com", [], 32)
        await cluster.store.put(keys.replica("r-1"), encode(ReplicaRecord("r-1", front="192.0.2.1:7400")))
        await cluster.store.put(keys.replica("r-2"), encode(ReplicaRecord("r-2")))
        told, others = [
            (await each.last("registry_fronts", lambda message: message.registry_fronts.fronts)).registry_fronts
            for each in (one, other)
        ]
        assert [(each.replica, each.address) for each in told.fronts] == [("r-1", "192.0.2.1:7400")]
        assert others.key == hub.front_key.of_node("fra-2")
        assert others.key != told.key == hub.front_key.of_node("fra-1")
        await cluster.store.delete(keys.replica("r-1"))
        await one.last("registry_fronts", lambda message: not message.registry_fronts.fronts)


async def test_nodes_are_told_which_registries_serve_them(hub: Hub, cluster: ViewedStore) -> None:
    """Those that live and say where, whether connections are passed on to them or not; again when that changes."""
    async with node(hub, "fra-1") as one:

        async def told(*addresses: str) -> None:
            await one.last("registry_fronts", lambda message: list(message.registry_fronts.mesh) == [*addresses])

        await cluster.store.put(keys.replica("r-1"), encode(ReplicaRecord("r-1", mesh=("192.0.2.1:7401",))))
        await cluster.store.put(keys.replica("r-2"), encode(ReplicaRecord("r-2", front="192.0.2.2:7400")))
        await told("192.0.2.1:7401")
        both = ("192.0.2.3:7401", "[2001:db8::3]:7401")
        await cluster.store.put(keys.replica("r-3"), encode(ReplicaRecord("r-3", mesh=both)))
        await told("192.0.2.1:7401", *both)
        await cluster.store.delete(keys.replica("r-1"))
        await told(*both)
