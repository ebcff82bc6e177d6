"""One of three members of etcd is lost: the one that leads, then another, each started again on what it had."""

from collections.abc import Callable, Iterator

import pytest
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.clusters.etcd import EtcdTrio
from portway_testkit.fixtures import AsClient
from portway_testkit.links.hand_tunnel import HandTunnel
from portway_testkit.visitors.onlookers import UNHURRIED, Onlookers, named
from portway_testkit.visitors.recovery import TunnelWatch, epoch_of, is_consistent
from portway_testkit.waiting import eventually


@pytest.fixture
def trio() -> Iterator[EtcdTrio]:
    with EtcdTrio() as trio:
        yield trio


def test_nobody_notices_but_who_writes(
    make_mesh: Callable[..., Cluster], trio: EtcdTrio, as_client: AsClient, bind: Callable[..., HandTunnel]
) -> None:
    """Visitors are served without a break; what opens and closes meanwhile is shown once, as it was."""
    mesh = make_mesh(store=f"etcd:{trio.url}")
    as_client(mesh.environment())
    other = bind(mesh, "iad-1", "other")
    with TunnelWatch(mesh.admin) as watch, named("own") as tunnel:
        eventually(lambda: len(mesh.admin.tunnels()) == 2)
        epoch = epoch_of(mesh.admin, tunnel)
        with Onlookers(mesh, {tunnel.host: "own", other.host: "other"}, attention=UNHURRIED) as onlookers:
            for lost in (trio.leader(), trio.members[0]):
                lost.kill()
                with named("brief") as brief:
                    eventually(lambda: brief.host[:16] in {one.label for one in mesh.admin.tunnels()})
                eventually(lambda: len(mesh.admin.tunnels()) == 2)
                lost.start()
            eventually(lambda: all(onlookers.answers[at, "own"] > 5 for at in mesh.nodes))
        assert not onlookers.unanswered
        other.leave()
        eventually(lambda: is_consistent(mesh, tunnel))
        eventually(lambda: watch.shows(tunnel))
        assert epoch_of(mesh.admin, tunnel) == epoch
