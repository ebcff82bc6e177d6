"""Many at once: tunnels of one process, visitors of one tunnel."""

import resource
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import portway
import pytest
from portway_relay.config import NodeLimits
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.fixtures import AsClient
from portway_testkit.visitors.origins import HttpOrigin, TcpOrigin, echo
from portway_testkit.visitors.visiting import ask, visit
from portway_testkit.waiting import eventually

pytestmark = [
    pytest.mark.shares_sockets,
    pytest.mark.timeout(180),
    pytest.mark.parametrize("make_cluster", ["embedded", "etcd"], indirect=True),
]

TUNNELS = 50
VISITORS = 1_000
# A visitor's socket and the node's, a lane's two ends, the client's socket and the local server's: all in this process.
DESCRIPTORS = 6 * VISITORS + 1_000


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """As many as the test needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        pytest.skip(f"this user may have {hard} descriptors, {DESCRIPTORS} are needed (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, DESCRIPTORS), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_fifty_tunnels_of_one_process(make_cluster: Callable[..., Cluster], as_client: AsClient) -> None:
    """Fifty ports have fifty addresses in one session; each leads to its own server, from many visitors at once, and
    all are gone with their blocks."""
    cluster = make_cluster()
    as_client(cluster.environment())
    with ExitStack() as stack:
        origins = [stack.enter_context(HttpOrigin(f"server {number}")) for number in range(TUNNELS)]
        tunnels = [stack.enter_context(portway.forward(origin.port)) for origin in origins]
        assert len({tunnel.host for tunnel in tunnels}) == TUNNELS
        metrics = cluster.node.metrics()
        assert (metrics["sessions"], metrics["tunnels"]) == (1, TUNNELS)
        with ThreadPoolExecutor(20) as visitors:
            answers = list(visitors.map(lambda tunnel: ask(tunnel, cluster.ca), tunnels * 4))
        assert [answer.splitlines()[-1].decode() for answer in answers] == [origin.name for origin in origins] * 4
        eventually(lambda: len(cluster.admin.tunnels()) == TUNNELS)  # they are announced without waiting for the store
        # The first ones are closed; the others do not notice.
        for tunnel in tunnels[: TUNNELS // 2]:
            assert ask(tunnel, cluster.ca)
    eventually(lambda: cluster.node.metrics()["tunnels"] == 0)
    eventually(lambda: not cluster.admin.tunnels())


@pytest.mark.usefixtures("many_descriptors")
def test_a_thousand_idle_visitors(make_cluster: Callable[..., Cluster], as_client: AsClient) -> None:
    """A thousand visitors of one tunnel that say nothing hold a lane each and disturb nobody: another one is served,
    each is when it speaks at last, and all are counted and gone afterwards."""
    cluster = make_cluster(NodeLimits(lane_wait=60.0))  # they come faster than a busy machine makes lanes for them
    as_client(cluster.environment())

    def speak(number_and_visitor: tuple[int, socket.socket]) -> None:
        number, visitor = number_and_visitor
        visitor.sendall(f"I am {number}".encode())
        assert visitor.recv(100) == f"I am {number}".encode()

    with TcpOrigin(echo) as server, portway.forward(server.port) as tunnel, ExitStack() as stack:
        with ThreadPoolExecutor(16) as pool:
            visitors = list(pool.map(lambda _: stack.enter_context(visit(tunnel, cluster.ca)), range(VISITORS)))
            eventually(lambda: server.open_connections == VISITORS)
            assert cluster.node.metrics()["visits"] == VISITORS
            with visit(tunnel, cluster.ca) as another:
                speak((-1, another))
            list(pool.map(speak, enumerate(visitors)))
        stack.close()
        eventually(lambda: cluster.node.metrics()["visits"] == 0)
        eventually(lambda: server.open_connections == 0)
        with visit(tunnel, cluster.ca) as another:
            speak((-1, another))
