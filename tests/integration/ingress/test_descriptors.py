"""A node without descriptors left: it stops accepting, not working."""

import http.client
import json
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import portway
import pytest
from portway_lab.cluster.portway import LOOPBACK, Cluster, NodePlan, start_cluster
from portway_lab.cluster.processes import Processes
from portway_testkit.fixtures import as_client_of
from portway_testkit.visitors.origins import TcpOrigin, echo
from portway_testkit.visitors.visiting import TIMEOUT, tls_context, visit
from portway_testkit.waiting import eventually

pytestmark = [pytest.mark.shares_sockets, pytest.mark.timeout(180)]

# Its own files, its registry, a client's lanes and a few visitors fit.
DESCRIPTORS = 100
PAUSES = "portway_relay_accept_pauses_total "
LIMITED = NodePlan(
    "fra-1",
    "fra",
    50.1,
    8.7,
    prefix=("prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}"),
    # Who says nothing stays for as long as the test wants it to.
    flags=("--hello-time=600", "--log-level=debug"),
)


@pytest.fixture
def processes() -> Iterator[Processes]:
    with tempfile.TemporaryDirectory(prefix="pw-") as folder, Processes(Path(folder)) as processes:
        yield processes


@pytest.fixture
def limited(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster of real processes whose node may have few descriptors; this process is its client."""
    cluster = start_cluster(processes, (LIMITED,))
    with as_client_of(cluster.exports, monkeypatch):
        yield cluster
    processes.check_alive()


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        piece = sock.recv(size - len(received))
        assert piece, "it ended early"
        received += piece
    return bytes(received)


def test_accepting_pauses_and_goes_on(limited: Cluster) -> None:
    """With no descriptor left the node accepts nobody, visits in progress go on at full length, who came meanwhile
    waits in the queue, and is served once descriptors are free."""
    node = limited.nodes[0]
    assert node.process.ready_file is not None
    host, _, port = json.loads(node.process.ready_file.read_text())["admin_listen"].rpartition(":")
    # Open before the shortage, and kept: what asks for metrics later needs no descriptor.
    admin = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT)

    def pauses() -> float:
        admin.request("GET", "/metrics")
        page = admin.getresponse().read().decode()
        return next(
            float(line.split()[1]) for line in page.splitlines() if line.startswith("portway_relay_accept_pauses")
        )

    with TcpOrigin(echo) as server, portway.forward(server.port) as tunnel, visit(tunnel, limited.ca) as visitor:
        visitor.sendall(b"hello")
        assert visitor.recv(100) == b"hello"
        assert pauses() == 0
        address = (LOOPBACK, tunnel.port)
        with ExitStack() as stack:
            hogs = stack.enter_context(ExitStack())
            early = stack.enter_context(socket.create_connection(address, TIMEOUT))
            for _ in range(2 * DESCRIPTORS):
                hogs.enter_context(socket.create_connection(address, TIMEOUT))
            eventually(pauses)
            for _ in range(20):
                visitor.sendall(b"x" * 100_000)
                assert receive_exactly(visitor, 100_000) == b"x" * 100_000
            # Its protocol was not asked for before; what TLS needs for it was made at the start.
            early = stack.enter_context(
                tls_context(limited.ca, "http/1.1").wrap_socket(early, server_hostname=tunnel.host)
            )
            early.sendall(b"at once")
            assert early.recv(100) == b"at once"
            latecomer = stack.enter_context(socket.create_connection(address, TIMEOUT))
            hogs.close()
            served = stack.enter_context(tls_context(limited.ca).wrap_socket(latecomer, server_hostname=tunnel.host))
            served.sendall(b"at last")
            assert served.recv(100) == b"at last"
        visitor.sendall(b"still there?")
        assert visitor.recv(100) == b"still there?"
        paused = pauses()
        with visit(tunnel, limited.ca, "http/1.1") as newcomer:
            newcomer.sendall(b"hello")
            assert newcomer.recv(100) == b"hello"
        assert pauses() == paused
    admin.close()
    log = node.process.log.read_text()
    assert "accepting pauses" in log
    assert "Traceback" not in log


def test_a_registry_that_is_lost_meanwhile_is_looked_for(limited: Cluster, processes: Processes) -> None:
    """Visitors have not taken the descriptors that this needs: without them gRPC would end the node's process."""
    log = limited.nodes[0].process.log
    with TcpOrigin(echo) as server, portway.forward(server.port) as tunnel, visit(tunnel, limited.ca) as visitor:
        with ExitStack() as hogs:
            for _ in range(2 * DESCRIPTORS):
                hogs.enter_context(socket.create_connection((LOOPBACK, tunnel.port), TIMEOUT))
            eventually(lambda: "accepting pauses" in log.read_text())
            limited.registry_process.popen.kill()
            eventually(lambda: log.read_text().count("no registry") > 4)
            processes.forget_ended()
            visitor.sendall(b"still there?")
            assert visitor.recv(100) == b"still there?"
    assert "Failed to connect" in log.read_text()
