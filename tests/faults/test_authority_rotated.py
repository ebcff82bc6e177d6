"""The cluster's CA is replaced while visitors come without pause: nobody notices, whatever is interrupted meanwhile."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import grpc
import portway
import pytest
from cryptography import x509
from portway.engine import engine_thread
from portway.engine.engine import Engine
from portway_proto.v1 import admin_pb2
from portway_proto.v1.admin_pb2 import AUTHORITY_STATE_ANNOUNCED, AUTHORITY_STATE_ISSUING, AUTHORITY_STATE_RETIRING
from portway_registry.pki.ca_folder import CaFolder
from portway_testkit.clusters.cluster import DOMAIN, Cluster, RunningNode
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.clusters.joining import Joiner
from portway_testkit.clusters.mesh import connected
from portway_testkit.clusters.replicas import Replicas, with_a_replica
from portway_testkit.fixtures import AsClient
from portway_testkit.visitors.onlookers import UNHURRIED, Onlookers, answered, home_of, named
from portway_testkit.visitors.origins import TcpOrigin, echo
from portway_testkit.visitors.visiting import visit
from portway_testkit.waiting import PATIENCE, eventually

_CROWD: Final = 20  # visitors; a client keeps eight lanes
NODES = (("fra-1", "fra"), ("fra-2", "fra"), ("iad-1", "iad"))


@pytest.fixture
def joined(tmp_path: Path, etcd: EtcdServer) -> Iterator[Replicas]:
    """Three nodes in two regions that joined by invitation, and two registries; the CA is the cluster's own."""
    with Cluster(tmp_path, (), store=f"etcd:{etcd.url}", settings={"cluster_ca": None, "lease_seconds": 3}) as cluster:
        joiner = Joiner(cluster, tmp_path)
        for region in ("fra", "iad"):
            CaFolder.open(cluster.pki).add_region(region, DOMAIN)
        zones: dict[str, Any] = {
            "tls_cert": tuple(cluster.pki / f"region-{region}.crt" for region in ("fra", "iad")),
            "tls_key": tuple(cluster.pki / f"region-{region}.key" for region in ("fra", "iad")),
        }
        for name, region in NODES:
            joiner.join(name, region, **zones)
        with with_a_replica(cluster) as replicas:
            replicas.link(*cluster.nodes, to=replicas.mesh_addresses)
            yield replicas


def states(mesh: Cluster) -> list[int]:
    return [one.state for one in mesh.admin.authorities()]


def users_of_the_one_before(mesh: Cluster) -> list[str]:
    """Who lives and has a certificate of the CA that was replaced. A registry reads its own record, too, where all do:
    in its copy of the store."""
    before = mesh.admin.authorities()[1]
    return [*before.used_by_nodes, *before.used_by_replicas]


def issuers(mesh: Cluster) -> set[str]:
    """The names of the CAs that the nodes' certificates are from."""
    certificates = (running.config.cert.read_bytes() for running in mesh.nodes.values() if running.runs)
    return {x509.load_pem_x509_certificate(one).issuer.rfc4514_string() for one in certificates}


def test_no_visit_fails(short_grants: None, joined: Replicas, as_client: AsClient) -> None:
    """Nor a lane nor a session: two CAs, then the new one alone, at two registries; then a node starts anew, and a
    client comes that has never seen the old one."""
    mesh = joined.mesh
    as_client(joined.environment())
    before = issuers(mesh)
    with named("own") as tunnel, Onlookers(mesh, {tunnel.host: "own"}, attention=UNHURRIED) as onlookers:
        eventually(lambda: all(onlookers.answers[at, "own"] for at in mesh.nodes))
        onlookers.unanswered.clear()
        (old,) = mesh.admin.authorities()
        new = mesh.admin.rotate_authority().id
        eventually(lambda: states(mesh) == [AUTHORITY_STATE_ISSUING, AUTHORITY_STATE_RETIRING])
        eventually(lambda: not users_of_the_one_before(mesh), shown=lambda: mesh.admin.authorities())
        assert issuers(mesh) != before
        mesh.admin.retire_authority(old.id)
        eventually(lambda: all(trusted(running) == [new] for running in mesh.nodes.values()))
        counted = onlookers.answers.copy()
        eventually(lambda: all((onlookers.answers - counted)[at, "own"] > 10 for at in mesh.nodes))
    assert not onlookers.unanswered
    for running in mesh.nodes.values():
        running.restart()
    eventually(lambda: connected(mesh))
    with named("second") as second:
        for at in mesh.nodes:
            eventually(lambda: answered(mesh, at, second.host) == "second")


def trusted(running: RunningNode) -> list[str]:
    return list(running.node._base.certificates.current().authority_ids)


def announce(mesh: Cluster) -> str:
    """Begin a rotation that waits for somebody; returns the id of the next CA."""
    announced = mesh.admin.rotate_authority()
    assert announced.state == AUTHORITY_STATE_ANNOUNCED
    return announced.id


def of_id(mesh: Cluster, authority: str) -> admin_pb2.AuthorityInfo:
    return next(one for one in mesh.admin.authorities() if one.id == authority)


def renew_grants() -> None:
    """Every client of this process gets a fresh grant now, not within half an hour."""

    async def renew(engine: Engine) -> None:
        for link in engine._links.values():
            await link._directory.renew()

    engine_thread.running_engine().submit(renew).result(PATIENCE)


def crowd(mesh: Cluster, tunnel: portway.Tunnel) -> None:
    """More visitors at once than there were lanes: new ones are dialled for them, and each is answered."""
    with ExitStack() as stack:
        visitors = [stack.enter_context(visit(tunnel, mesh.ca)) for _ in range(_CROWD)]
        for number, visitor in enumerate(visitors):
            visitor.sendall(bytes([number]))
        assert [visitor.recv(1) for visitor in visitors] == [bytes([number]) for number in range(_CROWD)]


def test_clients_are_waited_for(joined: Replicas, as_client: AsClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was not told of the next CA could not dial nodes that have certificates of it. It is told when it renews
    its grant; then its lanes are dialled to a node with a new certificate."""
    mesh = joined.mesh
    as_client(joined.environment())
    monkeypatch.setattr("portway.engine.presences.PRESENCE_INTERVAL", 0.1)
    monkeypatch.setattr("portway.engine.presences.LOOK_EVERY", 0.1)
    with TcpOrigin(echo) as echoing, portway.forward(echoing.port) as tunnel:
        eventually(lambda: home_of(mesh, tunnel))
        new = announce(mesh)
        home = home_of(mesh, tunnel)
        eventually(lambda: list(of_id(mesh, new).unaware_clients_of) == [home])
        assert mesh.admin.rotate_authority().state == AUTHORITY_STATE_ANNOUNCED
        renew_grants()
        eventually(lambda: states(mesh) == [AUTHORITY_STATE_ISSUING, AUTHORITY_STATE_RETIRING])
        eventually(lambda: not mesh.admin.authorities()[1].used_by_nodes)
        crowd(mesh, tunnel)


def test_a_node_that_is_away_is_waited_for(short_grants: None, joined: Replicas, as_client: AsClient) -> None:
    """It could not verify a registry any more. Back, it learns of the next CA, and the rotation goes on; and so it does
    after a registry was started anew in the middle."""
    mesh = joined.mesh
    as_client(joined.environment())
    away = mesh.nodes["fra-2"]
    away.kill()
    eventually(lambda: "fra-2" not in {node.name for node in mesh.admin.nodes()})
    new = announce(mesh)
    eventually(lambda: all(new in trusted(running) for running in mesh.nodes.values() if running.runs))
    mesh.stop_registry()
    mesh.start_registry()
    announced = mesh.admin.rotate_authority()
    assert (announced.id, list(announced.unaware_away)) == (new, ["fra-2"])
    away.start()
    eventually(lambda: states(mesh) == [AUTHORITY_STATE_ISSUING, AUTHORITY_STATE_RETIRING])
    old = mesh.admin.authorities()[1].id
    away.kill()
    eventually(lambda: not mesh.admin.authorities()[1].used_by_nodes)
    if mesh.admin.authorities()[1].used_by_away:  # it was quicker to die than to renew
        with pytest.raises(grpc.RpcError, match="fra-2"):
            mesh.admin.retire_authority(old)
    away.start()
    eventually(lambda: not users_of_the_one_before(mesh) and not mesh.admin.authorities()[1].used_by_away)
    mesh.admin.retire_authority(old)
    eventually(lambda: connected(mesh))
    with named("own") as tunnel:
        for at in mesh.nodes:
            eventually(lambda: answered(mesh, at, tunnel.host) == "own")
