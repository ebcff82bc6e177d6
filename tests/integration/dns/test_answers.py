"""Names of a whole cluster: who is in the answers, when, and with which registries and stores there."""

import time

import dns.rcode
import pytest
from portway_proto.v1.admin_pb2 import NODE_ORDER_CORDON, NODE_ORDER_DRAIN, NODE_ORDER_SERVE
from portway_testkit.clusters.cluster import DOMAIN, Cluster
from portway_testkit.clusters.dns_mesh import ADDRESSES, ADDRESSES_AT, LABEL, NAMES, ask, data, named, named_at_all
from portway_testkit.own_time import OwnTime
from portway_testkit.waiting import eventually

# Seconds within which a node that drains or was reset is in nobody's answers any more.
SOON = 5.0


def out_at_all_others(cluster: Cluster, gone: str, own_time: OwnTime) -> float:
    """Wait until no other node names it; how many seconds that took."""
    began = own_time()
    for at in NAMES:
        if at != gone:
            eventually(lambda at=at: gone not in named_at_all(cluster, at) | named(cluster, at))  # type: ignore[misc]
    return own_time() - began


def test_every_node_answers_for_all(mesh: Cluster) -> None:
    """The same from each, over both transports; all labels of a region alike."""
    for at in NAMES:
        for over_tcp in (False, True):
            for label in (LABEL, "unknown"):
                answer = ask(mesh, at, f"{label}.iad", over_tcp=over_tcp)
                assert len(answer.answer[0]) == ADDRESSES_AT[at]
        assert data(mesh, at, "fra", "A") == {ADDRESSES["fra-1"], ADDRESSES["fra-2"]}
        assert data(mesh, at, "iad", "AAAA") == {"2001:db8::3"}
        assert ask(mesh, at, "nothing").rcode() == dns.rcode.NXDOMAIN
        assert len(data(mesh, at, "", "A")) == ADDRESSES_AT[at]


def test_name_servers_have_names_and_addresses(mesh: Cluster) -> None:
    """As many as nodes, up to four; the same whoever is asked."""
    expected = {f"ns{number}.{DOMAIN}." for number in (1, 2, 3)}
    for at in NAMES:
        eventually(lambda at=at: data(mesh, at, "", "NS") == expected)  # type: ignore[misc]
    answers = [{n: data(mesh, at, f"ns{n}", "A") for n in (1, 2, 3)} for at in NAMES]
    assert answers[0] == answers[1] == answers[2]
    assert set().union(*answers[0].values()) == set(ADDRESSES.values())
    mesh.nodes["fra-2"].stop()
    eventually(lambda: "fra-2" not in named_at_all(mesh, "iad-1"))
    assert {n: data(mesh, "iad-1", f"ns{n}", "A") for n in (1, 2, 3)} == answers[0]


@pytest.mark.parametrize("order", [NODE_ORDER_DRAIN, NODE_ORDER_CORDON])
def test_a_node_that_drains_is_in_no_answer(mesh: Cluster, order: "int", own_time: OwnTime) -> None:
    """Nor in its own; and it is again when it serves."""
    mesh.admin.order("fra-2", order)  # type: ignore[arg-type]
    took = out_at_all_others(mesh, "fra-2", own_time)
    print(f"out of answers after {took:.2f} s")
    assert took < SOON
    eventually(lambda: "fra-2" not in named_at_all(mesh, "fra-2"))
    mesh.admin.order("fra-2", NODE_ORDER_SERVE)
    for at in NAMES:
        eventually(lambda at=at: "fra-2" in named_at_all(mesh, at))  # type: ignore[misc]


def test_a_node_that_was_reset_is_in_no_answer(mesh: Cluster, own_time: OwnTime) -> None:
    mesh.nodes["fra-2"].kill()
    took = out_at_all_others(mesh, "fra-2", own_time)
    print(f"out of answers after {took:.2f} s")
    assert took < SOON
    mesh.nodes["fra-2"].start()
    for at in NAMES:
        eventually(lambda at=at: "fra-2" in named_at_all(mesh, at))  # type: ignore[misc]


def test_with_no_registry_names_resolve_and_nodes_that_leave_are_left_out(mesh: Cluster, own_time: OwnTime) -> None:
    """The nodes know each other, and tell each other when they go."""
    mesh.stop_registry()
    for at in NAMES:
        assert named_at_all(mesh, at) == set(NAMES)
        assert len(named(mesh, at)) == ADDRESSES_AT[at]

    async def drain() -> None:
        mesh.nodes["fra-2"].node._lifecycle.obey(3)  # type: ignore[arg-type]

    mesh.run(drain)
    assert out_at_all_others(mesh, "fra-2", own_time) < SOON
    mesh.nodes["fra-1"].kill()
    eventually(lambda: named(mesh, "iad-1") == {"iad-1"})
    # Nobody of the region is fit: its own name leads to who drains, which is better than nowhere.
    eventually(lambda: data(mesh, "iad-1", "fra", "A") == {ADDRESSES["fra-2"]})


def test_records_of_operators_are_answered_everywhere(mesh: Cluster) -> None:
    mesh.admin.add_dns_record("_psl", "TXT", '"https://github.com/publicsuffix/list/pull/1"')
    mesh.admin.add_dns_record("@", "CAA", '0 issue "letsencrypt.org"')
    for at in NAMES:
        eventually(lambda at=at: data(mesh, at, "_psl", "TXT"))  # type: ignore[misc]
        eventually(lambda at=at: data(mesh, at, "", "CAA") == {'0 issue "letsencrypt.org"'})  # type: ignore[misc]
    mesh.admin.remove_dns_records("_psl", "TXT")
    for at in NAMES:
        eventually(lambda at=at: ask(mesh, at, "_psl", "TXT").rcode() == dns.rcode.NXDOMAIN)  # type: ignore[misc]


def test_a_proof_is_answered_everywhere_when_it_is_published(mesh: Cluster) -> None:
    """Without a moment's wait: a certificate authority looks once, and a proof that it does not find costs a try."""
    eventually(lambda: all(node.dns_version for node in mesh.admin.nodes()))
    name = f"_acme-challenge.fra.{DOMAIN}"
    challenges = mesh.challenges
    for value in ("one", "two"):
        began = time.monotonic()
        mesh.run(lambda value=value: challenges.publish(name, value))  # type: ignore[misc]
        print(f"published within {time.monotonic() - began:.3f} s")
        for at in NAMES:
            assert f'"{value}"' in data(mesh, at, "_acme-challenge.fra", "TXT")
    for at in NAMES:
        assert data(mesh, at, "_acme-challenge.fra", "TXT") == {'"one"', '"two"'}
        assert len(data(mesh, at, "_acme-challenge.fra", "A")) == ADDRESSES_AT[at]
    mesh.run(lambda: challenges.withdraw(name, "one"))
    for at in NAMES:
        eventually(lambda at=at: data(mesh, at, "_acme-challenge.fra", "TXT") == {'"two"'})  # type: ignore[misc]


def test_a_node_that_starts_anew_answers_by_all_records(mesh: Cluster) -> None:
    mesh.admin.add_dns_record("a", "TXT", '"x"')
    mesh.nodes["fra-1"].restart()
    eventually(lambda: data(mesh, "fra-1", "a", "TXT") == {'"x"'})
    eventually(lambda: named_at_all(mesh, "fra-1") == set(NAMES))
