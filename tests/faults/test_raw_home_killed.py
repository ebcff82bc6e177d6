"""The home node of a raw TCP tunnel dies: the address is the region's and stays, with nodes that are real processes."""

import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import portway
import pytest
from portway_lab.cluster.portway import Cluster, NodePlan, start_cluster
from portway_lab.cluster.processes import Processes
from portway_testkit.clusters.admin_calls import AdminCalls
from portway_testkit.fixtures import as_client_of
from portway_testkit.own_time import OwnTime
from portway_testkit.visitors.origins import TcpOrigin, echo
from portway_testkit.visitors.visiting import TIMEOUT, receive
from portway_testkit.waiting import eventually

pytestmark = pytest.mark.timeout(120)  # four programs are started

HOSTS = {f"fra-{number}": f"127.0.0.{number}" for number in (1, 2, 3)}
# The client notices at once and needs a handshake or two; the rest is this machine's.
WORST = 12.0


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Three nodes of one region, each with a loopback address of its own."""
    plans = tuple(NodePlan(name, "fra", 50.1, 8.7, host=host) for name, host in HOSTS.items())
    with tempfile.TemporaryDirectory(prefix="pw-") as folder, Processes(Path(folder)) as processes:
        cluster = start_cluster(processes, plans)
        with as_client_of(cluster.exports, monkeypatch):
            yield cluster


def answers(host: str, port: int, message: bytes) -> bool:
    """Whether a visitor that half-closes gets its whole message back from this tunnel's server."""
    try:
        with socket.create_connection((host, port), TIMEOUT) as visitor:
            visitor.sendall(message)
            visitor.shutdown(socket.SHUT_WR)
            return receive(visitor) == message
    except OSError:
        return False


def test_the_raw_port_outlives_its_home_node(cluster: Cluster, own_time: OwnTime) -> None:
    """`kill -9`: the port is the same, and works at both nodes that are left."""
    admin = AdminCalls(cluster.registry, cluster.ca, cluster.admin_token_file.read_text().strip())
    with TcpOrigin(echo) as origin, portway.forward(origin.port, unencrypted=True) as tunnel:
        port = tunnel.unencrypted_port
        for host in HOSTS.values():
            eventually(lambda: answers(host, port, b"before"))
        eventually(lambda: admin.tunnels())
        home = admin.tunnels()[0].node
        process = next(node.process for node in cluster.nodes if node.plan.name == home)
        os.kill(process.pid, signal.SIGKILL)
        began = own_time()
        left = [host for name, host in HOSTS.items() if name != home]
        for host in left:
            eventually(lambda: answers(host, port, b"after"))
        assert own_time() - began < WORST
        for host in left:
            assert answers(host, port, b"x" * 1_000_000)
        assert not answers(HOSTS[home], port, b"nobody")
