"""The home node of a tunnel has no power any more: nothing is sent to it that is acknowledged, and no socket closes.

In a black hole (test_node_black_holed.py) bytes vanish on the way, behind something that acknowledges them.
"""

import hashlib
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import portway
import pytest
from portway.tunnel import Tunnel
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.fixtures import AsClient
from portway_testkit.links.power import power_of
from portway_testkit.own_time import OwnTime
from portway_testkit.visitors.mesh_visitors import connect
from portway_testkit.visitors.onlookers import home_of
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.visiting import TIMEOUT, receive
from portway_testkit.waiting import eventually

Visit = Callable[[Cluster, str, Tunnel, bytes], bytes]

# Seconds until its client is at another node. What is awaited is 12 s at most; the rest is for what else this machine
# does. Whoever waits is served then, or turned away after 15 s.
WORST = 14.0
EVERY = 0.25  # seconds between two visits of a kind at a node
BODY = b"x" * 30_000


@pytest.fixture
def crowd() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(256) as crowd:
        yield crowd


def over_tls(cluster: Cluster, at: str, tunnel: Tunnel, sent: bytes) -> bytes:
    """Everything that a visitor of the name gets at a node."""
    with connect(cluster.nodes[at], tunnel.host, cluster.ca, "http/1.1") as visitor:
        visitor.sendall(sent)
        return receive(visitor)


def at_raw_port(cluster: Cluster, at: str, tunnel: Tunnel, sent: bytes) -> bytes:
    """The same at the raw port."""
    host = cluster.nodes[at].config.raw_listen
    assert host is not None
    with socket.create_connection((host, tunnel.unencrypted_port), TIMEOUT) as visitor:
        visitor.sendall(sent)
        return receive(visitor)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_every_visitor_who_comes_afterwards_is_served(
    mesh: Cluster, as_client: AsClient, crowd: ThreadPoolExecutor, own_time: OwnTime
) -> None:
    """At every other node, over TLS and at a raw port, whole, once its client has noticed. Nothing is done twice."""
    as_client(mesh.environment())
    with HttpOrigin() as origin, portway.forward(origin.port, region="fra", unencrypted=True) as tunnel:
        home = home_of(mesh, tunnel)
        left = [name for name in mesh.nodes if name != home]
        head = (
            f"PUT /digest HTTP/1.1\r\nHost: {tunnel.host}\r\nConnection: close\r\nContent-Length: {len(BODY)}\r\n\r\n"
        )
        put, answer = head.encode() + BODY, hashlib.sha256(BODY).hexdigest().encode()
        kinds = [(over_tls, at) for at in left]
        kinds += [(at_raw_port, at) for at in left if mesh.nodes[at].config.region == "fra"]
        for visit, at in kinds:
            eventually(partial(is_served, visit, mesh, at, tunnel, put, answer))
        before = len(origin.requests)
        with power_of(mesh, home) as power:
            power.off()
            began = own_time()
            visits: list[tuple[str, float, Future[bytes]]] = []
            while home_of(mesh, tunnel) not in left:
                assert own_time() - began < WORST
                for visit, at in kinds:
                    name = f"{visit.__name__} {at}"
                    visits.append((name, own_time() - began, crowd.submit(visit, mesh, at, tunnel, put)))
                time.sleep(EVERY)
            got = [(name, round(came, 1), visit.result()) for name, came, visit in visits]
        assert not [one for one in got if answer not in one[2]]
        assert len(origin.requests) == before + len(visits)


def is_served(visit: Visit, cluster: Cluster, at: str, tunnel: Tunnel, sent: bytes, answer: bytes) -> bool:
    """Whether a visitor gets this answer."""
    try:
        return answer in visit(cluster, at, tunnel, sent)
    except OSError:
        return False
