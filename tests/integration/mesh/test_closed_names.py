"""Names of tunnels that were closed, at every node of a mesh: refused like names that never were, and as soon."""

import socket
import statistics
import time
from collections.abc import Callable

import pytest
from portway_proto.wire.statements import SigningKey
from portway_relay.ingress.decision import Alert
from portway_testkit.clusters.cluster import LOOPBACK, Cluster, NodePlan
from portway_testkit.clusters.hand_grants import grants_of
from portway_testkit.clusters.mesh import connected
from portway_testkit.links.hand_tunnel import HandTunnel
from portway_testkit.signers import label_of
from portway_testkit.visitors.hellos import real_hello
from portway_testkit.visitors.mesh_visitors import answered_by, name_of
from portway_testkit.visitors.visiting import TIMEOUT, receive
from portway_testkit.waiting import eventually

NODES = (NodePlan("fra-1", "fra"), NodePlan("fra-2", "fra"), NodePlan("iad-1", "iad"))
HOME = "fra-1"
TIMES = 5
# Nobody waits for a tunnel that its client has closed: one that may come back is waited for, here for ten seconds. The
# nodes share this process with their registry, and the machine with other tests; how close medians are on nodes of
# their own is in tests/hostile.
PAUSES = (0.0, 10.0)
ALIKE = 3.0


@pytest.fixture
def mesh(start_cluster: Callable[..., Cluster]) -> Cluster:
    cluster = start_cluster(*NODES)
    eventually(lambda: connected(cluster))
    return cluster


def bound(mesh: Cluster, key: SigningKey, epoch: int = 1, node: str = HOME) -> HandTunnel:
    return HandTunnel(mesh.nodes[node], mesh.ca, grants_of(mesh), key, epoch, f"tunnel-{epoch}")


def refused_in(mesh: Cluster, node: str, host: str) -> float:
    """Seconds until the alert, which is all that comes."""
    with socket.create_connection((LOOPBACK, mesh.nodes[node].port), TIMEOUT) as visitor:
        began = time.monotonic()
        visitor.sendall(real_hello(host))
        assert receive(visitor) == Alert.UNRECOGNIZED_NAME.record
        return time.monotonic() - began


@pytest.mark.parametrize("visited", [True, False])
def test_a_closed_name_is_refused_everywhere_like_one_that_never_was(
    mesh: Cluster, visited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its home, at a sibling, in another region, whether or not visitors of it have come in there: before any
    handshake, and within the same time."""
    monkeypatch.setattr("portway_relay.routing.lookup._PAUSES", PAUSES)
    took: dict[str, list[float]] = {}
    for _ in range(TIMES):
        key = SigningKey()
        with bound(mesh, key) as tunnel:
            for node in mesh.nodes:
                if visited:
                    assert answered_by(mesh, node, tunnel.host) == tunnel.name
            # A registry hears of both later, and answers by what it has heard.
            eventually(lambda: listed(mesh, label_of(key)))
        eventually(lambda: not listed(mesh, label_of(key)))
        eventually(lambda: not any(leads(mesh, node, label_of(key)) for node in mesh.nodes))
        for node in mesh.nodes:
            took.setdefault(f"closed, at {node}", []).append(refused_in(mesh, node, tunnel.host))
            took.setdefault(f"never was, at {node}", []).append(refused_in(mesh, node, name_of(SigningKey(), "fra")))
    medians = {kind: statistics.median(times) for kind, times in took.items()}
    print({kind: f"{median * 1e3:.1f} ms" for kind, median in medians.items()})
    assert max(medians.values()) - min(medians.values()) < ALIKE, medians


def test_a_tunnel_that_comes_back_after_it_was_closed_is_served(mesh: Cluster) -> None:
    """The same label with the next epoch, at another node: what was said of the one before it is over."""
    key = SigningKey()
    with bound(mesh, key) as tunnel:
        for node in mesh.nodes:
            assert answered_by(mesh, node, tunnel.host) == "tunnel-1"
    with bound(mesh, key, 2, "fra-2") as tunnel:
        for node in mesh.nodes:
            eventually(lambda: serves(mesh, node, tunnel.host, "tunnel-2"))


def listed(mesh: Cluster, label: str) -> bool:
    return label in {one.label for one in mesh.admin.tunnels()}


def serves(mesh: Cluster, node: str, host: str, name: str) -> bool:
    try:
        return answered_by(mesh, node, host) == name
    except OSError:
        return False


def leads(mesh: Cluster, node: str, label: str) -> bool:
    """Whether a visitor would be led anywhere at this node, by what it knows or by what a registry tells it."""

    async def known() -> bool:
        running = mesh.nodes[node].node
        told = await running._routing.questions.ask(label)
        return running._routing.lookup.known(label) is not None or (told is not None and told.HasField("tunnel"))

    return mesh.run(known)
