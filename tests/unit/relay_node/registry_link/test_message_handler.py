"""What a registry's news do at a node."""

import logging
from collections.abc import Iterable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from portway_proto.v1.lane_pb2 import FAILURE_CODE_CLAIM, FAILURE_CODE_EPOCH, FAILURE_CODE_QUOTA, Failure
from portway_proto.v1.mesh_pb2 import (
    EVICTION_REASON_INVALID,
    EVICTION_REASON_QUOTA,
    EVICTION_REASON_SUPERSEDED,
    EVICTION_REASON_UNSPECIFIED,
    CertifiedSince,
    ClusterSettings,
    DnsRecords,
    Eviction,
    Evictions,
    GrantKey,
    Order,
    Peers,
    PortOwner,
    PortOwners,
    Probe,
    Reachability,
    RegistryFronts,
    RegistryMessage,
    Revocations,
    ZoneCertificate,
    ZoneCertificates,
)
from portway_proto.v1.types_pb2 import (
    NODE_STATE_DRAINING,
    NODE_STATE_READY,
    REACH_FAILED,
    REACH_REACHED,
    REACH_TRYING,
    NodeInfo,
)
from portway_relay.config import PortRange
from portway_relay.registry_link.message_handler import MessageHandler

KEY = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32).public_key().public_bytes_raw()


class FakeGrants:
    """Takes keys as the real one does."""

    def __init__(self) -> None:
        self.registry_away = True
        self.learned: list[tuple[str, dict[str, bytes]]] = []
        self.revoked: list[str] = []

    def learn_keys(self, cluster_id: str, keys: dict[str, bytes]) -> None:
        if any(len(key) != 32 for key in keys.values()):
            raise ValueError("no key")
        self.learned.append((cluster_id, keys))

    @property
    def key_ids(self) -> list[str]:
        return sorted(self.learned[-1][1]) if self.learned else []

    def revoke(self, token_ids: Iterable[str]) -> None:
        self.revoked += token_ids


class FakeSessions:
    def __init__(self) -> None:
        self.revoked: list[str] = []

    def revoke(self, token_ids: Iterable[str]) -> None:
        self.revoked += token_ids


class FakeTable:
    def __init__(self) -> None:
        self.evicted: list[tuple[str, int, Failure]] = []
        self.claims: list[bytes] = []

    def evict(self, label: str, epoch: int, failure: Failure, claim: bytes) -> None:
        self.evicted.append((label, epoch, failure))
        self.claims.append(claim)


class FakeOwners:
    """The list of whose the raw ports are."""

    def __init__(self) -> None:
        self.learned: list[tuple[PortRange, str]] = []

    def learn(self, blocks: Iterable[tuple[PortRange, str]]) -> None:
        self.learned = list(blocks)


class FakeChecks:
    """Which cluster statements must be for."""

    def __init__(self) -> None:
        self.clusters: list[str] = []

    def learn_cluster(self, cluster_id: str) -> None:
        self.clusters.append(cluster_id)


class FakePeers:
    def __init__(self) -> None:
        self.lists: list[list[str]] = []
        self.removed: list[str] = []
        self.since: dict[str, int] = {}

    def update(self, nodes: Iterable[NodeInfo], removed: Iterable[str], certified_since: dict[str, int]) -> bool:
        refused = self.removed, self.since
        self.lists.append([node.name for node in nodes])
        self.removed = list(removed)
        self.since = certified_since
        return refused != (self.removed, self.since)


class FakeLanes:
    """Counts how often lanes of refused nodes were dropped."""

    def __init__(self) -> None:
        self.drops = 0

    def drop_refused(self) -> None:
        self.drops += 1


class FakePorts:
    """Remembers whether a registry can be asked."""

    def __init__(self) -> None:
        self.away = True

    def registry_away(self, away: bool) -> None:
        self.away = away


class News:
    """A MessageHandler and what it acts upon."""

    def __init__(self) -> None:
        self.grants: Any = FakeGrants()
        self.sessions: Any = FakeSessions()
        self.table: Any = FakeTable()
        self.peers: Any = FakePeers()
        self.lanes: Any = FakeLanes()
        self.ports: Any = FakePorts()
        self.owners: Any = FakeOwners()
        self.checks: Any = FakeChecks()
        self.orders: list[int] = []
        self.reached: list[bool] = []
        self.probes: list[Probe] = []
        self.registries: list[RegistryFronts] = []
        self.removals: list[str] = []
        self.keys_told = 0
        self.authorities: list[tuple[bytes, str]] = []
        self.dns_records: list[DnsRecords] = []
        self.certificates: list[list[str]] = []
        fakes: Any = self
        self.handler = MessageHandler(
            fakes.grants,
            fakes.sessions,
            fakes.table,
            fakes.peers,
            fakes.lanes,
            fakes.ports,
            fakes.owners,
            fakes.checks,
            lambda: self.reached.append(fakes.ports.away),
            self.orders.append,
            self.probes.append,
            self.registries.append,
            self.removals.append,
            self._keys_learned,
            lambda cluster_ca, issuer: self.authorities.append((cluster_ca, issuer)),
            self.dns_records.append,
            lambda certificates: self.certificates.append([one.zone for one in certificates]),
        )

    def _keys_learned(self) -> None:
        self.keys_told += 1

    def hear(self, **message: Any) -> None:
        self.handler.received(RegistryMessage(**message))


@pytest.fixture
async def news() -> News:
    return News()


def settings(*keys: tuple[str, bytes]) -> ClusterSettings:
    return ClusterSettings(cluster_id="c1", grant_keys=[GrantKey(kid=kid, public_key=key) for kid, key in keys])


async def test_a_removal_is_logged_once_with_its_reason(news: News, caplog: pytest.LogCaptureFixture) -> None:
    """And passed on: the node stops."""
    news.handler.removed("an operator removed it")
    assert news.removals == ["an operator removed it"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert caplog.records[0].__dict__["reason"] == "an operator removed it"


async def test_certificates_of_zones_are_passed_on(news: News) -> None:
    """All of a list at once."""
    zones = ("ams.example.com", "fra.example.com")
    news.hear(zone_certificates=ZoneCertificates(certificates=[ZoneCertificate(zone=zone) for zone in zones]))
    assert news.certificates == [list(zones)]


async def test_settings_make_the_node_useful(news: News) -> None:
    """From then on grants can be verified, with the keys by their ids."""
    assert not news.handler.ready.is_set()
    news.hear(settings=settings(("k1", KEY)))
    assert news.handler.ready.is_set()
    assert news.grants.learned == [("c1", {"k1": KEY})]
    assert news.checks.clusters == ["c1"]


@pytest.mark.parametrize("keys", [[], [("k1", b"short")]])
async def test_settings_without_a_usable_key_change_nothing(
    news: News, caplog: pytest.LogCaptureFixture, keys: list[tuple[str, bytes]]
) -> None:
    """The keys known stay in use, and the log says that something is wrong with the registry."""
    with caplog.at_level(logging.ERROR, logger="portway_relay"):
        news.hear(settings=settings(*keys))
    assert not news.grants.learned
    assert not news.handler.ready.is_set()
    assert len(caplog.records) == 1


async def test_other_keys_are_reported_at_once(news: News) -> None:
    """A registry waits for that before it signs with a new key; the same again is no news."""
    news.hear(settings=settings(("k1", KEY)))
    news.hear(settings=settings(("k1", KEY)))
    assert news.keys_told == 1
    news.hear(settings=settings(("k1", KEY), ("k2", KEY)))
    assert news.keys_told == 2


async def test_revocations_reach_grants_and_sessions(news: News) -> None:
    """Those that come, and those that are here."""
    news.hear(revocations=Revocations(token_ids=["t1", "t2"]))
    assert news.grants.revoked == ["t1", "t2"]
    assert news.sessions.revoked == ["t1", "t2"]


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (EVICTION_REASON_SUPERSEDED, FAILURE_CODE_EPOCH),
        (EVICTION_REASON_QUOTA, FAILURE_CODE_QUOTA),
        (EVICTION_REASON_INVALID, FAILURE_CODE_CLAIM),
        (EVICTION_REASON_UNSPECIFIED, FAILURE_CODE_EPOCH),
    ],
)
async def test_evictions_reach_the_table_with_what_the_client_is_told(news: News, reason: Any, code: int) -> None:
    """Each with its epoch, so that a newer binding of the label stays, and with the claim that owns the label."""
    evictions = [
        Eviction(label="a", epoch=2, reason=reason, claim=b"owner"),
        Eviction(label="b", epoch=1, reason=reason),
    ]
    news.hear(evictions=Evictions(evictions=evictions))
    assert [(label, epoch) for label, epoch, _ in news.table.evicted] == [("a", 2), ("b", 1)]
    assert news.table.claims == [b"owner", b""]
    failure = news.table.evicted[0][2]
    assert failure.code == code
    assert failure.message


async def test_whose_quota_is_full_is_told(news: News) -> None:
    """With its number; a node that is full as a whole sends its client to another one."""
    evictions = [
        Eviction(label="a", epoch=1, reason=EVICTION_REASON_QUOTA, max_tunnels=7),
        Eviction(label="b", epoch=1, reason=EVICTION_REASON_QUOTA, max_tunnels=3, of_token=True),
        Eviction(label="c", epoch=1, reason=EVICTION_REASON_QUOTA),
    ]
    news.hear(evictions=Evictions(evictions=evictions))
    tenant, token, node = (failure.message for _, _, failure in news.table.evicted)
    assert "its tenant, at all nodes together, may have 7 tunnels" in tenant
    assert "this token, at all nodes together, may have 3 tunnels" in token
    assert "attach to another one" in node


async def test_grants_are_judged_by_whether_a_registry_is_there(news: News) -> None:
    """While none is, they are honoured for longer; ports that were in use are not given then."""
    news.handler.registry_away(False)
    assert not news.grants.registry_away
    assert not news.ports.away
    assert news.reached == [False], "who waits for it asks now"
    news.handler.registry_away(True)
    assert len(news.reached) == 1
    assert news.grants.registry_away
    assert news.ports.away


async def test_dns_records_are_passed_on_part_by_part(news: News) -> None:
    parts = [DnsRecords(version=7, more=True), DnsRecords(version=7, part=1)]
    for part in parts:
        news.hear(dns_records=part)
    assert news.dns_records == parts


async def test_whose_the_raw_ports_are_is_taken_up(news: News) -> None:
    """Each list is the whole one."""
    owners = [PortOwner(first=20_000, last=20_063, node="a"), PortOwner(first=20_064, last=20_127, node="b")]
    news.hear(port_owners=PortOwners(owners=owners))
    assert news.owners.learned == [(PortRange(20_000, 20_063), "a"), (PortRange(20_064, 20_127), "b")]
    news.hear(port_owners=PortOwners())
    assert news.owners.learned == []


async def test_the_list_of_nodes_reaches_the_mesh(news: News) -> None:
    """Whole, each time."""
    news.hear(peers=Peers(nodes=[NodeInfo(name="a"), NodeInfo(name="b")]))
    news.hear(peers=Peers())
    assert news.peers.lists == [["a", "b"], []]


async def test_a_list_in_parts_counts_when_it_is_whole(news: News) -> None:
    """One that its stream did not bring to an end is begun anew."""
    news.hear(peers=Peers(nodes=[NodeInfo(name="gone")], more=True))
    news.hear(peers=Peers(nodes=[NodeInfo(name="a")], removed=["c"], more=True))
    news.hear(peers=Peers(nodes=[NodeInfo(name="b")], part=1, more=True))
    assert news.peers.lists == []
    news.hear(peers=Peers(nodes=[NodeInfo(name="d")], removed=["e"], part=2))
    assert news.peers.lists == [["a", "b", "d"]]
    assert news.peers.removed == ["c", "e"]


async def test_removed_nodes_reach_the_mesh(news: News) -> None:
    """By name, with each list; and which certificates of a name that was given anew are too old."""
    since = [CertifiedSince(node="d", issued_ms=7)]
    news.hear(peers=Peers(removed=["c"], certified_since=since))
    assert news.peers.removed == ["c"]
    assert news.peers.since == {"d": 7}


async def test_lanes_are_looked_at_again_when_others_are_refused(news: News) -> None:
    """Lanes of nodes that are refused now are dropped; a list like the last one changes nothing."""
    news.hear(peers=Peers(nodes=[NodeInfo(name="a")]))
    assert news.lanes.drops == 0
    news.hear(peers=Peers(removed=["a"]))
    news.hear(peers=Peers(removed=["a"]))
    assert news.lanes.drops == 1


async def test_what_operators_want_reaches_the_node(news: News) -> None:
    """As the state that it is to be in."""
    news.hear(order=Order(state=NODE_STATE_DRAINING))
    news.hear(order=Order(state=NODE_STATE_READY))
    assert news.orders == [NODE_STATE_DRAINING, NODE_STATE_READY]


async def test_what_is_to_be_tried_is_passed_on(news: News) -> None:
    """Another node's address, for a registry."""
    probe = Probe(number=7, node=NodeInfo(name="b"))
    news.hear(probe=probe)
    assert news.probes == [probe]


async def test_where_registries_are_is_passed_on(news: News) -> None:
    """For connections that come to the node for them."""
    fronts = RegistryFronts(name="registry.example.com")
    news.hear(registry_fronts=fronts)
    assert news.registries == [fronts]


async def test_an_address_that_nobody_reaches_is_told_its_operator(
    news: News, caplog: pytest.LogCaptureFixture
) -> None:
    """As a warning that says what to look at; nothing to warn of once it was reached."""
    with caplog.at_level(logging.INFO):
        news.hear(reachability=Reachability(reach=REACH_TRYING))
        assert caplog.records == []
        news.hear(reachability=Reachability(reach=REACH_FAILED, failure="refused"))
        news.hear(reachability=Reachability(reach=REACH_REACHED))
    failed, reached = caplog.records
    assert failed.levelname == "WARNING"
    assert "--advertise" in failed.message
    assert failed.reason == "refused"  # type: ignore[attr-defined]
    assert reached.levelname == "INFO"


async def test_news_of_a_later_version_are_passed_over(news: News) -> None:
    """A message without anything that is known."""
    news.hear()
    assert not news.table.evicted
    assert not news.grants.learned
