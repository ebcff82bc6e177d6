"""The node that visitors come to is killed, while the tunnel's home is another one."""

import ssl
from collections.abc import Callable

import portway
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.clusters.mesh import connected
from portway_testkit.fixtures import AsClient
from portway_testkit.links.hand_tunnel import HandTunnel
from portway_testkit.visitors.mesh_visitors import connect
from portway_testkit.visitors.onlookers import UNHURRIED, Onlookers, answered, home_of, named
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import epoch_of, is_consistent
from portway_testkit.visitors.visiting import receive
from portway_testkit.waiting import eventually


def test_the_same_url_works_at_every_other_node_all_the_while(
    mesh: Cluster, as_client: AsClient, bind: Callable[..., HandTunnel]
) -> None:
    """Nothing has happened to the tunnel: it keeps its home and its epoch, and no visitor elsewhere is turned away."""
    as_client(mesh.environment())
    with named("own") as tunnel:
        home, epoch = home_of(mesh, tunnel), epoch_of(mesh.admin, tunnel)
        ingress, third = (name for name in mesh.nodes if name != home)
        other = bind(mesh, home, "other")
        names = {tunnel.host: "own", other.host: "other"}
        with Onlookers(mesh, names, (home, third), UNHURRIED) as elsewhere, Onlookers(mesh, names, (ingress,)) as there:
            eventually(lambda: all(there.answers[ingress, name] for name in names.values()))
            mesh.nodes[ingress].kill()
            before = elsewhere.answers.copy()
            eventually(lambda: all((elsewhere.answers - before)[at, "own"] > 5 for at in (home, third)))
            assert home_of(mesh, tunnel) == home
            mesh.nodes[ingress].start()
            eventually(lambda: answered(mesh, ingress, tunnel.host) == "own")
        assert not elsewhere.unanswered
        assert epoch_of(mesh.admin, tunnel) == epoch


def test_a_visit_through_it_ends_at_the_home_too(mesh: Cluster, as_client: AsClient) -> None:
    """Its visitor is reset, and the lanes that carried it are used again by others: nothing is left of it."""
    as_client(mesh.environment())
    with HttpOrigin("own") as origin, portway.forward(origin.port) as tunnel:
        home = home_of(mesh, tunnel)
        ingress, third = (name for name in mesh.nodes if name != home)
        with connect(mesh.nodes[ingress], tunnel.host, mesh.ca, "http/1.1") as visitor:
            visitor.sendall(f"GET /events/1000/0.01 HTTP/1.1\r\nHost: {tunnel.host}\r\n\r\n".encode())
            assert visitor.recv(1000)
            mesh.nodes[ingress].kill()
            try:
                receive(visitor)
            except (ConnectionResetError, ssl.SSLError):
                pass
        eventually(lambda: mesh.nodes[home].metrics()["visits"] == 0)
        eventually(lambda: not origin.open_connections)
        with connect(mesh.nodes[third], tunnel.host, mesh.ca, "http/1.1") as visitor:
            visitor.sendall(f"GET / HTTP/1.1\r\nHost: {tunnel.host}\r\nConnection: close\r\n\r\n".encode())
            assert receive(visitor).endswith(b"own\n")
        mesh.nodes[ingress].start()
        eventually(lambda: connected(mesh))
        eventually(lambda: is_consistent(mesh, tunnel))
