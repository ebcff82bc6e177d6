"""`portway-admin doctor` on whole clusters: one that is well, and one with several faults at once."""

import dataclasses
from collections.abc import Callable, Iterator

import pytest
from portway_proto.v1.types_pb2 import NodeInfo
from portway_registry.doctor import store
from portway_registry.services import method_roles
from portway_relay.config import NodeLimits
from portway_relay.mesh import control_lane
from portway_testkit.clusters.cluster import Cluster, NodePlan
from portway_testkit.clusters.doctor import Doctor, kinds, resolver
from portway_testkit.clusters.etcd import EtcdTrio
from portway_testkit.links.hand_tunnel import Bind
from portway_testkit.waiting import eventually

MakeMesh = Callable[..., Cluster]

LIMITS = NodeLimits(max_sessions=50)
NODES = tuple(NodePlan(name, name.partition("-")[0], LIMITS) for name in ("fra-1", "fra-2", "iad-1", "iad-2"))
NAMES = ("*.fra.localhost A 127.0.0.1", "*.iad.localhost A 127.0.0.1")


@pytest.fixture
def trio() -> Iterator[EtcdTrio]:
    with EtcdTrio() as trio:
        yield trio


def has_round_trips(node: NodeInfo) -> bool:
    return len(node.links) == len(NODES) - 1 and all(link.round_trip_us for link in node.links)


def test_a_cluster_that_is_well_is_green_in_seconds(
    make_mesh: MakeMesh, trio: EtcdTrio, bind: Bind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every check is done: names by a resolver, visits of a tunnel of each region at each node."""
    monkeypatch.setattr(store, "_SLOW_US", 10_000_000)  # a store on a busy machine is slow, and that is a finding
    mesh = make_mesh(*NODES, store=f"etcd:{trio.url}")
    tunnels = [bind(mesh, "fra-1", "one"), bind(mesh, "iad-1", "two")]
    eventually(lambda: len(mesh.admin.tunnels()) == 2)
    with resolver(*NAMES) as at:
        doctor = Doctor(mesh, "--resolver", at)
        eventually(lambda: all(has_round_trips(node) for node in mesh.admin.nodes()))
        code, told = doctor()
        assert kinds(told) == set()
        assert (code, told["worst"]) == (0, None)
        assert told["took_s"] < 5
        assert [check["check"] for check in told["checks"] if check["skipped"]] == []
        assert len(told["checks"]) == 12
        text = doctor.text()
        assert text.splitlines()[0].split() == ["registry", "ok"]
        assert "12 checks in" in text
        assert "nothing found" in text
    for tunnel in tunnels:
        tunnel.leave()


def test_several_faults_are_found_at_once(
    make_mesh: MakeMesh, trio: EtcdTrio, bind: Bind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member of etcd and a node that died, a node without a certificate, one with a wrong clock, one that may have
    too few descriptors, names that lead nowhere and to strangers; each with what mends it. The exit code is that of the
    worst."""
    monkeypatch.setattr(control_lane, "_DOWN_AFTER", 0.1)
    plans = {plan.name: plan for plan in NODES}
    plans["iad-2"] = dataclasses.replace(plans["iad-2"], clock_ahead=7_200)
    plans["fra-2"] = dataclasses.replace(plans["fra-2"], limits=NodeLimits())
    mesh = make_mesh(*plans.values(), store=f"etcd:{trio.url}")
    mesh.nodes["iad-1"].stop()
    own = mesh.pki / "region-iad.crt", mesh.pki / "region-iad.key"
    mesh.nodes["iad-1"].config = dataclasses.replace(mesh.nodes["iad-1"].config, tls_cert=own[:1], tls_key=own[1:])
    mesh.nodes["iad-1"].start()
    tunnel = bind(mesh, "fra-2", "one")
    eventually(lambda: len(mesh.admin.tunnels()) == 1)
    lost = next(member for member in trio.members if not member.leads())
    lost.kill()
    mesh.nodes["fra-1"].kill()
    expected = {
        ("store-member-silent", lost.name),
        ("visitor-unreached", "fra-1"),
        ("link-down", "fra-2 -> fra-1"),
        ("link-down", "iad-1 -> fra-1"),
        ("node-lacks-regions", "iad-1"),
        ("zone-not-served", "iad-1"),
        ("clock-of-a-node", "iad-2"),
        ("descriptors-few", "fra-2"),
        ("region-led-astray", "fra"),
        ("region-unresolved", "iad"),
    }
    with resolver("*.fra.localhost A 192.0.2.9") as at:
        doctor = Doctor(mesh, "--resolver", at)
        # The other nodes say within a third of a lease that a link is down, of which the dead one's is over in a whole.
        eventually(lambda: expected <= kinds(doctor()[1]))
        code, told = doctor()
        assert (code, told["worst"]) == (11, "error")
        assert told["took_s"] < 12
        assert all(one["mend"] for check in told["checks"] for one in check["findings"])
        text = doctor.text()
    assert text.index("ERROR  link-down") < text.index("WARNING  descriptors-few")
    assert "Mend: " in text
    lost.start()
    tunnel.leave()


def test_without_a_registry_the_rest_is_looked_at(make_mesh: MakeMesh) -> None:
    """Its port, and names of the domain that one gives; the findings say so."""
    mesh = make_mesh(NODES[0], store="embedded:memory")
    mesh.stop_registry()
    with resolver() as at:
        code, told = Doctor(mesh, "--resolver", at, "--domain", "localhost")()
    assert code == 11
    assert {kind for kind, _ in kinds(told)} == {"registry-no-answer", "registry-unreached"}
    assert [check["check"] for check in told["checks"]] == ["registry", "names", "clients"]


def test_a_registry_of_before_is_looked_at(make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as it answers: it has no such method."""
    mesh = make_mesh(NODES[0], store="embedded:memory")
    monkeypatch.delitem(method_roles.METHOD_ROLES, "/portway.v1.Admin/GetHealth")
    code, told = Doctor(mesh)()
    assert code == 10
    assert kinds(told) == {("registry-older", "registry"), ("region-with-one-node", "fra")}


def test_a_wrong_token_is_a_finding(make_mesh: MakeMesh) -> None:
    """With the registry's reason; its port is looked at."""
    mesh = make_mesh(NODES[0], store="embedded:memory")
    doctor = Doctor(mesh)
    doctor.given[-2:] = ["--token", "pw_wrong_" + "a" * 32]
    code, told = doctor()
    (finding,) = told["checks"][0]["findings"]
    assert (code, finding["kind"]) == (11, "registry-no-answer")
    assert "does not know the API token" in finding["what"]
