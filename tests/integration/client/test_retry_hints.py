"""Nodes that say when to try again, or when to leave, and a client that keeps to it within bounds."""

import threading
import time
from typing import Any

import portway
import pytest
from portway.engine import link
from portway_proto.v1 import lane_pb2
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.fakes.fake_registry import FakeRegistry
from portway_testkit.fakes.node_answers import failure
from portway_testkit.visitors.recovery import label_of

pytestmark = [pytest.mark.shares_sockets, pytest.mark.usefixtures("environment")]


def test_a_node_that_says_when_is_not_asked_before(node: FakeNode, echo: Any) -> None:
    """FAIL with a hint at the only node there is: one HELLO, and the next one when its time has come, though pauses
    between tries are shorter."""
    with portway.forward(echo.port) as tunnel:
        node.refuse_hello = failure(lane_pb2.FAILURE_CODE_OVERLOADED, retry_after_ms=800)
        node.drop_connections()
        node.wait(lambda: node.count("hello refused") >= 2)
        first, second = node.times("hello refused")[:2]
        assert second - first >= 0.8
        node.refuse_hello = None
        node.wait(lambda: node.count("hello") == 2)
        assert label_of(tunnel) in node.tunnels


def test_a_node_that_says_later_is_passed_over_for_another(
    node: FakeNode, second_node: FakeNode, registry: FakeRegistry, echo: Any
) -> None:
    """The hint is that node's alone: another candidate is taken at once, however long the first asks to be left
    alone."""
    registry.nodes = [node, second_node]
    second_node.after = node
    with portway.forward(echo.port) as tunnel:
        node.refuse_hello = failure(lane_pb2.FAILURE_CODE_OVERLOADED, retry_after_ms=3_600_000)
        node.drop_connections()
        second_node.wait(lambda: label_of(tunnel) in second_node.tunnels)
        assert node.count("hello refused") == 1


@pytest.mark.parametrize("what", ["hello", "bind"])
def test_a_new_tunnel_waits_for_its_turn(node: FakeNode, echo: Any, what: str) -> None:
    """forward() at a node that is asked by too many at once, or too often by this program, is not an error, but a
    little later."""
    setattr(node, f"refuse_{what}", failure(lane_pb2.FAILURE_CODE_OVERLOADED, retry_after_ms=300))

    def accept_then() -> None:
        node.wait(lambda: node.count(f"{what} refused") == 1)
        setattr(node, f"refuse_{what}", None)

    accepting = threading.Thread(target=accept_then)
    accepting.start()
    with portway.forward(echo.port) as tunnel:
        assert label_of(tunnel) in node.tunnels
        assert node.times(what)[0] - node.times(f"{what} refused")[0] >= 0.299  # uvloop's clock has whole milliseconds
    accepting.join()


def test_a_turn_that_does_not_come_in_time_is_the_node_s_own_error(node: FakeNode, echo: Any) -> None:
    """The program is told what the node said, once its own time is up."""
    node.refuse_bind = failure(lane_pb2.FAILURE_CODE_OVERLOADED, "slow down", retry_after_ms=3_600_000)
    with pytest.raises(portway.RemoteError, match="slow down"), portway.forward(echo.port, timeout=3):
        pass
    assert node.count("bind refused") == 1


def test_a_node_that_is_lost_after_it_was_waited_for_is_named(node: FakeNode, echo: Any) -> None:
    """What it had said before is not why the tunnel did not open."""
    node.refuse_bind = failure(lane_pb2.FAILURE_CODE_OVERLOADED, "slow down", retry_after_ms=100)

    def lose() -> None:
        node.wait(lambda: node.count("bind refused") == 1)
        node.stop()

    losing = threading.Thread(target=lose)
    losing.start()
    with pytest.raises(portway.UnreachableError, match="no tunnel within"), portway.forward(echo.port, timeout=6):
        pass
    losing.join()


def told_to_leave(node: FakeNode, retry_after_ms: int) -> float:
    """GOAWAY with a moment to go at; when it was sent."""
    at = time.monotonic()
    node.goaway(failure(lane_pb2.FAILURE_CODE_SHUTDOWN, retry_after_ms=retry_after_ms))
    return at


def test_a_node_that_names_the_moment_to_leave_serves_until_then(
    node: FakeNode, second_node: FakeNode, registry: FakeRegistry, echo: Any, exchange: Any
) -> None:
    """GOAWAY with a hint: visitors are served meanwhile, and the client goes no earlier."""
    with portway.forward(echo.port) as tunnel:
        registry.nodes = [node, second_node]
        told_at = told_to_leave(node, retry_after_ms=700)
        assert exchange(node, tunnel.host, b"hello") == b"hello"
        second_node.wait(lambda: label_of(tunnel) in second_node.tunnels)
        assert time.monotonic() - told_at >= 0.7
        node.wait(lambda: ("goaway",) in node.events)


def test_a_session_that_nobody_needs_is_left_at_once_when_asked(node: FakeNode, echo: Any) -> None:
    """A node that stops does not wait for a client that lingers without a tunnel."""
    with portway.forward(echo.port):
        pass
    node.goaway(failure(lane_pb2.FAILURE_CODE_SHUTDOWN))
    node.wait(lambda: ("goaway",) in node.events)


def test_a_node_that_is_lost_before_its_moment_is_left_at_once(
    node: FakeNode, second_node: FakeNode, registry: FakeRegistry, echo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody stays with a node that has gone; GOAWAY asked for the longest there is."""
    monkeypatch.setattr(link, "LONGEST_STAY", 3600.0)
    with portway.forward(echo.port) as tunnel:
        registry.nodes = [node, second_node]
        told_to_leave(node, retry_after_ms=3_600_000)
        node.drop_connections()
        second_node.wait(lambda: label_of(tunnel) in second_node.tunnels)


def test_a_new_tunnel_does_not_wait_for_the_moment(
    node: FakeNode, second_node: FakeNode, registry: FakeRegistry, echo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """forward() while the client stays on opens at the next node, and takes the others there with it."""
    monkeypatch.setattr(link, "LONGEST_STAY", 3600.0)
    with portway.forward(echo.port) as tunnel:
        registry.nodes = [node, second_node]
        told_to_leave(node, retry_after_ms=3_600_000)
        with portway.forward(1) as another:
            second_node.wait(lambda: {label_of(tunnel), label_of(another)} <= second_node.tunnels.keys())


def test_a_bind_that_is_refused_for_a_while_comes_no_earlier(node: FakeNode, echo: Any) -> None:
    """BIND_REFUSED with a hint: the next BIND of that tunnel when its time has come."""
    with portway.forward(echo.port) as tunnel:
        node.refuse_bind = failure(lane_pb2.FAILURE_CODE_OVERLOADED, retry_after_ms=700)
        node.unbound(label_of(tunnel), failure(lane_pb2.FAILURE_CODE_OVERLOADED))
        node.wait(lambda: node.count("bind refused") >= 2)
        first, second = node.times("bind refused")[:2]
        assert second - first >= 0.699  # uvloop's clock has whole milliseconds
        node.refuse_bind = None
        node.wait(lambda: label_of(tunnel) in node.tunnels)
