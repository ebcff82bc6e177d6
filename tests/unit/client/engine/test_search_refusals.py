"""portway.engine.search: whose refusal ends a search: a revocation, a grant that is not taken, another version."""

from collections.abc import Callable
from typing import Any

import pytest
from portway.engine.failures import Failure
from portway.engine.search import Refused, Search
from portway.errors import AuthError, UnreachableError
from portway_carrier.errors import ConnectFailed
from portway_proto.v1.lane_pb2 import FailureCode
from portway_testkit.fakes.fake_nodes import FakeCarrier, FakeRegistries, FakeSession, node

FULL = Failure(FailureCode.FAILURE_CODE_OVERLOADED, "full")
REVOKED = Failure(FailureCode.FAILURE_CODE_REVOKED, "revoked")
GRANT = Failure(FailureCode.FAILURE_CODE_GRANT, "of another cluster")
VERSION = Failure(FailureCode.FAILURE_CODE_VERSION, "too new")
EVENTS: Any = None  # nothing comes of these sessions


async def test_a_revocation_is_one_node_s_word(carrier: FakeCarrier, search: Callable[..., Search]) -> None:
    """What a second one says, too, is so: no third one is asked."""
    carrier.outcomes = {"a": REVOKED}
    searching = search(FakeRegistries(*map(node, "abc")))
    assert (await searching.attach(EVENTS)).session.node == node("b")
    carrier.outcomes = {"a": REVOKED, "b": REVOKED}
    carrier.dialled.clear()
    with pytest.raises(Refused, match="revoked"):
        await search(FakeRegistries(*map(node, "abc"))).attach(EVENTS)
    assert carrier.names == ["a", "b"]


async def test_a_registry_is_asked_about_a_revocation(carrier: FakeCarrier, search: Callable[..., Search]) -> None:
    """It answers for the token; nobody else is dialled."""
    registries = FakeRegistries(*map(node, "ab"))
    searching = search(registries)
    await searching.attach(EVENTS)
    carrier.outcomes = {"a": REVOKED}
    carrier.dialled.clear()
    registries.error = AuthError("unknown token")
    with pytest.raises(AuthError, match="unknown token"):
        await searching.attach(EVENTS)
    assert carrier.names == ["a"]


async def test_a_revocation_of_the_only_node_is_final(carrier: FakeCarrier, search: Callable[..., Search]) -> None:
    """A registry knows no other. While none answers it may still be wrong."""
    registries = FakeRegistries(node("a"))
    searching = search(registries)
    await searching.attach(EVENTS)
    carrier.outcomes = {"a": REVOKED}
    registries.error = UnreachableError("down")
    for _ in range(2):
        with pytest.raises(UnreachableError):
            await searching.attach(EVENTS)
    registries.error = None
    with pytest.raises(Refused, match="revoked"):
        await searching.attach(EVENTS)


async def test_a_refusal_of_the_only_node_for_now_is_not_final(
    carrier: FakeCarrier, search: Callable[..., Search]
) -> None:
    """A registry has named another one before, which takes no clients at the moment."""
    registries = FakeRegistries(*map(node, "ab"))
    searching = search(registries)
    await searching.attach(EVENTS)
    registries.nodes = (node("a"),)
    carrier.outcomes = {"a": REVOKED, "b": REVOKED}
    with pytest.raises(UnreachableError):
        await searching.attach(EVENTS, avoided=node("b"))
    carrier.outcomes = {"b": REVOKED}
    assert (await searching.attach(EVENTS)).session.node == node("a")


async def test_a_session_that_ended_with_a_revocation_asks_a_registry_first(
    carrier: FakeCarrier, search: Callable[..., Search]
) -> None:
    """Then another node, whose acceptance settles it, and whose refusal too."""
    registries = FakeRegistries(*map(node, "ab"))
    searching = search(registries)
    await searching.attach(EVENTS)
    searching.ended(node("a"), REVOKED)
    registries.error = UnreachableError("down")
    carrier.dialled.clear()
    assert (await searching.attach(EVENTS, avoided=node("a"))).session.node == node("b")
    assert registries.asked == 2
    assert carrier.names == ["b"]
    searching.ended(node("b"), REVOKED)
    with pytest.raises(Refused, match="revoked"):
        searching.ended(node("a"), REVOKED)
    searching.ended(node("b"), FULL)


async def test_a_stale_grant_is_replaced_once(carrier: FakeCarrier, search: Callable[..., Search]) -> None:
    """The same nodes are asked again with the fresh one; refused again, that is the answer."""
    searching = search(FakeRegistries(node("a")))
    await searching.attach(EVENTS)
    carrier.outcomes = {"a": GRANT}
    FakeSession.hellos.clear()
    with pytest.raises(Refused, match="of another cluster"):
        await searching.attach(EVENTS)
    assert [grant for _, grant, _ in FakeSession.hellos] == ["grant 1", "grant 2"]


@pytest.mark.parametrize("failure", [GRANT, VERSION])
async def test_what_one_node_holds_against_a_client_another_may_not(
    carrier: FakeCarrier, search: Callable[..., Search], failure: Failure
) -> None:
    """A node whose clock is wrong, or whose release is too old, stands in nobody's way."""
    carrier.outcomes = {"a": failure}
    searching = search(FakeRegistries(*map(node, "abc")))
    assert (await searching.attach(EVENTS)).session.node == node("b")
    assert searching.attempts[0].reason == failure.message


@pytest.mark.parametrize("failures", [(GRANT, GRANT), (VERSION, GRANT)])
async def test_what_all_nodes_hold_against_a_client_ends_the_search(
    carrier: FakeCarrier, search: Callable[..., Search], failures: tuple[Failure, Failure]
) -> None:
    """With the first one's reason."""
    carrier.outcomes = dict(zip("ab", failures, strict=True))
    with pytest.raises(Refused, match=failures[0].message):
        await search(FakeRegistries(*map(node, "ab"))).attach(EVENTS)
    assert carrier.names == ["a", "b"]


@pytest.mark.parametrize("other", [ConnectFailed("refused"), FULL])
async def test_nodes_that_could_not_say_may_still_take_it(
    carrier: FakeCarrier, search: Callable[..., Search], other: object
) -> None:
    """So it is worth another try, though each that could say has refused."""
    carrier.outcomes = {"a": GRANT, "b": other}
    with pytest.raises(UnreachableError) as raised:
        await search(FakeRegistries(*map(node, "ab"))).attach(EVENTS)
    assert [attempt.name for attempt in raised.value.attempts] == ["a", "b"]


async def test_a_node_that_is_left_has_not_refused(carrier: FakeCarrier, search: Callable[..., Search]) -> None:
    """Better than none, it may be gone back to."""
    carrier.outcomes = {"b": GRANT}
    with pytest.raises(UnreachableError):
        await search(FakeRegistries(*map(node, "ab"))).attach(EVENTS, avoided=node("a"))


async def test_without_a_registry_the_grant_is_shown_to_the_others_too(
    carrier: FakeCarrier, search: Callable[..., Search]
) -> None:
    """No fresh one is to be had."""
    registries = FakeRegistries(*map(node, "ab"))
    searching = search(registries)
    await searching.attach(EVENTS)
    carrier.outcomes = {"a": GRANT}
    registries.error = UnreachableError("nobody there")
    assert (await searching.attach(EVENTS)).session.node == node("b")


async def test_what_the_registry_refuses_is_its_own_error(carrier: FakeCarrier, search: Callable[..., Search]) -> None:
    """It says more than any node."""
    registries = FakeRegistries()
    registries.error = AuthError("unknown token")
    with pytest.raises(AuthError, match="unknown token"):
        await search(registries).attach(EVENTS)
