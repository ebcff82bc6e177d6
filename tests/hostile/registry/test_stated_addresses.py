"""A node's key is stolen, and its holder states public addresses: another party's, and such as lead nowhere."""

import dataclasses
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trustme
from portway_relay.config import NodeConfig
from portway_testkit.clusters.cluster import DOMAIN, LOOPBACK, Cluster
from portway_testkit.clusters.dns_mesh import LABEL, ask, data, dns_plans
from portway_testkit.clusters.mesh import connected
from portway_testkit.waiting import eventually

VICTIM = "127.0.0.77"
# Loopback but nobody there, documentation, private, and the like in IPv6.
NOWHERE = ("127.0.0.99", "192.0.2.9", "10.1.2.3", "2001:db8::9", "::ffff:10.1.2.3", "fe80::1")
MADE_UP = "made-up"


@contextmanager
def victim(port: int) -> Iterator[list[str]]:
    """Another party's TLS server at the port of nodes; the names that it is asked for."""
    asked: list[str] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("victim.example").configure_cert(context)
    context.sni_callback = lambda _, name, __: asked.append(name or "")
    with socket.create_server((VICTIM, port)) as listening:

        def serve() -> None:
            while True:
                try:
                    sock, _ = listening.accept()
                except OSError:
                    return
                with sock, suppress(OSError), context.wrap_socket(sock, server_side=True):
                    pass

        thread = threading.Thread(target=serve, name="victim")
        thread.start()
        try:
            yield asked
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(10)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Cluster]:
    """Two nodes, each at the public address that it states; the registry is on the loopback as they are."""
    with Cluster(tmp_path, dns_plans(["fra-1", "iad-1"], public_address=(LOOPBACK,))) as cluster:
        eventually(lambda: connected(cluster))
        yield cluster


def test_visitors_are_led_to_no_address_at_which_the_node_was_not_reached(mesh: Cluster) -> None:
    """By nobody but the thief itself. The victim sees one handshake or two a try, as from any visitor."""
    thief = mesh.nodes["iad-1"]
    with victim(thief.port) as asked:
        thief.stop()
        thief.config = _stating(mesh, "iad-1", LOOPBACK, VICTIM, *NOWHERE)
        thief.start()
        eventually(lambda: asked)
        # A dial that takes too long at first is another failure, and is made again.
        eventually(lambda: is_another(failure_shown(mesh)), shown=lambda: failure_shown(mesh))
        eventually(lambda: data(mesh, "fra-1", "iad", "A") == {LOOPBACK})
        assert not data(mesh, "fra-1", "iad", "AAAA")
        for name in (f"{LABEL}.iad", f"{LABEL}.fra", ""):
            assert data(mesh, "fra-1", name, "A") == {LOOPBACK}
        assert set(asked) == {"iad-1.node.portway.internal"}
        (record,) = (node for node in mesh.admin.nodes() if node.name == "iad-1")
        assert list(record.addresses) == [LOOPBACK]
        assert is_another(record.reach_failure)
        for number in (1, 2):
            assert data(mesh, "fra-1", f"ns{number}", "A") <= {LOOPBACK}


def test_one_node_makes_no_region_up(mesh: Cluster) -> None:
    """It says that it holds a certificate for it: names there would lead to it alone."""
    thief = mesh.nodes["iad-1"].node
    zones = [*thief._base.expiry.zones(), f"{MADE_UP}.{DOMAIN}"]

    async def lie() -> None:
        thief._base.expiry.zones = lambda: zones  # type: ignore[method-assign]
        thief._routing.outbox.state_changed()

    mesh.run(lie)
    eventually(lambda: any(f"{MADE_UP}.{DOMAIN}" in node.zones for node in mesh.admin.nodes()))
    eventually(lambda: f"{MADE_UP}.{DOMAIN}" in mesh.nodes["fra-1"].node._routing.peers.get("iad-1").info.zones)  # type: ignore[union-attr]
    for name in (f"{LABEL}.{MADE_UP}", MADE_UP):
        assert ask(mesh, "fra-1", name).rcode() == 3


def is_another(failure: str) -> bool:
    """Whether the node was not reached where it stated the victim's address, since the victim is another party."""
    return failure.startswith(f"in no DNS answer: {VICTIM}, ") and "not this node" in failure


def failure_shown(mesh: Cluster) -> str:
    """Why iad-1 was not reached at some address, as the registry shows it."""
    return next((node.reach_failure for node in mesh.admin.nodes() if node.name == "iad-1"), "")


def _stating(mesh: Cluster, name: str, *addresses: str) -> NodeConfig:
    config = mesh.nodes[name].config
    return dataclasses.replace(config, public_address=addresses)
