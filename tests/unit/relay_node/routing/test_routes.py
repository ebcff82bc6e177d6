"""What is believed of other nodes' tunnels: the highest epoch that proves itself, from whoever may say it."""

import pytest
from portway_proto.v1.types_pb2 import TunnelInfo, TunnelOptions
from portway_proto.wire.labels import Chain
from portway_relay.routing import routes as routes_module
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.known_routes import CHAIN, LABEL, KnownRoutes


@pytest.fixture
def around(clock: ManualClock) -> KnownRoutes:
    return KnownRoutes(clock)


@pytest.mark.parametrize("from_registry", [False, True])
def test_an_epoch_stays_its_last_holders(around: KnownRoutes, from_registry: bool) -> None:
    """Of a label that a registry remembers, others are believed with a higher epoch only; the holder may be back."""
    around.routes.learn_last(LABEL, "a", 2)
    for node, epoch in (("b", 2), ("b", 1), ("a", 1)):
        assert not around.learn(node, epoch, from_registry=from_registry)
    assert around.learn("a", 2, from_registry=from_registry)
    around.routes.learn_last(LABEL, "a", 2)
    assert around.at() == ("a", 2)
    assert around.learn("b", 3, from_registry=from_registry)
    assert around.at() == ("b", 3)


def test_who_was_believed_wrongly_is_believed_no_more(around: KnownRoutes) -> None:
    """A claim that came before the registry's word."""
    assert around.learn("b", 2)
    around.routes.learn_last(LABEL, "a", 2)
    assert around.at() is None
    assert around.routes.epoch(LABEL) == 2


def test_last_holders_are_remembered_within_bounds(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten first."""
    monkeypatch.setattr(routes_module, "_MAX_LABELS", 1)
    around = KnownRoutes(clock)
    around.routes.learn_last(LABEL, "a", 2)
    around.routes.learn_last(Chain().label, "a", 2)
    assert around.learn("b", 2)


def test_a_tunnel_that_proves_itself_is_routed(around: KnownRoutes) -> None:
    """To the lanes of its node, with what its options allow; this node's own binding with a lower epoch is over."""
    assert around.learn("a", 3, options=TunnelOptions(h2_enabled=True))
    route = around.routes.get(LABEL)
    assert route is not None
    assert (route.node, route.epoch, route.h2_enabled, route.full) == ("a", 3, True, False)
    assert route.pool is around.pools["a"]
    assert around.superseded == [(LABEL, 2)]
    assert around.routes.epoch(LABEL) == 3
    assert len(around.routes) == 1


@pytest.mark.parametrize("proof", [b"", bytes(32), CHAIN.proof(2), CHAIN.proof(3)[:31]])
def test_a_proof_that_does_not_fit_is_not_believed(around: KnownRoutes, proof: bytes) -> None:
    """Nor does it change what was believed before."""
    around.learn("a", 2)
    assert not around.learn("b", 3, proof=proof or b"\x00")
    assert around.at() == ("a", 2)


@pytest.mark.parametrize("label", ["", "short", "A" * 16, "a" * 17])
def test_what_is_no_label_is_not_remembered(around: KnownRoutes, label: str) -> None:
    """Whatever a node may call it."""
    assert around.routes.learn(TunnelInfo(label=label, node="a", epoch=1, proof=CHAIN.proof(1))) is None
    assert len(around.routes) == 0


@pytest.mark.parametrize("node", ["here", "nobody"])
def test_only_other_nodes_that_are_known_have_routes(around: KnownRoutes, node: str) -> None:
    """Nobody tells this node what it holds itself; and who cannot be reached is of no use."""
    assert not around.learn(node, 1)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_lower_epoch_changes_nothing(around: KnownRoutes, epoch: int) -> None:
    """From a node or from a registry that lags behind."""
    around.learn("a", 3)
    assert not around.learn("b", epoch)
    assert not around.learn("b", epoch, from_registry=True)
    assert not around.learn("a", epoch)
    assert around.at() == ("a", 3)


def test_a_higher_epoch_takes_the_label(around: KnownRoutes) -> None:
    """At once."""
    around.learn("a", 1)
    assert around.learn("b", 2)
    assert around.at() == ("b", 2)


def test_this_nodes_own_binding_stays_against_an_equal_epoch(around: KnownRoutes) -> None:
    """Live or with its client away: who comes second with a proof is nobody."""
    around.held[LABEL] = 2
    assert not around.learn("a", 2)
    assert not around.learn("a", 2, from_registry=True)
    assert around.superseded == []
    assert around.learn("a", 3)


def test_two_that_claim_one_epoch_are_both_left(around: KnownRoutes) -> None:
    """Until a registry is asked nobody is routed, whatever either of them says again."""
    around.learn("a", 2)
    assert not around.learn("b", 2)
    assert around.at() is None
    assert not around.learn("a", 2)
    assert not around.learn("b", 2)
    assert around.at() is None
    assert around.routes.epoch(LABEL) == 2
    assert around.learn("a", 2, from_registry=True)
    assert around.at() == ("a", 2)


def test_what_a_registry_has_said_is_not_disputed_again(around: KnownRoutes) -> None:
    """Or a hostile node could send every visitor to the registry."""
    around.learn("a", 2)
    around.learn("a", 2, from_registry=True)
    assert not around.learn("b", 2)
    assert around.at() == ("a", 2)


def test_a_registry_corrects_whoever_came_first(around: KnownRoutes) -> None:
    """The first claim may have been the hostile one."""
    around.learn("b", 2)
    assert around.learn("a", 2, from_registry=True)
    assert around.at() == ("a", 2)


def test_a_dispute_needs_the_proof(around: KnownRoutes) -> None:
    """A node that only knows the number takes nobody's route away."""
    around.learn("a", 2)
    assert not around.learn("b", 2, proof=bytes(32) + b"x")
    assert around.at() == ("a", 2)


def test_a_higher_epoch_ends_a_dispute(around: KnownRoutes) -> None:
    """Only the client can have made it."""
    around.learn("a", 2)
    around.learn("b", 2)
    assert around.learn("c", 3)
    assert around.at() == ("c", 3)


def test_what_is_gone_is_not_routed_and_not_forgotten(around: KnownRoutes) -> None:
    """The same node may have it again with the same epoch; a lower one stays over."""
    around.learn("a", 2)
    around.routes.forget(LABEL, "a", 2)
    assert around.at() is None
    assert around.routes.epoch(LABEL) == 2
    assert not around.learn("b", 1)
    assert around.learn("a", 2)
    assert around.at() == ("a", 2)


@pytest.mark.parametrize(("node", "epoch"), [("b", 2), ("a", 1)])
def test_a_late_goodbye_never_removes_a_newer_route(around: KnownRoutes, node: str, epoch: int) -> None:
    """Of another node, or of an epoch before."""
    around.learn("a", 2)
    around.routes.forget(LABEL, node, epoch)
    assert around.at() == ("a", 2)


def test_news_in_any_order_come_to_the_same(around: KnownRoutes) -> None:
    """Goodbye before the tunnel it was of, tunnels of earlier epochs last, all of it twice."""
    for _ in range(2):
        around.routes.forget(LABEL, "a", 1)
        around.learn("b", 3)
        around.learn("a", 1)
        around.routes.forget(LABEL, "a", 1)
        around.learn("a", 2)
    assert around.at() == ("b", 3)


def test_an_epoch_of_this_nodes_own_is_not_forgotten(around: KnownRoutes) -> None:
    """When it has let go of the label nobody comes with that epoch, or a lower one."""
    around.learn("a", 1)
    around.routes.bound_here(LABEL, 2)
    assert around.at() is None
    assert around.routes.epoch(LABEL) == 2
    for epoch in (1, 2):
        assert not around.learn("b", epoch)
        assert not around.learn("b", epoch, from_registry=True)
    assert around.learn("b", 3)


def test_a_route_follows_its_node(around: KnownRoutes) -> None:
    """A node that is dialled anew has other lanes; one that is not known any more has those of before, which turn
    visitors away."""
    around.learn("a", 1)
    route = around.routes.get(LABEL)
    assert route is not None
    before = route.pool
    around.pools["a"] = object()
    assert route.pool is around.pools["a"] is not before
    last = around.pools.pop("a")
    assert route.pool is last
    assert around.routes.get(LABEL) is None


def test_what_nobody_knows_is_not_asked_for_again_for_a_while(around: KnownRoutes, clock: ManualClock) -> None:
    """For a second."""
    around.routes.mark_unknown("guess")
    clock.now += 0.99
    assert around.routes.is_unknown("guess")
    clock.now += 0.02
    assert not around.routes.is_unknown("guess")


@pytest.mark.parametrize("here", [False, True])
def test_an_announcement_clears_what_nobody_knew(around: KnownRoutes, here: bool) -> None:
    """Of another node, or of this one."""
    around.routes.mark_unknown(LABEL)
    if here:
        around.routes.bound_here(LABEL, 1)
    else:
        around.learn("a", 1)
    assert not around.routes.is_unknown(LABEL)


def test_memory_is_bounded(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The route that was used least recently goes first."""
    monkeypatch.setattr(routes_module, "_MAX_LABELS", 2)
    monkeypatch.setattr(routes_module, "_MAX_UNKNOWN", 2)
    around = KnownRoutes(clock)
    chains = [Chain(bytes([number]) * 32) for number in range(3)]
    around.learn("a", 1, chains[0])
    around.learn("a", 1, chains[1])
    assert around.routes.get(chains[0].label) is not None
    around.learn("a", 1, chains[2])
    assert [around.routes.get(chain.label) is not None for chain in chains] == [True, False, True]
    for name in ("x", "y", "z"):
        around.routes.mark_unknown(name)
    assert [around.routes.is_unknown(name) for name in ("x", "y", "z")] == [False, True, True]


def test_a_node_that_makes_proofs_up_costs_no_more_than_it_may(around: KnownRoutes, clock: ManualClock) -> None:
    """Beyond it nothing of its is believed, fitting or not, until time has passed; other nodes are not concerned."""
    for _ in range(3):
        assert not around.learn("a", 4_000, proof=bytes(32))
    assert around.proofs.unchecked == {"node": 1}
    assert not around.learn("a", 3_000)
    assert around.learn("b", 5)
    assert around.at() == ("b", 5)
    clock.now += 1
    assert around.learn("a", 3_000)
    assert around.at() == ("a", 3_000)


def test_what_was_let_go_of_is_on_its_way_for_a_while(around: KnownRoutes, clock: ManualClock) -> None:
    """By this node or another: its client may bind it anywhere in a moment, and then it is there."""
    assert not around.routes.is_moving(LABEL)
    around.learn("a", 1)
    around.routes.forget(LABEL, "a", 1)
    assert around.routes.is_moving(LABEL)
    around.routes.bound_here(LABEL, 2)
    assert not around.routes.is_moving(LABEL)
    around.routes.mark_released(LABEL, 2, closed=False)
    assert around.routes.is_moving(LABEL)
    clock.now += 60
    assert not around.routes.is_moving(LABEL)
    assert around.routes.closed_epoch(LABEL) == 0


def test_what_a_client_closed_is_not_on_its_way(around: KnownRoutes) -> None:
    """Nor does it become so by older or repeated news; a higher epoch is another matter."""
    around.learn("a", 2)
    around.routes.forget(LABEL, "a", 2)
    around.routes.forget(LABEL, "a", 2, closed=True)
    for epoch in (1, 2):
        around.routes.mark_released(LABEL, epoch, closed=False)
        assert not around.routes.is_moving(LABEL)
        assert around.routes.closed_epoch(LABEL) == 2
    assert around.learn("b", 3)
    assert around.routes.closed_epoch(LABEL) == 0
    around.routes.forget(LABEL, "b", 3)
    assert around.routes.is_moving(LABEL)


@pytest.mark.parametrize("from_registry", [False, True])
def test_a_closed_binding_does_not_return(around: KnownRoutes, from_registry: bool) -> None:
    """A registry that has not heard yet names it still; another node's claim of its epoch is what it was."""
    around.learn("a", 2)
    around.routes.forget(LABEL, "a", 2, closed=True)
    assert not around.learn("a", 2, from_registry=from_registry)
    assert around.learn("b", 2, from_registry=True)


def test_a_node_that_is_not_routed_to_closes_nothing(around: KnownRoutes) -> None:
    """Neither another one, nor the holder with an older epoch, nor one of two that claim the same."""
    around.learn("a", 2)
    around.routes.forget(LABEL, "b", 2, closed=True)
    around.routes.forget(LABEL, "a", 1, closed=True)
    assert around.at() == ("a", 2)
    around.learn("b", 2)
    around.routes.forget(LABEL, "a", 2, closed=True)
    assert around.routes.is_moving(LABEL)
    assert around.routes.closed_epoch(LABEL) == 0


def test_what_was_released_is_remembered_up_to_a_limit(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten first, and is like a name that never was then."""
    monkeypatch.setattr(routes_module, "_MAX_LABELS", 2)
    around = KnownRoutes(clock)
    for label in ("a", "b", "c"):
        around.routes.mark_released(label, 1, closed=False)
    assert [around.routes.is_moving(label) for label in ("a", "b", "c")] == [False, True, True]
