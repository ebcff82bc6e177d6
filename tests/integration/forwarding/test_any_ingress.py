"""Any node is the ingress node: a visitor may come to any node, and gets the bytes of the tunnel that its name says."""

import hashlib
import socket
import ssl
from collections.abc import Callable

import portway
import pytest
from portway_proto.wire.frames import VisitKind
from portway_proto.wire.statements import SigningKey
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.fixtures import AsClient
from portway_testkit.links.hand_tunnel import HandTunnel
from portway_testkit.visitors.mesh_visitors import answer_at, answered_by, connect, get, name_of
from portway_testkit.visitors.origins import HttpOrigin, digest_of
from portway_testkit.visitors.visiting import receive
from portway_testkit.waiting import eventually

NAMES = ("fra-1", "fra-2", "iad-1")
BULK = 24 * 1024 * 1024

Bind = Callable[..., HandTunnel]


@pytest.mark.parametrize("home", NAMES)
def test_a_fresh_name_works_at_once_everywhere(mesh: Cluster, bind: Bind, home: str) -> None:
    """The first visitor at a sibling, and at a node of another region, does not wait for a registry to have written."""
    for at in (name for name in NAMES if name != home):
        tunnel = bind(mesh, home, f"at-{home}")
        assert answered_by(mesh, at, tunnel.host) == f"at-{home}"
    assert answered_by(mesh, home, tunnel.host) == f"at-{home}"


def test_the_visitors_address_goes_with_it(mesh: Cluster, bind: Bind) -> None:
    """The client is told who visits, not which node forwards."""
    tunnel = bind(mesh, "fra-1", "a")
    with connect(mesh.nodes["iad-1"], tunnel.host, mesh.ca) as visitor:
        host, port = visitor.getsockname()
        receive(visitor)
    (opening,) = tunnel.openings
    assert (opening.visitor_host, opening.visitor_port, opening.kind) == (host, port, VisitKind.TLS)


@pytest.mark.parametrize("at", NAMES)
def test_a_name_that_nobody_has_is_unknown_at_every_node(mesh: Cluster, at: str) -> None:
    """Of any region, the first time and the next: the alert that every unknown name gets."""
    for region in ("fra", "iad", "syd"):
        host = name_of(SigningKey(), region)
        for _ in range(2):
            with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
                connect(mesh.nodes[at], host, mesh.ca)


def test_a_name_that_was_unknown_works_when_its_tunnel_opens(mesh: Cluster, bind: Bind) -> None:
    """A sibling that has just said "unknown" is told of the tunnel, and says so no more."""
    key = SigningKey()
    with pytest.raises(ssl.SSLError):
        connect(mesh.nodes["fra-2"], name_of(key, "fra"), mesh.ca)
    tunnel = bind(mesh, "fra-1", "late", key)
    assert answered_by(mesh, "fra-2", tunnel.host) == "late"


def test_a_name_is_served_where_its_region_is_not(mesh: Cluster, bind: Bind) -> None:
    """The region in a name is where its tunnel was opened; now it is bound in another one, and is found."""
    key = SigningKey()
    bind(mesh, "fra-1", "before", key).leave()
    bind(mesh, "iad-1", "after", key, 2)
    answers: set[str] = set()

    def is_served(at: str) -> bool:
        try:
            answers.add(answered_by(mesh, at, name_of(key, "fra")))
        except ssl.SSLError:
            # Until a registry shows tunnel and presence the name is one that was closed, at nodes of the other region.
            return False
        return True

    for at in NAMES:
        eventually(lambda at=at: is_served(at))  # type: ignore[misc]
    assert answers == {"after"}


@pytest.mark.parametrize("at", NAMES)
def test_h2_is_offered_at_every_node(mesh: Cluster, as_client: AsClient, at: str) -> None:
    """What a tunnel allows is known before the handshake, wherever it is made."""
    as_client(mesh.environment())
    with HttpOrigin() as origin, portway.forward(origin.port, h2_enabled=True) as tunnel:
        for offered, chosen in ((("h2",), "h2"), (("h2", "http/1.1"), "http/1.1"), ((), None)):
            with connect(mesh.nodes[at], tunnel.host, mesh.ca, *offered) as visitor:
                assert isinstance(visitor, ssl.SSLSocket)
                assert visitor.selected_alpn_protocol() == chosen


@pytest.mark.parametrize("at", NAMES)
def test_large_transfers_arrive_whole(mesh: Cluster, as_client: AsClient, at: str) -> None:
    """Both ways, through whichever two nodes they go."""
    as_client(mesh.environment())
    with HttpOrigin() as origin, portway.forward(origin.port) as tunnel:
        body = get(mesh.nodes[at], tunnel, mesh.ca, f"/bytes/{BULK}")
        assert hashlib.sha256(body).hexdigest() == digest_of(BULK)
        with connect(mesh.nodes[at], tunnel.host, mesh.ca, "http/1.1") as visitor:
            head = f"PUT /digest HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {BULK}\r\n\r\n"
            visitor.sendall(head.encode())
            visitor.sendall(body)
            assert receive(visitor).endswith(digest_of(BULK).encode())


def test_a_known_name_works_without_a_registry(mesh: Cluster, bind: Bind) -> None:
    """Known routes go on; a label that is new is asked of its region's nodes."""
    known, new = bind(mesh, "fra-1", "known"), SigningKey()
    assert {answered_by(mesh, at, known.host) for at in NAMES} == {"known"}
    mesh.stop_registry()
    assert {answered_by(mesh, at, known.host) for at in NAMES} == {"known"}
    opened = bind(mesh, "fra-1", "new", new)
    assert {answered_by(mesh, at, opened.host) for at in NAMES} == {"new"}
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        connect(mesh.nodes["iad-1"], name_of(SigningKey(), "fra"), mesh.ca)


@pytest.mark.parametrize("stage", ["connected", "shaken hands", "sending", "reading"])
def test_a_visitor_that_breaks_off_leaves_nothing(mesh: Cluster, as_client: AsClient, stage: str) -> None:
    """At whatever stage: both nodes forget it, and the next one on the same lanes gets its own bytes alone."""
    as_client(mesh.environment())
    with HttpOrigin("next") as origin, portway.forward(origin.port) as tunnel:
        for node in mesh.nodes.values():
            if stage == "connected":
                socket.create_connection(("127.0.0.1", node.port)).close()
                continue
            visitor = connect(node, tunnel.host, mesh.ca, "http/1.1")
            if stage == "sending":
                visitor.sendall(b"PUT /digest HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n" + bytes(100_000))
            elif stage == "reading":
                visitor.sendall(f"GET /bytes/{BULK} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                visitor.recv(1000)
            visitor.close()
        for node in mesh.nodes.values():
            assert get(node, tunnel, mesh.ca) == b"next\n"
        _nothing_left(mesh)


def _nothing_left(mesh: Cluster) -> None:
    for node in mesh.nodes.values():
        eventually(lambda: not node.metrics()["visits"] and not node.metrics()["half_open_connections"])


def test_bytes_that_were_sent_before_the_answer_arrive(mesh: Cluster, bind: Bind) -> None:
    """Up to 64 KiB are on their way before the tunnel has answered."""
    sent = bytes(range(256)) * 256
    tunnel = bind(mesh, "fra-1", "keeps", expected=len(sent))
    assert answer_at(mesh, "iad-1", tunnel.host, sent).decode() == f"keeps {hashlib.sha256(sent).hexdigest()}\n"
