"""portway.engine.tunnel_set: a node refuses a BIND or unbinds a tunnel: outbid, tried again, bound again or lost."""

from collections.abc import Callable

import pytest
from portway.engine.failures import Failure
from portway.engine.held_tunnel import OUTBIDS, HeldTunnel
from portway.engine.session import BindRefused
from portway.engine.signer import OUTBID
from portway.errors import AuthError, QuotaError, TakenOverError
from portway_proto.v1.lane_pb2 import FailureCode
from portway_testkit.fakes.fake_tunnel_set import EPOCH, FakeSession, Owner, shown

QUOTA = Failure(FailureCode.FAILURE_CODE_QUOTA, "no more")
TIME = Failure(FailureCode.FAILURE_CODE_TIME, "wrong time")
REVOKED = Failure(FailureCode.FAILURE_CODE_REVOKED, "revoked")
FULL = Failure(FailureCode.FAILURE_CODE_OVERLOADED, "full")


async def test_claims_of_its_own_are_passed_over(owner: Owner, make_tunnel: Callable[..., HeldTunnel]) -> None:
    """An answer that was lost may have used one up."""
    session, held = owner.session(), make_tunnel()
    owner.tunnels.add(held)
    session.answers = [shown(owner, held, 5, owner.signer)]
    await owner.tunnels.bind(session, held)  # type: ignore[arg-type]
    assert session.epochs == [1, 7]


async def test_a_program_that_was_started_before_is_outbid(
    owner: Owner, make_tunnel: Callable[..., HeldTunnel]
) -> None:
    """By a tunnel that was never bound, a few times, then the other one has it."""
    session, held = owner.session(), make_tunnel()
    owner.tunnels.add(held)
    session.answers = [shown(owner, held, 7)]
    await owner.tunnels.bind(session, held)  # type: ignore[arg-type]
    assert session.epochs == [1, 8 + OUTBID]
    again = make_tunnel(1)
    owner.tunnels.add(again)
    session.answers = [shown(owner, again, 10_000 * times) for times in range(1, 100)]
    session.binds.clear()
    with pytest.raises(TakenOverError):
        await owner.tunnels.bind(session, again)  # type: ignore[arg-type]
    assert len(session.binds) == 1 + OUTBIDS


async def test_what_shows_no_owner_is_one_node_s_word(owner: Owner, make_tunnel: Callable[..., HeldTunnel]) -> None:
    """No claim, one of another key, of a lower epoch, of the year 2100, or forged: nothing is signed for it."""
    session, held = owner.session(), make_tunnel()
    owner.tunnels.add(held)
    genuine = shown(owner, held, 5).claim
    for claim in (
        b"",
        b"nonsense",
        shown(owner, make_tunnel(), 5).claim,
        shown(owner, held, -60_000).claim,
        shown(owner, held, 70 * 365 * 86_400_000).claim,
        genuine[:-1] + bytes([genuine[-1] ^ 1]),
    ):
        session.binds.clear()
        session.answers = [BindRefused(EPOCH, claim)]
        with pytest.raises(BindRefused, match="taken"):
            await owner.tunnels.bind(session, held)  # type: ignore[arg-type]
        assert len(session.binds) == 1


async def test_the_time_is_asked_for_once(owner: Owner, make_tunnel: Callable[..., HeldTunnel]) -> None:
    """Then it is the node's word alone."""
    session, held = owner.session(), make_tunnel()
    owner.tunnels.add(held)
    session.answers = [BindRefused(TIME)]
    await owner.tunnels.bind(session, held)  # type: ignore[arg-type]
    assert (owner.asked_time, session.epochs) == (1, [1, 2])
    again = make_tunnel(1)
    owner.tunnels.add(again)
    session.answers = [BindRefused(TIME)] * 2
    with pytest.raises(BindRefused, match="wrong"):
        await owner.tunnels.bind(session, again)  # type: ignore[arg-type]
    assert owner.asked_time == 2


async def test_what_is_refused_for_now_is_tried_in_the_background(
    owner: Owner, opened: tuple[HeldTunnel, FakeSession]
) -> None:
    """bind_again returns after the first answer; the tries go on until it is bound."""
    held, _ = opened
    session = owner.session(b"two")
    session.answers = [BindRefused(FULL)] * 3
    await owner.tunnels.bind_again(session, held)  # type: ignore[arg-type]
    assert session.epochs == [2]
    await owner.settled()
    assert session.epochs == [2, 3, 4, 5]
    assert held.held_by(session.credentials)


async def test_the_tries_end_with_their_session(owner: Owner, opened: tuple[HeldTunnel, FakeSession]) -> None:
    """And take no epoch after it."""
    held, _ = opened
    session = owner.session(b"two")
    session.answers = [BindRefused(FULL)]
    await owner.tunnels.bind_again(session, held)  # type: ignore[arg-type]
    session.up = False
    next_one = owner.session(b"three")
    await owner.tunnels.bind_again(next_one, held)  # type: ignore[arg-type]
    await owner.settled()
    assert held.held_by(next_one.credentials)
    assert (session.epochs, next_one.epochs) == ([2], [3])


async def test_the_tries_end_with_their_tunnel(owner: Owner, opened: tuple[HeldTunnel, FakeSession]) -> None:
    """Once it is closed."""
    held, _ = opened
    session = owner.session(b"two")
    session.answers = [BindRefused(FULL)] * 100
    await owner.tunnels.bind_again(session, held)  # type: ignore[arg-type]
    owner.tunnels.withdraw(held)
    await owner.settled()
    assert session.epochs == [2]


async def test_what_is_refused_for_good_is_lost(owner: Owner, opened: tuple[HeldTunnel, FakeSession]) -> None:
    """Once somebody else has confirmed it, with the reason; the table lets go of it."""
    held, _ = opened
    session = owner.session(b"two")
    session.answers = [BindRefused(QUOTA)]
    owner.final = QUOTA.error()
    await owner.tunnels.bind_again(session, held)  # type: ignore[arg-type]
    assert held.lost is not None
    assert isinstance(held.lost.reason, QuotaError)
    assert owner.doubted == [QUOTA]
    owner.presences._send_rest()
    assert session.presences[-1].ids == frozenset()  # what a node did not bind is held nowhere
    assert (len(owner.tunnels), owner.tunnels.table, owner.times_empty) == (0, {}, 1)


async def test_what_one_node_refuses_is_bound_at_another(owner: Owner, opened: tuple[HeldTunnel, FakeSession]) -> None:
    """The session is being left, and nothing more is tried on it."""
    held, _ = opened
    session = owner.session(b"two")
    session.answers = [BindRefused(QUOTA)]
    owner.elsewhere = True
    await owner.tunnels.bind_again(session, held)  # type: ignore[arg-type]
    await owner.settled()
    assert (held.lost, len(session.binds)) == (None, 1)
    assert owner.tunnels.missing_on(session) == [held]  # type: ignore[arg-type]


async def test_what_nobody_else_can_confirm_is_tried_again(
    owner: Owner, opened: tuple[HeldTunnel, FakeSession]
) -> None:
    """At the node that refuses it."""
    held, _ = opened
    session = owner.session(b"two")
    session.answers = [BindRefused(QUOTA)] * 3
    await owner.tunnels.bind_again(session, held)  # type: ignore[arg-type]
    await owner.settled()
    assert owner.doubted == [QUOTA] * 3
    assert held.held_by(session.credentials)


async def test_unbound_for_now_is_bound_again(owner: Owner, opened: tuple[HeldTunnel, FakeSession]) -> None:
    """With the next epoch."""
    held, session = opened
    await owner.tunnels.unbound(session, held.label, FULL, b"")  # type: ignore[arg-type]
    assert session.epochs == [1, 2]
    assert held.held_by(session.credentials)


async def test_unbound_because_somebody_took_it_is_lost(owner: Owner, opened: tuple[HeldTunnel, FakeSession]) -> None:
    """No epoch is tried after that, and nobody needs to confirm it: the claim shows it."""
    held, session = opened
    claim = shown(owner, held, 9).claim
    await owner.tunnels.unbound(session, held.label, EPOCH, claim)  # type: ignore[arg-type]
    assert held.lost is not None
    assert isinstance(held.lost.reason, TakenOverError)
    assert session.epochs == [1]
    assert owner.doubted == []


@pytest.mark.parametrize("failure", [EPOCH, QUOTA, REVOKED])
async def test_unbound_without_proof_is_one_node_s_word(
    owner: Owner, opened: tuple[HeldTunnel, FakeSession], failure: Failure
) -> None:
    """Lost if it is confirmed, left to the next session if another node may differ, and bound here again otherwise."""
    held, session = opened
    await owner.tunnels.unbound(session, held.label, failure, b"")  # type: ignore[arg-type]
    assert session.epochs == [1, 2]
    owner.elsewhere = True
    await owner.tunnels.unbound(session, held.label, failure, b"")  # type: ignore[arg-type]
    assert session.epochs == [1, 2]
    assert owner.tunnels.missing_on(session) == [held]  # type: ignore[arg-type]
    await owner.tunnels.bind_again(session, held)  # type: ignore[arg-type]
    owner.final = AuthError("revoked")
    await owner.tunnels.unbound(session, held.label, failure, b"")  # type: ignore[arg-type]
    assert held.lost is not None
    assert owner.doubted == [failure] * 3


async def test_unbound_by_a_node_that_it_was_taken_from_says_nothing(
    owner: Owner, opened: tuple[HeldTunnel, FakeSession]
) -> None:
    """That is our own takeover, seen from the other side; an unknown label says nothing either."""
    held, session = opened
    other = owner.session(b"two")
    await owner.tunnels.bind_again(other, held)  # type: ignore[arg-type]
    claim = held.latest.encoded
    await owner.tunnels.unbound(session, held.label, EPOCH, claim)  # type: ignore[arg-type]
    await owner.tunnels.unbound(other, "unknown", EPOCH, claim)  # type: ignore[arg-type]
    assert held.lost is None
    assert other.epochs == [2]
