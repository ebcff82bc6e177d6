"""Server names at the public port: who has not the right one learns nothing, not even what was wrong with it."""

import dataclasses
import socket

import portway
import pytest
from portway_relay.ingress.decision import Alert
from portway_testkit.clusters.cluster import LOOPBACK, Cluster
from portway_testkit.visitors import hellos
from portway_testkit.visitors.visiting import TIMEOUT, ask, receive

pytestmark = pytest.mark.shares_sockets

UNKNOWN = "abcdefghijklmnop"
NAMES = {
    "an unknown label": f"{UNKNOWN}.fra.localhost",
    "a short label": "abc.fra.localhost",
    "a long label": f"{UNKNOWN}q.fra.localhost",
    "a label of other characters": "abcdefgh-0189xyz.fra.localhost",
    "no label": "fra.localhost",
    "an empty label": ".fra.localhost",
    "two labels": f"{UNKNOWN}.{UNKNOWN}.fra.localhost",
    "another region": f"{UNKNOWN}.iad.localhost",
    "another domain": f"{UNKNOWN}.fra.example.com",
    "a dot at the end": f"{UNKNOWN}.fra.localhost.",
    "the node's own name": "fra-1.node.portway.internal",
    "an IPv4 address": "127.0.0.1",
    "an IPv6 address": "::1",
    "an empty name": "",
    "nonsense": "\x01\x02 \x7f",
    "a very long name": "a" * 4_000,
}


def answer_to(cluster: Cluster, hello: bytes) -> bytes:
    """All that comes back, until the node closes the connection."""
    with socket.create_connection((LOOPBACK, cluster.node.port), TIMEOUT) as visitor:
        visitor.sendall(hello)
        return receive(visitor)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_names_that_are_nobodys_look_alike(cluster: Cluster, name: str) -> None:
    """Whatever is wrong with a name, the answer is the same seven bytes, and then the end."""
    hello = hellos.records(hellos.message([hellos.server_name(name.encode())]))
    assert answer_to(cluster, hello) == Alert.UNRECOGNIZED_NAME.record


def test_a_name_may_be_fully_qualified(cluster: Cluster, tunnel: portway.Tunnel) -> None:
    """RFC 6066 says without the last dot; whoever sends it is served, in any case, and two dots are no name."""
    for name in (f"{tunnel.host}.", tunnel.host.upper(), f"{tunnel.host.upper()}."):
        with socket.create_connection((LOOPBACK, cluster.node.port), TIMEOUT) as visitor:
            visitor.sendall(hellos.real_hello(name))
            assert visitor.recv(1) == b"\x16", "a ServerHello"
    two_dots = hellos.records(hellos.message([hellos.server_name(f"{tunnel.host}..".encode())]))
    assert answer_to(cluster, two_dots) == Alert.UNRECOGNIZED_NAME.record


def test_no_name_looks_the_same(cluster: Cluster) -> None:
    """Neither a real client that names nobody nor a hello without a single extension learns more."""
    for hello in (hellos.real_hello(None), hellos.records(hellos.message(None))):
        assert answer_to(cluster, hello) == Alert.UNRECOGNIZED_NAME.record


def test_a_closed_tunnel_looks_the_same(cluster: Cluster, tunnel: portway.Tunnel) -> None:
    """The name of a tunnel that was, in the region of one that is, says nothing either."""
    with portway.forward(1) as closed:
        pass
    assert answer_to(cluster, hellos.real_hello(closed.host)) == Alert.UNRECOGNIZED_NAME.record


def test_a_lane_to_another_node_looks_the_same(cluster: Cluster) -> None:
    """A client's lane must name this node: what is for another one is not taken."""
    for name in ("iad-1.node.portway.internal", f"{UNKNOWN}.fra.localhost", None):
        hello = hellos.real_hello(name, ["portway-link/1"])
        assert answer_to(cluster, hello) == Alert.UNRECOGNIZED_NAME.record


def test_names_are_matched_in_any_case(cluster: Cluster, tunnel: portway.Tunnel) -> None:
    """Host names have no case: a visitor that shouts is served."""
    loud = dataclasses.replace(tunnel, host=tunnel.host.upper())
    assert ask(loud, cluster.ca).endswith(b"origin\n")
