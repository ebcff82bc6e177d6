"""A tunnel whose connection is lost: the same URL works again by itself, or the program is told why it cannot."""

import itertools
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import portway
import pytest
from portway.engine import link as link_module
from portway.engine.key_file import KeyFile
from portway_proto.v1 import lane_pb2
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.fakes.fake_registry import FakeRegistry
from portway_testkit.fakes.node_answers import failure
from portway_testkit.signers import SessionSigner
from portway_testkit.visitors.recovery import label_of
from portway_testkit.waiting import PATIENCE

pytestmark = [pytest.mark.shares_sockets, pytest.mark.usefixtures("environment")]


class Losses:
    """A `tunnel_lost` callback that a test waits on."""

    def __init__(self) -> None:
        self.errors: list[portway.TunnelLostError] = []
        self._told = threading.Event()

    def __call__(self, error: portway.TunnelLostError) -> None:
        self.errors.append(error)
        self._told.set()

    def wait(self) -> portway.TunnelLostError:
        assert self._told.wait(PATIENCE)
        return self.errors[0]


@contextmanager
def losing(port: int, **options: Any) -> Iterator[tuple[portway.Tunnel, Losses]]:
    """A forward() that is lost for good within the block, and says so at its end."""
    lost = Losses()
    with (
        pytest.raises(portway.TunnelLostError, match="gone for good"),
        portway.forward(port, tunnel_lost=lost, **options) as tunnel,
    ):
        yield tunnel, lost


def test_a_reset_connection_is_resumed(node: FakeNode, echo: Any, exchange: Any, log: Any) -> None:
    """The session goes on without a new BIND, and a warning and its end are in the log."""
    with portway.forward(echo.port) as tunnel:
        node.wait(lambda: node.count("park") >= 2)
        node.drop_connections()
        log.wait(logging.WARNING, "node one is lost")
        log.wait(logging.INFO, "attached to node one after")
        node.wait(lambda: ("hello", True) in node.events)
        node.wait(lambda: node.count("park") >= 4)
        assert node.epochs(label_of(tunnel)) == [1]
        assert exchange(node, tunnel.host, b"hello") == b"hello"


def test_a_session_that_worked_is_replaced_at_once_however_many_are_lost(
    node: FakeNode, echo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pause grows over losses in a row: each session held the tunnel before it was lost."""
    monkeypatch.setattr(link_module, "SOUND_AFTER", 0.0)
    monkeypatch.setattr(link_module, "pauses", lambda: iter((0.0, 1000.0)))
    node.resumes = False
    with portway.forward(echo.port) as tunnel:
        for epoch in range(2, 7):
            node.drop_connections()
            node.wait(lambda: node.epochs(label_of(tunnel))[-1:] == [epoch])
            with portway.forward(1):
                pass  # its answer comes behind that to the BIND before


def test_a_session_that_is_lost_as_soon_as_it_is_there_is_not_tried_in_a_loop(
    node: FakeNode, echo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that takes every session and none of its tunnels is met with growing pauses."""
    monkeypatch.setattr(link_module, "SOUND_AFTER", 0.0)
    drawn: list[int] = []

    def pauses() -> Iterator[float]:
        for number in itertools.count():
            drawn.append(number)
            yield 0.0

    monkeypatch.setattr(link_module, "pauses", pauses)
    node.resumes = False
    with portway.forward(echo.port) as tunnel:
        node.lose_answers = 2
        node.drop_connections()
        last = ("bind", label_of(tunnel), 4)
        node.wait(lambda: last in node.events and node.events[node.events.index(last) :].count(("park",)) >= 2)
    assert drawn == [0, 0, 1, 2]


def test_a_restarted_node_gets_the_tunnels_anew(node: FakeNode, echo: Any, exchange: Any) -> None:
    """A node that forgot everything is told each label with its next epoch, the URL staying what it was."""
    with portway.forward(echo.port) as tunnel, portway.forward(1) as other:
        node.stop()
        node.__enter__()
        node.wait(lambda: node.tunnels.keys() == {label_of(tunnel), label_of(other)})
        assert node.epochs(label_of(tunnel)) == [1, 2]
        assert exchange(node, tunnel.host, b"hello") == b"hello"
    node.wait(lambda: not node.tunnels)


def test_a_lost_node_is_replaced_by_another(
    node: FakeNode, second_node: FakeNode, registry: FakeRegistry, echo: Any, exchange: Any
) -> None:
    """With no registry to ask, the candidates and the grant that are known will do."""
    registry.nodes = [node, second_node]
    second_node.after = node
    with portway.forward(echo.port) as tunnel:
        registry.stop()
        node.stop()
        second_node.wait(lambda: label_of(tunnel) in second_node.tunnels)
        assert second_node.epochs(label_of(tunnel)) == [2]
        assert exchange(second_node, tunnel.host, b"hello") == b"hello"


def test_a_node_that_leaves_is_left_after_the_next_one_has_the_tunnels(
    node: FakeNode, second_node: FakeNode, registry: FakeRegistry, echo: Any
) -> None:
    """GOAWAY: bound elsewhere first, then the old node is told where the tunnels are, and that its session is over."""
    registry.nodes = [node, second_node]
    second_node.after = node
    with portway.forward(echo.port) as tunnel:
        node.goaway(failure(lane_pb2.FAILURE_CODE_SHUTDOWN, "it is upgraded"))
        second_node.wait(lambda: label_of(tunnel) in second_node.tunnels)
        node.wait(lambda: ("goaway",) in node.events)
        assert second_node.epochs(label_of(tunnel)) == [2]
        told = [event for event in node.events if event[0] in ("moved", "goaway", "lost")]
        assert told[:2] == [("moved", label_of(tunnel), second_node.name, 2), ("goaway",)]


def test_a_tunnel_closed_while_its_node_leaves_is_closed_there(node: FakeNode, echo: Any) -> None:
    """Between two nodes the old one still serves the label, and must be told."""
    with portway.forward(1):
        with portway.forward(echo.port) as tunnel:
            node.refuse_hello = failure(lane_pb2.FAILURE_CODE_SHUTDOWN)
            node.goaway(failure(lane_pb2.FAILURE_CODE_SHUTDOWN))
            node.wait(lambda: node.count("hello refused") >= 1)
        node.wait(lambda: ("unbind", label_of(tunnel)) in node.events)
    node.wait(lambda: ("goaway",) in node.events)


def test_an_answer_lost_in_a_resumed_session_is_asked_for_again(node: FakeNode, echo: Any) -> None:
    """BIND is sent again with the same epoch, and opening the tunnel goes on as if nothing had happened."""
    node.lose_answers = 1
    with portway.forward(echo.port) as tunnel:
        assert node.epochs(label_of(tunnel)) == [1, 1]
        assert ("hello", True) in node.events


def test_an_answer_lost_with_its_session_costs_an_epoch(node: FakeNode, echo: Any) -> None:
    """A new session cannot ask again: the next epoch takes the label from the one before."""
    node.resumes = False
    node.lose_answers = 1
    with portway.forward(echo.port) as tunnel:
        assert node.epochs(label_of(tunnel)) == [1, 2]


def test_an_answer_lost_while_binding_again_is_asked_for_again(node: FakeNode, echo: Any, exchange: Any) -> None:
    """The tunnel that was open is bound, though the session in which that began was lost and resumed."""
    with portway.forward(echo.port) as tunnel:
        node.stop()
        node.lose_answers = 1
        node.__enter__()
        node.wait(lambda: node.epochs(label_of(tunnel)) == [1, 2, 2])
        assert exchange(node, tunnel.host, b"hello") == b"hello"


def test_a_label_taken_over_while_away_is_lost(node: FakeNode, echo: Any, tmp_path: Path) -> None:
    """BIND is refused with the claim of another program that has the key: the tunnel is given up at once."""
    path = tmp_path / "key"
    with losing(echo.port, key=path) as (tunnel, lost):
        node.resumes = False
        node.wait(lambda: label_of(tunnel) in node.tunnels)
        epoch = node.tunnels[label_of(tunnel)].claim.epoch + 100
        node.claims[label_of(tunnel)] = SessionSigner().claim(KeyFile(path).key, node="two", epoch=epoch)
        node.drop_connections()
        assert isinstance(lost.wait().reason, portway.TakenOverError)
    assert [event[2] for event in node.events if event[0] == "bind refused"] == [2]


def test_a_label_taken_over_is_not_taken_back(node: FakeNode, registry: FakeRegistry, echo: Any) -> None:
    """After UNBOUND with EPOCH no BIND follows; the port is free for another tunnel at once. Without a claim the only
    node that a registry knows is right."""
    with losing(echo.port) as (tunnel, lost):
        node.unbound(label_of(tunnel), failure(lane_pb2.FAILURE_CODE_EPOCH, "another session has it"))
        assert "another session has it" in str(lost.wait())
        assert registry.locates == 2
        assert lost.wait().url == tunnel.url
        with portway.forward(echo.port) as again:
            assert again.url != tunnel.url
    assert node.epochs(label_of(tunnel)) == [1]


def test_an_error_of_the_block_is_not_hidden_by_the_loss(node: FakeNode, echo: Any) -> None:
    """The program's own exception comes out of the block, whatever became of the tunnel."""

    def fail() -> None:
        lost = Losses()
        with portway.forward(echo.port, tunnel_lost=lost) as tunnel:
            node.unbound(label_of(tunnel), failure(lane_pb2.FAILURE_CODE_EPOCH))
            lost.wait()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()


def test_a_tunnel_that_was_let_go_for_a_while_is_bound_again(node: FakeNode, echo: Any, exchange: Any) -> None:
    """UNBOUND for a reason that passes: the next epoch, tried until it is taken."""
    with portway.forward(echo.port) as tunnel:
        node.refuse_bind = failure(lane_pb2.FAILURE_CODE_OVERLOADED)
        node.unbound(label_of(tunnel), failure(lane_pb2.FAILURE_CODE_OVERLOADED))
        node.wait(lambda: node.count("bind refused") >= 3)
        node.refuse_bind = None
        node.wait(lambda: label_of(tunnel) in node.tunnels)
        assert exchange(node, tunnel.host, b"hello") == b"hello"


def test_refusals_that_pass_do_not_hold_up_the_next_attachment(node: FakeNode, echo: Any) -> None:
    """A tunnel that is being tried again in the background is bound by the next session."""
    with portway.forward(echo.port) as tunnel:
        node.refuse_bind = failure(lane_pb2.FAILURE_CODE_PORTS)
        node.unbound(label_of(tunnel), failure(lane_pb2.FAILURE_CODE_PORTS))
        node.wait(lambda: node.count("bind refused") >= 1)
        node.drop_connections()
        node.refuse_bind = None
        node.wait(lambda: label_of(tunnel) in node.tunnels)


def test_a_revoked_token_ends_every_tunnel(node: FakeNode, registry: FakeRegistry, echo: Any) -> None:
    """FAIL with REVOKED: a registry says the same, no further HELLO, each tunnel is lost with an AuthError."""
    with losing(1) as (_, first), losing(echo.port) as (_, second):
        registry.refuse = (grpc.StatusCode.UNAUTHENTICATED, "the token was revoked")
        node.fail(failure(lane_pb2.FAILURE_CODE_REVOKED, "the token was revoked by an admin"))
        for lost in (first, second):
            assert isinstance(lost.wait().reason, portway.AuthError)
    assert node.count("hello") == 1


def test_a_callback_that_fails_harms_nobody(node: FakeNode, echo: Any, log: Any) -> None:
    """It is logged; the engine goes on."""

    def broken(error: portway.TunnelLostError) -> None:
        raise ValueError("the program's own")

    def lose() -> None:
        with portway.forward(echo.port, tunnel_lost=broken) as tunnel:
            node.unbound(label_of(tunnel), failure(lane_pb2.FAILURE_CODE_EPOCH))
            log.wait(logging.ERROR, "callback failed")

    with pytest.raises(portway.TunnelLostError):
        lose()
    with portway.forward(echo.port):
        pass


def test_a_tunnel_closed_while_away_is_closed_when_back(node: FakeNode, echo: Any) -> None:
    """The resumed session has it still: UNBIND follows HELLO."""
    with portway.forward(1) as kept:
        with portway.forward(echo.port) as closed:
            node.refuse_hello = failure(lane_pb2.FAILURE_CODE_OVERLOADED)
            node.drop_connections()
            node.wait(lambda: node.count("hello refused") >= 1)
        assert label_of(closed) in node.tunnels
        node.refuse_hello = None
        node.wait(lambda: ("unbind", label_of(closed)) in node.events)
        assert node.tunnels.keys() == {label_of(kept)}


def test_unbind_said_just_before_a_loss_is_said_again(node: FakeNode, echo: Any) -> None:
    """It has no answer, so nobody knows whether it arrived."""
    with portway.forward(1):
        with portway.forward(echo.port) as closed:
            pass
        node.wait(lambda: node.count("unbind") == 1)
        node.drop_connections()
        node.wait(lambda: node.events.count(("unbind", label_of(closed))) == 2)


def test_a_tcp_port_is_asked_for_again_by_its_ticket(node: FakeNode, echo: Any) -> None:
    """The ticket of the first BOUND is shown with every BIND after it."""
    with portway.forward(echo.port, unencrypted=True) as tunnel:
        ticket = node.tunnels[label_of(tunnel)].ticket
        node.stop()
        node.__enter__()
        node.wait(lambda: label_of(tunnel) in node.tunnels)
        assert node.tunnels[label_of(tunnel)].ticket == ticket != b""


def test_a_stale_grant_is_replaced_once(node: FakeNode, registry: FakeRegistry, echo: Any) -> None:
    """FAIL with GRANT: the registry is asked for a fresh one; refused again, that is the end."""
    with losing(echo.port) as (_, lost):
        node.refuse_hello = failure(lane_pb2.FAILURE_CODE_GRANT, "the grant is of another cluster")
        node.drop_connections()
        assert isinstance(lost.wait().reason, portway.AuthError)
    assert registry.locates == 2
    assert node.count("hello refused") == 2


def test_neither_a_full_registry_nor_a_vanished_region_ends_a_tunnel(
    node: FakeNode, registry: FakeRegistry, echo: Any, log: Any
) -> None:
    """What would be an error for a new tunnel is no reason to give up one that is open."""
    with portway.forward(echo.port, region="test") as tunnel:
        registry.refuse = (grpc.StatusCode.NOT_FOUND, "no node is in region 'test'")
        node.stop()
        log.wait(logging.WARNING, "no node is in region")
        registry.refuse = (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls")
        log.wait(logging.WARNING, "too many calls")
        registry.refuse = None
        node.__enter__()
        node.wait(lambda: label_of(tunnel) in node.tunnels)


def test_a_token_unknown_by_now_ends_its_tunnels(node: FakeNode, registry: FakeRegistry, echo: Any) -> None:
    """UNAUTHENTICATED from a registry that is asked for other nodes: trying again will not help."""
    with losing(echo.port) as (_, lost):
        registry.refuse = (grpc.StatusCode.UNAUTHENTICATED, "the token was revoked")
        node.stop()
        assert isinstance(lost.wait().reason, portway.AuthError)


def test_a_node_that_forgot_the_session_alone_gets_a_new_hello(node: FakeNode, echo: Any, exchange: Any) -> None:
    """PARK answered with SESSION while the control lane is up: HELLO anew, and not as a resumption."""
    with portway.forward(echo.port) as tunnel:
        node.wait(lambda: node.count("park") >= 2)
        node.forgotten.update(node.sessions)
        visitor, ended = node.visit(label_of(tunnel))  # with the first one the client dials more lanes
        node.wait(lambda: node.count("park refused") >= 1)
        visitor.close()
        ended.result(PATIENCE)
        node.wait(lambda: len(node.epochs(label_of(tunnel))) >= 2)
        assert node.count("hello") == 2
        assert ("hello", True) not in node.events
        assert exchange(node, tunnel.host, b"hello") == b"hello"


def test_clocks_ten_minutes_apart_do_not_matter(
    node: FakeNode, registry: FakeRegistry, echo: Any, exchange: Any, log: Any
) -> None:
    """Tunnels open and are kept, since statements go by the registry's time; somebody should know, so the log says
    which clock is where."""
    registry.clock_offset = 600
    node.clock_offset = -600
    with portway.forward(echo.port) as tunnel:
        log.wait(logging.WARNING, "this clock is 600 s ahead of that of node one")
        assert registry.renews == 0
        node.drop_connections()
        node.wait(lambda: ("hello", True) in node.events)
        assert exchange(node, tunnel.host, b"hello") == b"hello"
