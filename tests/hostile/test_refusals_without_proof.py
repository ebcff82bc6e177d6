"""A node that lies to its clients about their token, quota, label or time: it loses them, and they lose nothing.

The node and the registry are fakes on real sockets, the client is the real one. What a lie may cost is a move to an
honest node, and some calls to a registry.
"""

import socket
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import grpc
import portway
import pytest
import trustme
from portway.engine import engine_thread as thread
from portway.engine.key_file import KeyFile
from portway_proto.v1 import lane_pb2
from portway_proto.wire.statements import Claim
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.fakes.fake_registry import FakeRegistry
from portway_testkit.fakes.node_answers import failure
from portway_testkit.signers import SessionSigner
from portway_testkit.visitors.origins import TcpOrigin
from portway_testkit.visitors.recovery import label_of

pytestmark = pytest.mark.shares_sockets

YEAR_2100 = 4_102_444_800_000
LIES = ("REVOKED", "QUOTA", "EPOCH", "CLAIM", "INVALID", "TIME")


@pytest.fixture
def registry(
    authority: trustme.CA, hostile: FakeNode, honest: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeRegistry]:
    """It names the hostile node first. This process is its client; its engine is stopped after the test."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with FakeRegistry(authority, [hostile, honest]) as registry:
        monkeypatch.setenv("PORTWAY_REGISTRY", registry.address)
        monkeypatch.setenv("PORTWAY_TOKEN", "pw_test_secret")
        monkeypatch.setenv("PORTWAY_CA", str(tmp_path / "ca.pem"))
        yield registry
        thread.stop_engine()


@pytest.fixture
def origin() -> Iterator[TcpOrigin]:
    with TcpOrigin(greet) as origin:
        yield origin


def forward(port: int, **options: Any) -> portway.Forwarding:
    """At the node that the registry names first, however slow it is."""
    return portway.forward(port, strategy="geoip", **options)


def greet(sock: socket.socket) -> None:
    sock.sendall(b"hello")


def lie(code: str) -> lane_pb2.Failure:
    return failure(lane_pb2.FailureCode.Value(f"FAILURE_CODE_{code}"), "so it says")


def served(node: FakeNode, tunnel: portway.Tunnel) -> bool:
    """Whether a visitor of the tunnel at this node gets its server's answer."""
    node.wait(lambda: label_of(tunnel) in node.tunnels)
    visitor, ended = node.visit(label_of(tunnel))
    with visitor:
        answer = visitor.recv(5)
    ended.result(15)
    return answer == b"hello"


@pytest.mark.parametrize("registry_answers", [True, False])
@pytest.mark.parametrize("code", LIES)
def test_an_open_tunnel_that_is_let_go_is_bound_elsewhere(
    hostile: FakeNode, honest: FakeNode, registry: FakeRegistry, origin: TcpOrigin, code: str, registry_answers: bool
) -> None:
    """Under the same label, and so are the others of its session."""
    with forward(origin.port) as tunnel, forward(1) as other:
        if not registry_answers:
            registry.stop()
        hostile.unbound(label_of(tunnel), lie(code))
        assert served(honest, tunnel)
        honest.wait(lambda: label_of(other) in honest.tunnels)


@pytest.mark.parametrize("registry_answers", [True, False])
def test_a_session_that_ends_with_a_revocation_goes_on_elsewhere(
    hostile: FakeNode, honest: FakeNode, registry: FakeRegistry, origin: TcpOrigin, registry_answers: bool
) -> None:
    """A registry knows the token; without one the second node decides."""
    with forward(origin.port) as tunnel:
        if not registry_answers:
            registry.stop()
        hostile.refuse_hello = lie("REVOKED")
        hostile.fail(lie("REVOKED"))
        assert served(honest, tunnel)


def test_a_revocation_that_a_registry_confirms_is_final(
    hostile: FakeNode, honest: FakeNode, registry: FakeRegistry
) -> None:
    """No other node is asked."""
    lost: Future[portway.TunnelLostError] = Future()
    forwarding = forward(1, tunnel_lost=lost.set_result)
    forwarding.__enter__()
    registry.refuse = (grpc.StatusCode.UNAUTHENTICATED, "the token was revoked")
    hostile.fail(lie("REVOKED"))
    assert isinstance(lost.result(15).reason, portway.AuthError)
    with pytest.raises(portway.TunnelLostError, match="the token was revoked"):
        forwarding.__exit__(None, None, None)
    assert honest.count("hello") == 0


@pytest.mark.parametrize("code", LIES)
def test_a_new_tunnel_that_is_refused_is_opened_elsewhere(
    hostile: FakeNode, honest: FakeNode, registry: FakeRegistry, origin: TcpOrigin, code: str
) -> None:
    """The hostile node is asked once, and once more with the time that a registry has said."""
    hostile.refuse_bind = lie(code)
    with forward(origin.port) as tunnel:
        assert served(honest, tunnel)
    assert hostile.count("bind refused") == (2 if code == "TIME" else 1)
    assert registry.locates <= 3


@pytest.mark.parametrize("kind", ["older", "another key", "far ahead", "forged"])
def test_a_claim_that_owns_nothing_takes_no_tunnel(
    hostile: FakeNode, honest: FakeNode, registry: FakeRegistry, origin: TcpOrigin, tmp_path: Path, kind: str
) -> None:
    """A replayed claim of an earlier run, one of another tunnel, one of the year 2100 that a wrong clock had signed,
    and one that nobody has signed."""
    path = tmp_path / "key"
    with forward(origin.port, key=path) as tunnel:
        hostile.wait(lambda: label_of(tunnel) in hostile.tunnels)
        epoch = hostile.tunnels[label_of(tunnel)].claim.epoch
        hostile.unbound(label_of(tunnel), lie("EPOCH"), claim_of(kind, KeyFile(path), epoch).encoded)
        assert served(honest, tunnel)


def claim_of(kind: str, file: KeyFile, epoch: int) -> Claim:
    signer = SessionSigner()
    if kind == "older":
        return signer.claim(file.key, node="honest", epoch=epoch - 1)
    if kind == "far ahead":
        return signer.claim(file.key, node="honest", epoch=YEAR_2100)
    if kind == "another key":
        return signer.claim(node="honest", epoch=epoch + 1)
    genuine = signer.claim(file.key, node="honest", epoch=epoch + 1)
    forged = genuine.encoded[:-1] + bytes([genuine.encoded[-1] ^ 1])
    return Claim(genuine.key, genuine.epoch, genuine.session_key, genuine.node, genuine.options, forged)


def test_a_tunnel_that_is_let_go_again_and_again_costs_little(hostile: FakeNode, registry: FakeRegistry) -> None:
    """A node that unbinds whatever is bound is asked about ten times a second at the most, and not at its own pace."""
    with forward(1) as tunnel:
        for times in range(2, 12):
            hostile.unbound(label_of(tunnel), lie("OVERLOADED"))
            hostile.wait(lambda: hostile.count("bind") == times)
    first, last = hostile.times("bind")[0], hostile.times("bind")[-1]
    assert last - first >= 10 * 0.05
