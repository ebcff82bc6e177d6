"""Raw TCP addresses belong to the region: a port works at each of its nodes, and stays when a node does not."""

import asyncio
import dataclasses
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import portway
import pytest
from portway_relay.config import NodeLimits
from portway_relay.node import Node
from portway_relay.raw_ports.sockets import RawPort
from portway_testkit.clusters.cluster import Cluster, NodePlan, RunningNode
from portway_testkit.clusters.mesh import connected
from portway_testkit.fixtures import as_client_of
from portway_testkit.visitors.origins import TcpOrigin, echo
from portway_testkit.visitors.visiting import TIMEOUT, receive
from portway_testkit.waiting import eventually

LIMITS = NodeLimits(port_rest=2.0, stop_grace=0.5)
REGION = ("fra-1", "fra-2", "fra-3")


@pytest.fixture
def limits() -> NodeLimits:
    """Of each node."""
    return LIMITS


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: NodeLimits) -> Iterator[Cluster]:
    """Three nodes in one region and one in another, which know of each other."""
    plans = (*(NodePlan(name, "fra", limits) for name in REGION), NodePlan("nyc-1", "nyc", limits))
    with Cluster(tmp_path, plans) as cluster:
        eventually(lambda: connected(cluster))
        with as_client_of(cluster.environment(), monkeypatch):
            yield cluster


def home_of(cluster: Cluster, tunnel: portway.Tunnel) -> str:
    """The node that has the tunnel now; empty while none has."""

    async def has(node: RunningNode) -> bool:
        return node.node._routing.tunnels.live(tunnel.host.partition(".")[0]) is not None

    running = [node for node in cluster.nodes.values() if node._node is not None]
    return next((node.config.name for node in running if cluster.run(lambda: has(node))), "")


@contextmanager
def named(name: str) -> Iterator[int]:
    """A local server that says its name and then sends back what it gets; yields its port."""

    def handle(sock: socket.socket) -> None:
        sock.sendall(name.encode() + b":")
        echo(sock)

    with TcpOrigin(handle) as origin:
        yield origin.port


def ask(host: str, port: int, message: bytes = b"hello") -> bytes:
    """What a visitor gets who sends, half-closes and reads to the end; empty when nobody is there."""
    try:
        with socket.create_connection((host, port), TIMEOUT) as visitor:
            visitor.sendall(message)
            visitor.shutdown(socket.SHUT_WR)
            return receive(visitor)
    except OSError:
        return b""


def refused(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), TIMEOUT).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        return False  # it was let go of at this very moment
    return False


def wait_for_siblings(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of a busy machine may need longer than the 20 ms that are waited for it."""
    monkeypatch.setattr("portway_relay.raw_ports.region_addresses.SIBLINGS_LISTEN_TIME", TIMEOUT)


def test_a_raw_port_works_at_each_node_of_its_region(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the moment that forward() returns, with half-close; not at a node of another region."""
    wait_for_siblings(monkeypatch)
    with named("one") as local, portway.forward(local, unencrypted=True, region="fra") as tunnel:
        port = tunnel.unencrypted_port
        large = b"x" * 3_000_000
        for name in REGION:
            host = cluster.nodes[name].raw_host
            assert ask(host, port) == b"one:hello"
            assert ask(host, port, large) == b"one:" + large
        assert home_of(cluster, tunnel) in REGION

        async def served() -> int:
            return len(cluster.nodes["nyc-1"].node._raw.sockets)

        assert cluster.run(served) == 0
    for name in REGION:
        host = cluster.nodes[name].raw_host
        eventually(lambda: refused(host, port))


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_raw_port_stays_when_its_home_node_is_gone(cluster: Cluster, end: str) -> None:
    """The client shows its ticket at another node of the region: the same port works there, and at the third one."""
    with named("one") as local, portway.forward(local, unencrypted=True, region="fra") as tunnel:
        port = tunnel.unencrypted_port
        for _ in range(2):
            home = home_of(cluster, tunnel)
            end_of(cluster.nodes[home], end)
            others = [cluster.nodes[name].raw_host for name in REGION if cluster.nodes[name]._node is not None]
            for host in others:
                eventually(lambda: ask(host, port) == b"one:hello")
            assert home_of(cluster, tunnel) not in ("", home)
            eventually(lambda: ask(cluster.nodes[home_of(cluster, tunnel)].raw_host, port) == b"one:hello")


def end_of(node: RunningNode, how: str) -> None:
    if how == "stop":
        node.stop()
    else:
        node.kill()


def test_a_raw_port_stays_while_no_registry_can_be_reached(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """What siblings were told is enough: the ticket brings the port along."""
    with named("one") as local, portway.forward(local, unencrypted=True, region="fra") as tunnel:
        home = home_of(cluster, tunnel)
        cluster.stop_registry()
        cluster.nodes[home].kill()
        for name in REGION:
            if name != home:
                host = cluster.nodes[name].raw_host
                eventually(lambda: ask(host, tunnel.unencrypted_port) == b"one:hello")
        wait_for_siblings(monkeypatch)
        with named("two") as other, portway.forward(other, unencrypted=True, region="fra") as second:
            assert second.unencrypted_port != tunnel.unencrypted_port
            for name in REGION:
                if name != home:
                    assert ask(cluster.nodes[name].raw_host, second.unencrypted_port) == b"two:hello"
        cluster.start_registry()


@pytest.mark.parametrize("limits", [dataclasses.replace(LIMITS, port_rest=TIMEOUT)], ids=["rests"])
def test_a_port_that_was_let_go_is_nobodys_while_it_rests(cluster: Cluster) -> None:
    """Whoever still has the address finds nobody there, at any node, however many tunnels are opened meanwhile."""
    with named("one") as local:
        with portway.forward(local, unencrypted=True, region="fra") as tunnel:
            port = tunnel.unencrypted_port
        with ExitStack() as stack:
            for number in range(20):
                server = stack.enter_context(named(str(number)))
                another = stack.enter_context(portway.forward(server, unencrypted=True, region="fra"))
                assert another.unencrypted_port != port
            for name in REGION:
                eventually(lambda: refused(cluster.nodes[name].raw_host, port))


def test_two_nodes_never_give_the_same_port(cluster: Cluster) -> None:
    """Hundreds of tunnels at all nodes at once, more than the blocks that each has at first: no port is given twice."""
    nodes = [cluster.nodes[name].node for name in REGION]

    async def give(node: Node, number: int) -> RawPort:
        label = f"{node.config.name}-{number}"
        await node._raw.addresses.prepare(label, None)
        raw = node._raw.sockets.take(label, None)
        node._raw.addresses.taken()
        return raw

    async def give_all() -> list[RawPort]:
        given = await asyncio.gather(*(give(node, number) for number in range(100) for node in nodes))
        for raw in given:
            raw.release()
        return given

    given = cluster.run(give_all)
    assert len({raw.port for raw in given}) == 3 * 100


def test_a_node_that_was_started_again_gives_no_port_that_is_in_use(cluster: Cluster) -> None:
    """It knows nothing of what it gave before; the tunnel that took its port along keeps it."""
    with named("one") as local, portway.forward(local, unencrypted=True, region="fra") as tunnel:
        port, home = tunnel.unencrypted_port, home_of(cluster, tunnel)
        cluster.nodes[home].restart()
        hosts = [cluster.nodes[name].raw_host for name in REGION]
        for host in hosts:
            eventually(lambda: ask(host, port) == b"one:hello")
        node = cluster.nodes[home].node

        async def offered() -> set[int]:
            return set(node._raw.sockets.account.candidates("another", None))

        eventually(lambda: cluster.run(offered))
        assert port not in cluster.run(offered)
