"""portway.engine.search: which nodes are tried, in which order, and what is kept of those that did not do."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from portway.engine import dialling
from portway.engine import search as search_module
from portway.engine.failures import Failure
from portway.engine.search import Resumption, Search
from portway.errors import UnreachableError
from portway_carrier.errors import ConnectFailed
from portway_carrier.values import ClientTls
from portway_proto.v1.lane_pb2 import FailureCode
from portway_proto.wire.limits import LINK_ALPN
from portway_testkit.fakes.fake_nodes import KEY, FakeCarrier, FakeRegistries, FakeSession, FakeStream, node
from portway_testkit.links.carrier_link import until

FULL = Failure(FailureCode.FAILURE_CODE_OVERLOADED, "full")
EVENTS: Any = None  # nothing comes of these sessions


async def test_the_registry_s_order_is_followed(carrier: FakeCarrier, search: Callable[..., Search]) -> None:
    """Down to the first that takes the session, which gets the grant; the dial trusts the cluster's CA alone."""
    carrier.outcomes = {"a": ConnectFailed("refused"), "b": FULL}
    searching = search(FakeRegistries(node("a"), node("b"), node("c"), node("d")))
    attached = await searching.attach(EVENTS)
    assert attached.session.node == node("c")
    assert carrier.names == ["a", "b", "c"]
    assert FakeSession.hellos == [("b", "grant 1", None), ("c", "grant 1", None)]
    assert carrier.tls[0] == ClientTls(b"ca", "a.node.portway.internal", LINK_ALPN)


async def test_each_that_failed_is_kept_with_its_reason(
    carrier: FakeCarrier, search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the reason was."""
    monkeypatch.setattr(dialling, "DIAL_TIMEOUT", 0.01)
    carrier.outcomes = {"a": ConnectFailed("refused"), "b": FULL, "c": "silent", "d": "not a node"}
    searching = search(FakeRegistries(*map(node, "abcd")))
    with pytest.raises(UnreachableError, match="no relay node could be reached") as raised:
        await searching.attach(EVENTS)
    assert [(attempt.name, attempt.reason) for attempt in raised.value.attempts] == [
        ("a", "refused"),
        ("b", "full"),
        ("c", "no connection within 0.01 s"),
        ("d", "it is not a relay node, or not of this protocol version"),
    ]
    assert raised.value.attempts[0].address == "a.test:443"
    assert [stream.aborted for stream in carrier.dialled] == [False, False, True, True]


async def test_known_nodes_come_before_the_registry(carrier: FakeCarrier, search: Callable[..., Search]) -> None:
    """It is asked when none of them does; those that it names again are not tried again."""
    registries = FakeRegistries(node("a"), node("b"))
    searching = search(registries)
    await searching.attach(EVENTS)
    await searching.attach(EVENTS)
    assert registries.asked == 1
    carrier.outcomes = {"a": FULL, "b": FULL}
    registries.nodes = (node("b"), node("c"))
    carrier.dialled.clear()
    assert (await searching.attach(EVENTS)).session.node == node("c")
    assert carrier.names == ["a", "b", "c"]


async def test_the_node_of_the_session_comes_first(carrier: FakeCarrier, search: Callable[..., Search]) -> None:
    """And no other is shown its key."""
    searching = search(FakeRegistries(*map(node, "abc")))
    carrier.outcomes = {"b": FULL}
    await searching.attach(EVENTS, Resumption("b", KEY))
    assert FakeSession.hellos == [("b", "grant 1", KEY), ("a", "grant 1", None)]


async def test_a_node_that_leaves_is_avoided(carrier: FakeCarrier, search: Callable[..., Search]) -> None:
    """Even when it is the only one."""
    searching = search(FakeRegistries(node("a"), node("b")))
    assert (await searching.attach(EVENTS, avoided=node("a"))).session.node == node("b")
    carrier.outcomes = {"b": FULL}
    with pytest.raises(UnreachableError):
        await searching.attach(EVENTS, avoided=node("a"))
    assert "a" not in carrier.names


async def test_the_region_of_open_tunnels_comes_first(carrier: FakeCarrier, search: Callable[..., Search]) -> None:
    """Visitors of their names arrive there; home itself is tried though it is not listed, then other regions."""
    searching = search(FakeRegistries(node("a", "iad"), node("b")))
    carrier.outcomes = {"b": FULL, "home": FULL}
    assert (await searching.attach(EVENTS, home=node("home"))).session.node == node("a", "iad")
    assert carrier.names == ["b", "home", "a"]


async def test_no_registry_and_no_node(carrier: FakeCarrier, search: Callable[..., Search]) -> None:
    """The error lists both."""
    registries = FakeRegistries(node("a"))
    searching = search(registries)
    await searching.attach(EVENTS)
    carrier.outcomes = {"a": FULL}
    registries.error = UnreachableError("nobody there")
    with pytest.raises(UnreachableError, match="no relay node could be reached, and no registry") as raised:
        await searching.attach(EVENTS)
    assert [str(attempt) for attempt in raised.value.attempts] == [
        "a (a.test:443): full",
        "the registry: nobody there",
    ]


@pytest.mark.parametrize("outcome", ["silent", "mute"])
async def test_a_search_that_is_cancelled_leaves_no_connection(
    carrier: FakeCarrier, search: Callable[..., Search], outcome: str
) -> None:
    """And says whom it was waiting for."""
    carrier.outcomes = {"a": FULL, "b": outcome}
    searching = search(FakeRegistries(node("a"), node("b")))
    attaching = asyncio.ensure_future(searching.attach(EVENTS))
    await until(lambda: len(FakeSession.hellos) == 2 if outcome == "mute" else len(carrier.dialled) == 2)
    attaching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attaching
    assert [attempt.reason for attempt in searching.attempts] == ["full", "no answer yet"]
    assert carrier.dialled[1].aborted == (outcome == "silent")
    assert FakeSession.dropped == (outcome == "mute")


async def test_one_silent_node_is_not_waited_for_before_a_registry_is_asked(
    carrier: FakeCarrier, search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is all that is known, and was silent for ten seconds already; it is dialled again beside the others."""
    monkeypatch.setattr(search_module, "SILENT_PATIENCE", 0.01)
    registries = FakeRegistries(node("a"))
    searching = search(registries)
    await searching.attach(EVENTS)
    carrier.outcomes = {"a": "silent"}
    registries.nodes = (node("a"), node("b"))
    carrier.dialled.clear()
    assert (await searching.attach(EVENTS, Resumption("a", KEY, silent=True))).session.node == node("b")
    assert carrier.names == ["a", "a", "b"]
    assert [stream.aborted for stream in carrier.dialled] == [True, True, False]


async def test_one_silent_node_is_waited_for_when_no_registry_answers(
    carrier: FakeCarrier, search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as any other: it may be this side's network that was away."""
    monkeypatch.setattr(search_module, "SILENT_PATIENCE", 0.01)
    monkeypatch.setattr(dialling, "DIAL_TIMEOUT", 0.05)
    registries = FakeRegistries(node("a"))
    searching = search(registries)
    await searching.attach(EVENTS)
    carrier.outcomes = {"a": "silent"}
    registries.error = UnreachableError("no registry")
    with pytest.raises(UnreachableError, match="no relay node could be reached, and no registry"):
        await searching.attach(EVENTS, Resumption("a", KEY, silent=True))
    del carrier.outcomes["a"]
    connect = carrier.connect

    def silent_at_first(*asked: Any) -> FakeStream:
        stream = connect(*asked)
        if len(carrier.dialled) == 1:
            stream.outcome = "silent"
        return stream

    monkeypatch.setattr(carrier, "connect", silent_at_first)
    carrier.dialled.clear()
    assert (await searching.attach(EVENTS, Resumption("a", KEY, silent=True))).session.node == node("a")
    assert carrier.names == ["a", "a"]
