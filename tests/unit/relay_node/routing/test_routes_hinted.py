"""Where a client says that it went: believed less than any node's own word."""

import pytest
from portway_relay.routing.routes import Belief
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.known_routes import LABEL, KnownRoutes


@pytest.fixture
def around(clock: ManualClock) -> KnownRoutes:
    return KnownRoutes(clock)


def test_a_client_that_moved_is_followed(around: KnownRoutes) -> None:
    """With its tunnel's options; what is bound here is not touched, for its session ends it."""
    assert around.hint("a", 2)
    route = around.routes.get(LABEL)
    assert route is not None
    assert (route.belief, route.h2_enabled, route.pool) == (Belief.HINTED, True, around.pools["a"])
    assert around.superseded == []
    assert around.routes.epoch(LABEL) == 2


@pytest.mark.parametrize(
    ("node", "epoch", "proof"),
    [
        ("here", 3, None),
        ("nobody", 3, None),
        ("a", 2, None),
        ("a", 1, None),
        ("a", 3, bytes(32)),
        ("a", 3, b""),
        ("a", 5_000, bytes(32)),
    ],
)
def test_a_hint_that_leads_nowhere_changes_nothing(
    around: KnownRoutes, node: str, epoch: int, proof: bytes | None
) -> None:
    """This node, one that no registry has told of, an epoch that is none or no news, a proof that does not fit."""
    assert not around.hint(node, epoch, proof=proof, held=2)
    assert around.at() is None
    assert around.routes.epoch(LABEL) == 2


@pytest.mark.parametrize("from_registry", [False, True])
@pytest.mark.parametrize("denied", [False, True])
@pytest.mark.parametrize("node", ["a", "b"])
def test_any_nodes_own_word_replaces_a_hint(around: KnownRoutes, node: str, denied: bool, from_registry: bool) -> None:
    """No dispute comes of it: a hint does not say who has the label, but that its client was about to bind there."""
    around.hint("a", 2)
    if denied:
        around.routes.forget(LABEL, "a", 2)
        assert around.at() is None
    assert around.learn(node, 2, from_registry=from_registry)
    assert around.at() == (node, 2)
    assert around.superseded == [(LABEL, 1)]


@pytest.mark.parametrize("epoch", [2, 3])
def test_a_hint_never_replaces_a_nodes_word(around: KnownRoutes, epoch: int) -> None:
    """Of this epoch or a later one: believed, disputed, gone, or remembered by a registry."""
    around.learn("b", epoch)
    assert not around.hint("a", 2)
    assert around.at() == ("b", epoch)
    around.learn("c", epoch)
    assert not around.hint("a", 2)
    assert around.at() is None


def test_a_hint_yields_to_who_a_registry_remembers(around: KnownRoutes) -> None:
    """Whether that was known before or is learned after; the holder's word still comes through."""
    around.routes.learn_last(LABEL, "b", 2)
    assert not around.hint("a", 2)
    assert around.hint("a", 3)
    around.routes.learn_last(LABEL, "b", 3)
    assert around.at() is None
    assert around.learn("b", 3)


def test_the_epoch_of_a_hint_is_remembered_when_its_node_denies_it(around: KnownRoutes) -> None:
    """It was proved, so no lower one comes back."""
    around.hint("a", 3)
    around.routes.forget(LABEL, "a", 3)
    assert not around.learn("b", 2)
    assert around.routes.epoch(LABEL) == 3


def test_hints_cost_their_token_no_more_than_proofs_may(around: KnownRoutes, clock: ManualClock) -> None:
    """A client that makes proofs up is not heard for a while."""
    for _ in range(3):
        assert not around.hint("a", 4_000, proof=bytes(32))
    assert around.proofs.unchecked == {"token": 1}
    assert not around.hint("a", 3_000)
    clock.now += 1
    assert around.hint("a", 3_000)


def test_a_hint_that_was_denied_is_waited_for_like_any_tunnel_that_moves(
    around: KnownRoutes, clock: ManualClock
) -> None:
    """For a while: its client is somewhere. When the node says that its client has closed it, not at all."""
    around.hint("a", 2)
    assert around.routes.is_moving(LABEL)
    around.routes.forget(LABEL, "a", 2)
    assert around.routes.is_moving(LABEL)
    clock.now += 61
    assert not around.routes.is_moving(LABEL)
    around.hint("a", 3)
    around.routes.forget(LABEL, "a", 3, closed=True)
    assert not around.routes.is_moving(LABEL)
    assert around.routes.closed_epoch(LABEL) == 3
    assert not around.learn("a", 3)
