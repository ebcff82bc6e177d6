"""A stranger whose connections for the registry get no answer, so that a node would not lead others to it any more."""

import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from portway_registry.net import admission
from portway_relay.passages import checking, passages, unanswered
from portway_testkit.clusters.cluster import DOMAIN, Cluster, NodePlan, RunningNode
from portway_testkit.clusters.mesh import connected
from portway_testkit.visitors.hellos import real_hello
from portway_testkit.waiting import eventually

# A node and a registry start for each test.
pytestmark = pytest.mark.timeout(120)

HELLO = real_hello(DOMAIN, ["h2"])
# The extension that lists versions, up to TLS 1.3. Its first two bytes are in one random number of a thousand, too.
VERSIONS = re.compile(rb"\x00\x2b\x00(.).\x03\x04", re.DOTALL)
STRANGER = ("127.9.9.9", 0)
PLACES = 64  # of known callers; strangers have a quarter of it, and one address a quarter of that


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningNode]:
    """It passes connections on to a registry with few places and few handshakes. Where all of them answer late, for
    want of a processor, that is nobody's doing."""
    monkeypatch.setattr(admission, "HANDSHAKES_PER_SECOND", 10.0)
    monkeypatch.setattr(admission, "HANDSHAKE_BURST", 10.0)
    monkeypatch.setattr(checking, "_ANSWERED_WITHIN", 10.0)
    settings = {"registry_name": DOMAIN, "max_connections": PLACES}
    store = f"embedded:{tmp_path / 'store.db'}"
    with Cluster(tmp_path, (NodePlan("fra-1", "fra"),), store=store, settings=settings) as cluster:
        eventually(lambda: connected(cluster) and bool(cluster.nodes["fra-1"].node._serving.fronts.in_order()))
        yield cluster.nodes["fra-1"]


def crowd(places: int) -> list[bytes]:
    """More connections than the registry takes of a stranger's address; some of them wait for their turns."""
    return [HELLO] * (places + 8)


def of_an_old_kind(places: int) -> list[bytes]:
    """A ClientHello that offers TLS 1.0 alone, which the registry does not take."""
    (found,) = VERSIONS.finditer(HELLO)
    hello, at, size = bytearray(HELLO), found.start() + 4, found[1][0]
    hello[at : at + size] = bytes([size - 1]) + b"\x03\x01" * ((size - 1) // 2)
    return [bytes(hello)]


@pytest.mark.parametrize("attack", [crowd, of_an_old_kind])
def test_a_replica_is_not_taken_for_away(
    node: RunningNode, attack: Callable[[int], list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers the node itself: others are led there as before."""
    monkeypatch.setattr(passages, "_ANSWERED_AT_LAST", 0.3)  # a connection is given up soon
    serving = node.node._serving
    hellos = attack(admission.share_of_address(PLACES // 4))
    with ExitStack() as held:
        for hello in hellos:
            sock = held.enter_context(socket.create_connection(("127.0.0.1", node.port), source_address=STRANGER))
            sock.sendall(hello)
        eventually(
            lambda: serving.passages.outcomes["unanswered"] > 0 and not serving.passages._check._tasks,
            shown=lambda: (serving.passages.outcomes, serving.passages.running),
        )
        (front,) = serving.fronts.in_order()
        assert front.away_until == 0


def test_a_replica_that_a_stranger_leaves_is_not_left_by_others(node: RunningNode) -> None:
    """Behind its handshake, in silence, as callers leave one that hangs: the next connections of that stranger alone go
    to another replica."""
    serving = node.node._serving
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", node.port), source_address=STRANGER) as sock:
        with context.wrap_socket(sock, server_hostname=DOMAIN) as inside:
            inside.settimeout(unanswered._SILENT + 0.5)
            with suppress(TimeoutError):
                while inside.recv(65_536):  # what a server of HTTP/2 says first
                    pass
    eventually(
        lambda: serving.passages.outcomes["given_up"] == 1 and not serving.passages._check._tasks,
        shown=lambda: serving.passages.outcomes,
    )
    (front,) = serving.fronts.in_order()
    assert front.away_until == 0
    left = serving.passages._unanswered
    assert set(left.by(STRANGER[0])) == {front}
    assert not left.by("127.9.9.8")
