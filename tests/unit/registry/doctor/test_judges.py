"""What the doctor makes of a registry's answers: each finding, and that what is just right is none."""

from typing import Any

import pytest
from portway_proto.v1 import admin_pb2 as pb
from portway_proto.v1.types_pb2 import (
    NODE_STATE_CORDONED,
    NODE_STATE_DRAINING,
    REACH_FAILED,
    REACH_REACHED,
    REACH_TRYING,
    MeshLink,
    NodeInfo,
)
from portway_registry.doctor.certificates import judge_certificates
from portway_registry.doctor.checkup import no_answer
from portway_registry.doctor.clocks import judge_clocks
from portway_registry.doctor.facts import ClusterFacts
from portway_registry.doctor.finding import Finding, Severity
from portway_registry.doctor.links import judge_links
from portway_registry.doctor.nodes import judge_nodes
from portway_registry.doctor.store import judge_store
from portway_registry.doctor.upkeep import judge_suffix, judge_upkeep
from portway_registry.doctor.versions import judge_versions
from portway_testkit.clusters.registry import node_info

DAY_MS = 86_400_000
NOW_MS = 1_800_000_000_000
NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR
GIB = 1 << 30
FRA = {"latitude": 50.1, "longitude": 8.7}
IAD = {"latitude": 38.9, "longitude": -77.5}


def healthy(**more: Any) -> pb.GetHealthResponse:
    given: dict[str, Any] = {
        "time_ms": NOW_MS,
        "version": "0.1.0",
        "replicas": [pb.ReplicaHealth(id="r1", version="0.1.0", answers=True)],
        "store": pb.StoreHealth(kind="embedded", members=[pb.StoreMember(size=1)], disk_free=100 * GIB),
        "geoip": pb.GeoIpHealth(made_at_ms=NOW_MS - DAY_MS),
        "backup": pb.BackupInfo(at_ms=NOW_MS - DAY_MS),
        "max_connections": 4096,
        "wanted_connections": 4096,
    }
    return pb.GetHealthResponse(**given | more)


def facts(*nodes: NodeInfo, health: pb.GetHealthResponse | None = None, **more: Any) -> ClusterFacts:
    given: dict[str, Any] = {
        "authorities": (),
        "grant_keys": (),
        "asked_at_ms": NOW_MS,
        "round_trip": 0.01,
    }
    return ClusterFacts(health or healthy(), nodes, **given | more)


def kinds(found: list[Finding]) -> list[tuple[str, Severity]]:
    return [(one.kind, one.severity) for one in found]


def whole(name: str, **more: Any) -> NodeInfo:
    """A node with nothing to find."""
    given: dict[str, Any] = {"version": "0.1.0", "max_sessions": 100, "descriptors": 4_096, "descriptors_used": 100}
    return node_info(name, name.partition("-")[0], **given | {"reach": REACH_REACHED} | more)


PAIR = (whole("fra-1"), whole("fra-2"))


def test_a_healthy_cluster_has_no_finding() -> None:
    """Of any of the judges."""
    well = facts(*PAIR)
    for judge in (judge_clocks, judge_store, judge_certificates, judge_nodes, judge_links, judge_upkeep):
        assert judge(well) == []
    assert judge_versions(well, "0.1.0") == []


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"reach": REACH_FAILED, "reach_failure": "unreachable"}, [("node-unreached", ERROR)]),
        ({"reach": REACH_TRYING}, [("node-being-reached", NOTE)]),
        ({"reach_failure": "in no DNS answer: 2001:db8::5, a reason"}, [("public-address-unreached", WARNING)]),
        ({"state": NODE_STATE_DRAINING}, [("node-ordered", NOTE)]),
        ({"lacking_regions": 1}, [("node-lacks-regions", ERROR)]),
        ({"lacking_regions": 1, "state": NODE_STATE_CORDONED}, [("node-lacks-regions", ERROR)]),
        ({"state": NODE_STATE_CORDONED}, [("node-ordered", NOTE)]),
        ({"sessions": 90}, [("node-full", WARNING)]),
        ({"sessions": 89}, []),
        ({"descriptors_used": 3_300}, [("descriptors-used", WARNING)]),
        ({"descriptors_used": 3_900}, [("descriptors-used", ERROR)]),
        ({"descriptors": 1_100}, [("descriptors-few", WARNING)]),
        ({"descriptors": 1_156}, []),
        ({"descriptors": 0, "descriptors_used": 0, "max_sessions": 5_000}, []),
        ({"max_sessions": 0}, []),
    ],
)
def test_nodes_are_judged(node: dict[str, Any], expected: list[tuple[str, Severity]]) -> None:
    """Each by itself; two others of its region are well."""
    found = judge_nodes(facts(whole("fra-3", **node), *PAIR))
    assert kinds(found) == expected
    assert all("fra-3" in one.what for one in found)


@pytest.mark.parametrize(
    ("unit", "told"),
    [
        ("portway-server.service", "LimitNOFILE in its unit (`systemctl edit portway-server.service`); or"),
        ("", "LimitNOFILE in its unit, or the limit of open files of its container; or"),
    ],
)
def test_the_unit_that_runs_a_program_is_named(unit: str, told: str) -> None:
    """As the program says it: on a machine of `portway-server` one unit runs both."""
    node = whole("fra-3", descriptors_used=3_900, unit=unit)
    found = judge_nodes(facts(node, *PAIR))
    found += judge_upkeep(facts(*PAIR, health=healthy(max_connections=100, unit=unit)))
    assert [one.kind for one in found] == ["descriptors-used", "registry-descriptors"]
    assert all(told in one.mend for one in found)


def test_of_a_program_that_is_not_there_both_units_are_named() -> None:
    """It may be run by either."""
    status, log = no_answer("timeout").mend, judge_nodes(facts())[0].mend
    assert "`systemctl status portway-server`, or `systemctl status portway-registry`" in status
    assert "`journalctl -u portway-server`, or `journalctl -u portway-relay`" in log


def test_zones_that_a_node_lacks_are_named() -> None:
    """Where it says which it has."""
    lacking = whole("fra-3", lacking_regions=1, zones=["fra.tunnels.example"])
    (found,) = judge_nodes(facts(lacking, *PAIR, whole("iad-1"), whole("iad-2")))
    assert "no certificate for *.iad.tunnels.example." in found.what


def test_regions_need_nodes() -> None:
    """None at all, none that is ready, one."""
    assert kinds(judge_nodes(facts())) == [("no-nodes", ERROR)]
    alone = judge_nodes(facts(whole("fra-1")))
    assert kinds(alone) == [("region-with-one-node", NOTE)]
    drained = judge_nodes(facts(whole("fra-1", state=NODE_STATE_DRAINING), whole("iad-1"), whole("iad-2")))
    assert kinds(drained) == [("node-ordered", NOTE), ("region-without-node", ERROR)]
    assert drained[1].subject == "fra"


def test_a_node_that_is_away_is_named() -> None:
    """With the time until which it may come back, and what to do if it does not."""
    away = pb.AbsentNode(name="iad-7", region="iad", certificate_end_s=1_800_000_000)
    (found,) = judge_nodes(facts(*PAIR, health=healthy(absent_nodes=[away])))
    assert (found.kind, found.severity, found.subject) == ("node-absent", Severity.WARNING, "iad-7")
    assert "After 2027-01-15 08:00 UTC" in found.why
    assert "`portway-admin node remove iad-7`" in found.mend


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ({"failure": "refused"}, [("link-down", ERROR)]),
        ({"round_trip_us": 90_000}, []),
        ({"round_trip_us": 20_000}, [("link-too-fast", WARNING)]),
        ({"round_trip_us": 500_000}, [("link-slow", WARNING)]),
        ({"round_trip_us": 0}, []),
        ({"node": "gone", "failure": "refused"}, []),
    ],
)
def test_links_are_judged(link: dict[str, Any], expected: list[tuple[str, Severity]]) -> None:
    """6,500 km from Frankfurt to Virginia; a link to a node that is no longer there says nothing."""
    one = whole("fra-1", links=[MeshLink(**{"node": "iad-1"} | link)], **FRA)
    found = judge_links(facts(one, whole("iad-1", **IAD)))
    assert kinds(found) == expected


def test_what_two_nodes_say_of_each_other_is_told_once() -> None:
    """Their round trip is; that one does not reach the other is not, for the other may."""
    places = (("fra-1", "iad-1", FRA), ("iad-1", "fra-1", IAD))
    slow = [whole(one, links=[MeshLink(node=other, round_trip_us=900_000)], **at) for one, other, at in places]
    assert kinds(judge_links(facts(*slow))) == [("link-slow", WARNING)]
    down = [whole(one, links=[MeshLink(node=other, failure="refused")], **at) for one, other, at in places]
    assert [one.subject for one in judge_links(facts(*down))] == ["fra-1 -> iad-1", "iad-1 -> fra-1"]


def test_a_link_without_places_is_judged_by_its_failure_alone() -> None:
    """A round trip says nothing then."""
    one = whole("fra-1", links=[MeshLink(node="iad-1", round_trip_us=900_000)])
    assert judge_links(facts(one, whole("iad-1", **IAD))) == []


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [
        (0, []),
        (60, [("clock-of-a-node", WARNING)]),
        (-900, [("clock-of-a-node", WARNING)]),
        (901, [("clock-of-a-node", ERROR)]),
    ],
)
def test_clocks_of_nodes_are_judged(ahead: int, expected: list[tuple[str, Severity]]) -> None:
    """By what nodes allow when they judge a grant."""
    assert kinds(judge_clocks(facts(whole("fra-1", clock_ahead_s=ahead)))) == expected


@pytest.mark.parametrize(("apart_ms", "found"), [(59_000, 0), (61_000, 1), (-61_000, 1)])
def test_this_machine_s_clock_is_judged(apart_ms: int, found: int) -> None:
    """Less than a minute may be the way of the answer."""
    judged = judge_clocks(facts(*PAIR, asked_at_ms=NOW_MS + apart_ms))
    assert kinds(judged) == [("clock-of-this-machine", WARNING)] * found
    if found:
        assert ("ahead of" if apart_ms > 0 else "behind") in judged[0].what


@pytest.mark.parametrize(
    ("replica", "node", "own", "expected"),
    [
        ("0.1.0", "0.1.0", "0.1.0", []),
        ("0.1.0", "0.1.1", "0.1.0", [("versions-mixed", WARNING)]),
        ("", "0.1.0", "0.1.0", [("versions-mixed", WARNING)]),
        ("0.1.0", "0.3.0", "0.1.0", [("version-too-old", ERROR)]),
        ("0.1.0", "1.0.0", "0.1.0", [("version-too-old", ERROR)]),
        ("0.1.0", "of my own", "0.1.0", [("versions-mixed", WARNING)]),
        ("0.1.0", "0.1.0", "0.2.0", [("version-of-this-command", NOTE)]),
    ],
)
def test_versions_are_judged(replica: str, node: str, own: str, expected: list[tuple[str, Severity]]) -> None:
    """Mixed, too far apart, and this command's own."""
    health = healthy(replicas=[pb.ReplicaHealth(id="r1", version=replica)])
    assert kinds(judge_versions(facts(whole("fra-1", version=node), health=health), own)) == expected


def test_a_registry_of_before_is_said_to_be() -> None:
    """Nothing else can be said of it."""
    old = ClusterFacts(None, PAIR, (), (), NOW_MS, 0.01)
    assert kinds(judge_versions(old, "0.1.0")) == [("registry-older", WARNING)]
    for judge in (judge_store, judge_upkeep, judge_clocks, judge_certificates):
        assert judge(old) == []


def etcd(*members: pb.StoreMember, failure: str = "") -> pb.StoreHealth:
    return pb.StoreHealth(kind="etcd", failure=failure, members=members)


def member(number: int, **more: Any) -> pb.StoreMember:
    given: dict[str, Any] = {"endpoint": f"10.0.0.{number}:2379", "version": "3.5.16", "leads": number == 1}
    return pb.StoreMember(name=f"m{number}", **given | more)


TRIO = (member(1), member(2), member(3))


@pytest.mark.parametrize(
    ("store", "expected"),
    [
        (etcd(*TRIO), []),
        (etcd(*TRIO, failure="no answer"), [("store-away", ERROR)]),
        (etcd(*TRIO[:2], member(3, failure="x")), [("store-member-silent", ERROR)]),
        (etcd(*TRIO, member(4), member(5, failure="x")), [("store-member-silent", WARNING)]),
        (etcd(*TRIO[:2], member(3, failure="x"), failure="y"), [("store-away", ERROR)]),
        (etcd(member(1)), [("store-of-one", NOTE)]),
        (etcd(*TRIO[:2]), [("store-even", WARNING)]),
        (etcd(*TRIO, member(4, learns=True)), []),
        (etcd(*TRIO[:2], member(3, endpoint="")), [("store-unlisted", WARNING)]),
        (etcd(*TRIO[:2], member(3, alarms=["NOSPACE"], size=2 * GIB, used=2 * GIB)), [("store-alarm", ERROR)]),
        (etcd(*TRIO[:2], member(3, alarms=["CORRUPT"])), [("store-alarm", ERROR)]),
        (etcd(*TRIO[:2], member(3, size=1_800 << 20, used=1_800 << 20)), [("store-large", WARNING)]),
        (etcd(*TRIO[:2], member(3, size=300 << 20, used=100 << 20)), [("store-fragmented", NOTE)]),
        (etcd(*TRIO[:2], member(3, size=300 << 20, used=200 << 20)), []),
        (etcd(*TRIO[:2], member(3, round_trip_us=250_000)), [("store-slow", WARNING)]),
        (etcd(*TRIO[:2], member(3, version="3.5.1")), [("store-version", WARNING)]),
        (etcd(*TRIO[:2], member(3, version="3.3.27")), [("store-version", WARNING)]),
        (etcd(member(1, applied=50_000), member(2, applied=49_999), member(3, applied=9)), [("store-behind", WARNING)]),
        (pb.StoreHealth(kind="embedded", members=[pb.StoreMember(endpoint="memory")]), []),
        (
            pb.StoreHealth(kind="embedded", members=[pb.StoreMember(endpoint="a", size=9)], disk_free=GIB - 1),
            [("store-disk", WARNING)],
        ),
        (
            pb.StoreHealth(kind="embedded", members=[pb.StoreMember(endpoint="a", size=9)], disk_free=1 << 20),
            [("store-disk", ERROR)],
        ),
    ],
)
def test_stores_are_judged(store: pb.StoreHealth, expected: list[tuple[str, Severity]]) -> None:
    """Members, majorities, size, release; the disk of an embedded one."""
    assert kinds(judge_store(facts(*PAIR, health=healthy(store=store)))) == expected


def end_s(days: float) -> int:
    return int(NOW_MS / 1000 + days * 86_400)


@pytest.mark.parametrize(("days", "severity"), [(-1, ERROR), (2, ERROR), (20, WARNING), (22, None)])
def test_ends_of_certificates_are_judged(days: float, severity: Severity | None) -> None:
    """The registry's, a node's, and the cluster's CA."""
    expected = [] if severity is None else [severity]
    mine = healthy(certificates=[pb.CertificateHealth(name="public", end_s=end_s(days), remedy="put a new one")])
    found = judge_certificates(facts(*PAIR, health=mine))
    assert kinds(found) == [("certificate-of-the-registry", one) for one in expected]
    if found:
        assert found[0].mend == "Put a new one."
        assert ("ended at" in found[0].what) == (days < 0)
    theirs = judge_certificates(facts(whole("fra-1", certificate_end_s=end_s(days))))
    assert kinds(theirs) == [("certificate-of-a-node", one) for one in expected]
    authority = pb.AuthorityInfo(id="a", state=pb.AUTHORITY_STATE_ISSUING, ends_at_ms=end_s(days) * 1000)
    assert kinds(judge_certificates(facts(authorities=[authority]))) == [("authority-ends", one) for one in expected]
    authority.state = pb.AUTHORITY_STATE_RETIRING
    assert judge_certificates(facts(authorities=[authority])) == []


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"until": 60}, []),
        ({"until": 60, "failures": 1}, [("zone-not-renewed", WARNING)]),
        ({"until": 2, "failures": 9}, [("zone-not-renewed", ERROR)]),
        ({"until": -1, "failures": 9}, [("zone-not-renewed", ERROR)]),
        ({"failures": 1}, [("zone-not-obtained", ERROR)]),
        ({}, [("zone-being-obtained", NOTE)]),
        ({"failures": 1, "names": ()}, []),
    ],
)
def test_a_certificate_that_cannot_be_obtained_is_found(
    info: dict[str, Any], expected: list[tuple[str, Severity]]
) -> None:
    """Once, with the reason and the command, and no more once no node of the region needs it."""
    zone, now = "fra.tunnels.example", NOW_MS
    until = now + info["until"] * DAY_MS if "until" in info else 0
    one = pb.ZoneCertificateInfo(
        zone=zone,
        names=info.get("names", (zone,)),
        from_ms=until - 90 * DAY_MS if until else 0,
        until_ms=until,
        failures=info.get("failures", 0),
        failure="the server says no" if "failures" in info else "",
        retry_at_ms=now + 60_000,
    )
    told = [pb.CertificateHealth(name=zone, end_s=until // 1000, remedy="wait")] if until else []
    found = judge_certificates(facts(*PAIR, health=healthy(certificates=told), obtained=[one]))
    assert kinds(found) == expected
    if info.get("failures") and expected:
        assert "the server says no" in found[0].what
        assert f"`portway-admin certificate renew {zone}`" in found[0].mend


def test_an_obtained_certificate_of_a_short_life_is_not_near_its_end() -> None:
    """Of six days it has four left; a file's with that would be a warning."""
    zone = "fra.tunnels.example"
    one = pb.ZoneCertificateInfo(zone=zone, names=[zone], from_ms=NOW_MS - 2 * DAY_MS, until_ms=NOW_MS + 4 * DAY_MS)
    mine = healthy(certificates=[pb.CertificateHealth(name=zone, end_s=one.until_ms // 1000, remedy="wait")])
    assert judge_certificates(facts(*PAIR, health=mine, obtained=[one])) == []
    assert kinds(judge_certificates(facts(*PAIR, health=mine))) == [("certificate-of-the-registry", WARNING)]


def test_a_damaged_grant_key_is_found() -> None:
    """Others are not."""
    key = pb.GrantKeyInfo(id="7", state=pb.GRANT_KEY_STATE_UNREADABLE)
    other = pb.GrantKeyInfo(id="8", state=pb.GRANT_KEY_STATE_SIGNING)
    found = judge_certificates(facts(grant_keys=[key, other]))
    assert kinds(found) == [("grant-key-damaged", ERROR)]
    assert "grant-key retire 7 --force" in found[0].mend


@pytest.mark.parametrize(
    ("health", "expected"),
    [
        ({"backup": None, "created_at_ms": NOW_MS - 6 * DAY_MS}, []),
        ({"backup": None, "created_at_ms": NOW_MS - 8 * DAY_MS}, [("backup-none", WARNING)]),
        ({"backup": None, "store": pb.StoreHealth(kind="etcd", failure="away")}, []),
        ({"backup": pb.BackupInfo(at_ms=NOW_MS - 6 * DAY_MS)}, []),
        ({"backup": pb.BackupInfo(at_ms=NOW_MS - 8 * DAY_MS)}, [("backup-old", WARNING)]),
        ({"backup": pb.BackupInfo(at_ms=NOW_MS - 31 * DAY_MS)}, [("backup-old", ERROR)]),
        ({"geoip": pb.GeoIpHealth(file="f", made_at_ms=NOW_MS - 91 * DAY_MS)}, [("geoip-old", NOTE)]),
        ({"geoip": pb.GeoIpHealth(file="f", made_at_ms=NOW_MS - 181 * DAY_MS)}, [("geoip-old", WARNING)]),
        ({"geoip": pb.GeoIpHealth(made_at_ms=NOW_MS - 181 * DAY_MS)}, []),
        ({"geoip": pb.GeoIpHealth(made_at_ms=NOW_MS - 271 * DAY_MS)}, [("geoip-old", NOTE)]),
        ({"geoip": pb.GeoIpHealth()}, []),
        ({"max_connections": 100}, [("registry-descriptors", WARNING)]),
    ],
)
def test_upkeep_is_judged(health: dict[str, Any], expected: list[tuple[str, Severity]]) -> None:
    """Back-ups, GeoIP, room for connections."""
    assert kinds(judge_upkeep(facts(*PAIR, health=healthy(**health)))) == expected


@pytest.mark.parametrize(
    ("domain", "found"), [("tun.example.com", 1), ("tunnels.localhost", 0), ("", 0), ("compute.amazonaws.com", 0)]
)
def test_a_domain_that_mixes_tenants_is_noted(domain: str, found: int) -> None:
    """Unless it cannot be public, or rules of the list separate what is below it."""
    assert kinds(judge_suffix(domain)) == [("public-suffix", NOTE)] * found
