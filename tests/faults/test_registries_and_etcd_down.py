"""Every registry and etcd are gone for longer than leases last: static stability."""

import contextlib
import time
from collections.abc import Callable

import pytest
from portway_proto.wire.limits import CLOCK_LEEWAY, PRESENCE_FRESH, YOUNG
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.clusters.dns_mesh import ADDRESSES_AT, BELIEVED, dns_plans, named_everywhere
from portway_testkit.clusters.dns_mesh import named as nodes_named
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.fixtures import AsClient
from portway_testkit.links.hand_tunnel import HandTunnel
from portway_testkit.visitors.onlookers import UNHURRIED, Onlookers, answered, answered_at_last, home_of, named
from portway_testkit.visitors.recovery import epoch_of, is_consistent
from portway_testkit.waiting import eventually

Bind = Callable[..., HandTunnel]

LEASE = 2  # seconds


@pytest.fixture
def mesh(make_mesh: Callable[..., Cluster], etcd: EtcdServer) -> Cluster:
    return make_mesh(store=f"etcd:{etcd.url}", lease_seconds=LEASE)


def fall(mesh: Cluster, etcd: EtcdServer) -> None:
    mesh.stop_registry()
    etcd.kill()


def rise(mesh: Cluster, etcd: EtcdServer) -> None:
    etcd.start()
    mesh.start_registry()


def test_all_that_is_known_goes_on_and_new_things_begin(
    mesh: Cluster, etcd: EtcdServer, as_client: AsClient, bind: Bind
) -> None:
    """Known routes, a label that nobody has asked for yet, a new tunnel, a client that loses its node."""
    as_client(mesh.environment())
    far = bind(mesh, "fra-1", "far")
    with contextlib.ExitStack() as stack:
        tunnel = stack.enter_context(named("own"))
        eventually(lambda: len(mesh.admin.tunnels()) == 2)
        assert answered_at_last(mesh, "fra-2", far.host) == "far"
        fall(mesh, etcd)
        home = home_of(mesh, tunnel)
        with Onlookers(mesh, {tunnel.host: "own", far.host: "far"}, [name for name in mesh.nodes if name != home]):
            # Never asked for at iad-1 before: the nodes of its own region are asked.
            assert {answered_at_last(mesh, at, far.host) for at in mesh.nodes} == {"far"}
            second = stack.enter_context(named("second"))
            assert {answered_at_last(mesh, at, second.host) for at in mesh.nodes} == {"second"}
            mesh.nodes[home].kill()
            left = [name for name in mesh.nodes if name != home]
            for at in left:
                for host, name in ((tunnel.host, "own"), (second.host, "second")):
                    eventually(lambda: answered(mesh, at, host) == name)
            assert home_of(mesh, tunnel) in left
        rise(mesh, etcd)
        mesh.nodes[home].start()
        far.leave()
        for at in mesh.nodes:
            eventually(lambda: answered(mesh, at, tunnel.host) == "own")
        eventually(lambda: is_consistent(mesh, tunnel, second))


def test_nothing_is_lost_when_leases_run_out_meanwhile(
    mesh: Cluster, etcd: EtcdServer, as_client: AsClient, bind: Bind
) -> None:
    """Registries are away, etcd is not: it forgets every node and tunnel, and is told all again."""
    as_client(mesh.environment())
    other = bind(mesh, "iad-1", "other")
    with named("own") as tunnel:
        eventually(lambda: len(mesh.admin.tunnels()) == 2)
        epoch = epoch_of(mesh.admin, tunnel)
        with Onlookers(mesh, {tunnel.host: "own", other.host: "other"}, attention=UNHURRIED) as onlookers:
            eventually(lambda: all(onlookers.answers[at, "own"] for at in mesh.nodes))
            mesh.stop_registry()
            eventually(lambda: etcd.count("/portway/v1/nodes/") == 0)
            assert etcd.count("/portway/v1/tunnels/") == 0
            before = onlookers.answers.copy()
            eventually(lambda: all((onlookers.answers - before)[at, "own"] > 3 for at in mesh.nodes))
            mesh.start_registry()
            eventually(lambda: len(mesh.admin.tunnels()) == 2)
            assert epoch_of(mesh.admin, tunnel) == epoch
            eventually(lambda: len(mesh.admin.nodes()) == len(mesh.nodes))
        assert not onlookers.unanswered
        other.leave()
        eventually(lambda: is_consistent(mesh, tunnel))


@pytest.mark.usefixtures("short_grants")
def test_names_resolve_and_serve_when_all_that_ends_has_ended(
    make_mesh: Callable[..., Cluster], etcd: EtcdServer, as_client: AsClient
) -> None:
    """Leases by real seconds; grants, presences and routes by a clock that jumps. What ten real minutes are like shows
    `scripts/bench --only outage`."""
    mesh = make_mesh(*dns_plans(), store=f"etcd:{etcd.url}", lease_seconds=LEASE, **BELIEVED)
    named_everywhere(mesh)
    as_client(mesh.environment())
    with named("own") as tunnel:
        eventually(lambda: all(answered(mesh, at, tunnel.host) == "own" for at in mesh.nodes))
        fall(mesh, etcd)
        over = time.monotonic() + LEASE
        eventually(lambda: time.monotonic() > over)
        for later in (PRESENCE_FRESH + 1, PRESENCE_FRESH + CLOCK_LEEWAY + 5, YOUNG):
            for node in mesh.nodes.values():
                node.pass_time(later, grants=True)
            for at in mesh.nodes:
                assert len(nodes_named(mesh, at)) == ADDRESSES_AT[at]
                eventually(lambda at=at: answered(mesh, at, tunnel.host) == "own")  # type: ignore[misc]
        home = home_of(mesh, tunnel)
        mesh.nodes[home].kill()
        for at in set(mesh.nodes) - {home}:
            eventually(lambda at=at: home not in nodes_named(mesh, at))  # type: ignore[misc]
            eventually(lambda at=at: answered(mesh, at, tunnel.host) == "own")  # type: ignore[misc]
