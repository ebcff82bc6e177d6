"""portway.engine.tunnel_set: the tunnels of a link, bound again on whatever session there is."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from portway.engine import tunnel_set as module
from portway.engine.dialogue import BindRequest, SessionCredentials, TunnelBound
from portway.engine.failures import Failure
from portway.engine.held_tunnel import HeldTunnel
from portway.engine.session import BindRefused, SessionOver
from portway.engine.tunnel_set import EPOCH_TRIES, UNBIND_AGAIN, TunnelSet
from portway.errors import AuthError, QuotaError, RemoteError
from portway_carrier.contract import LocalService
from portway_proto.v1.lane_pb2 import FailureCode
from portway_runtime.tasks import Tasks

EPOCH = Failure(FailureCode.FAILURE_CODE_EPOCH, "taken")
QUOTA = Failure(FailureCode.FAILURE_CODE_QUOTA, "no more")
FULL = Failure(FailureCode.FAILURE_CODE_OVERLOADED, "full")


class FakeSession:
    """Answers BIND with what `answers` has next, and with BOUND when it has nothing."""

    def __init__(self, key: bytes = b"one") -> None:
        self.credentials = SessionCredentials(key, b"secret")
        self.up = True
        self.answers: list[Exception] = []
        self.binds: list[BindRequest] = []
        self.unbinds: list[str] = []

    async def bind(self, bind: BindRequest) -> TunnelBound:
        await asyncio.sleep(0)
        if not self.up:
            raise SessionOver("gone")
        self.binds.append(bind)
        if self.answers:
            raise self.answers.pop(0)
        return TunnelBound(len(self.binds), "a.test", 443, "", 0, b"")

    def unbind(self, label: str) -> None:
        self.unbinds.append(label)

    @property
    def epochs(self) -> list[int]:
        return [bind.epoch for bind in self.binds]


class Owner:
    """A TunnelSet with its surroundings: a clock, tasks, and how often it said that it was empty."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.emptied = 0
        self.tasks = Tasks("test")
        self.tunnels = TunnelSet(self.tasks, self._emptied, lambda: self.now)

    def _emptied(self) -> None:
        self.emptied += 1

    async def settled(self) -> None:
        """Until nothing is tried in the background any more."""
        while self.tasks._tasks:
            await asyncio.wait(set(self.tasks._tasks))


@pytest.fixture
async def owner(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Owner]:
    def at_once() -> Iterator[float]:
        while True:
            yield 0.0

    monkeypatch.setattr(module, "pauses", at_once)
    owner = Owner()
    yield owner
    await owner.tasks.close()


@pytest.fixture
async def opened(owner: Owner, make_tunnel: Callable[..., HeldTunnel]) -> tuple[HeldTunnel, FakeSession]:
    """A tunnel that is open, on the session that holds it."""
    session, held = FakeSession(), make_tunnel()
    owner.tunnels.add(held)
    await owner.tunnels.bind(session, held)  # type: ignore[arg-type]
    return held, session


async def test_a_tunnel_is_served_from_before_its_bind(owner: Owner, make_tunnel: Callable[..., HeldTunnel]) -> None:
    """A visit may overtake BOUND."""
    held = make_tunnel(1234)
    owner.tunnels.add(held)
    assert owner.tunnels.table == {held.label: LocalService(1234)}
    assert len(owner.tunnels) == 1
    assert not owner.tunnels.any_open
    await owner.tunnels.bind(FakeSession(), held)  # type: ignore[arg-type]
    assert owner.tunnels.any_open


async def test_taken_epochs_are_passed_over_a_few_times(owner: Owner, make_tunnel: Callable[..., HeldTunnel]) -> None:
    """An answer that was lost may have used one up."""
    session, held = FakeSession(), make_tunnel()
    owner.tunnels.add(held)
    session.answers = [BindRefused(EPOCH)] * (EPOCH_TRIES - 1)
    await owner.tunnels.bind(session, held)  # type: ignore[arg-type]
    assert session.epochs == list(range(1, EPOCH_TRIES + 1))


async def test_epochs_that_are_taken_again_and_again_are_refused(
    owner: Owner, make_tunnel: Callable[..., HeldTunnel]
) -> None:
    """Somebody else has the seed."""
    session, held = FakeSession(), make_tunnel()
    owner.tunnels.add(held)
    session.answers = [BindRefused(EPOCH)] * 100
    with pytest.raises(BindRefused, match="taken"):
        await owner.tunnels.bind(session, held)  # type: ignore[arg-type]
    assert len(session.binds) == EPOCH_TRIES


async def test_what_a_session_does_not_hold_is_missing_on_it(
    owner: Owner, opened: tuple[HeldTunnel, FakeSession], make_tunnel: Callable[..., HeldTunnel]
) -> None:
    """Only tunnels that were open once: who opens one binds it."""
    held, session = opened
    owner.tunnels.add(make_tunnel())
    assert owner.tunnels.missing_on(session) == []  # type: ignore[arg-type]
    other = FakeSession(b"two")
    assert owner.tunnels.missing_on(other) == [held]  # type: ignore[arg-type]
    await owner.tunnels.bind_again(other, held)  # type: ignore[arg-type]
    assert owner.tunnels.missing_on(other) == []  # type: ignore[arg-type]
    assert other.epochs == [2]


async def test_what_is_refused_for_now_is_tried_in_the_background(
    owner: Owner, opened: tuple[HeldTunnel, FakeSession]
) -> None:
    """bind_again returns after the first answer; the tries go on until it is bound."""
    held, _ = opened
    session = FakeSession(b"two")
    session.answers = [BindRefused(FULL)] * 3
    await owner.tunnels.bind_again(session, held)  # type: ignore[arg-type]
    assert session.epochs == [2]
    await owner.settled()
    assert session.epochs == [2, 3, 4, 5]
    assert held.held_by(session.credentials)


async def test_the_tries_end_with_their_session(owner: Owner, opened: tuple[HeldTunnel, FakeSession]) -> None:
    """And take no epoch after it."""
    held, _ = opened
    session, next_one = FakeSession(b"two"), FakeSession(b"three")
    session.answers = [BindRefused(FULL)]
    await owner.tunnels.bind_again(session, held)  # type: ignore[arg-type]
    session.up = False
    await owner.tunnels.bind_again(next_one, held)  # type: ignore[arg-type]
    await owner.settled()
    assert held.held_by(next_one.credentials)
    assert (session.epochs, next_one.epochs) == ([2], [3])


async def test_the_tries_end_with_their_tunnel(owner: Owner, opened: tuple[HeldTunnel, FakeSession]) -> None:
    """Once it is closed."""
    held, _ = opened
    session = FakeSession(b"two")
    session.answers = [BindRefused(FULL)] * 100
    await owner.tunnels.bind_again(session, held)  # type: ignore[arg-type]
    owner.tunnels.withdraw(held)
    await owner.settled()
    assert session.epochs == [2]


async def test_what_is_refused_for_good_is_lost(owner: Owner, opened: tuple[HeldTunnel, FakeSession]) -> None:
    """With the node's reason; the table lets go of it."""
    held, _ = opened
    session = FakeSession(b"two")
    session.answers = [BindRefused(QUOTA)]
    await owner.tunnels.bind_again(session, held)  # type: ignore[arg-type]
    assert held.lost is not None
    assert isinstance(held.lost.reason, QuotaError)
    assert (len(owner.tunnels), owner.tunnels.table, owner.emptied) == (0, {}, 1)


async def test_a_chain_that_is_used_up_is_lost(
    owner: Owner, opened: tuple[HeldTunnel, FakeSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no next epoch to try."""
    held, _ = opened

    def used_up(session: SessionCredentials) -> BindRequest:
        raise RemoteError("its epochs are used up")

    monkeypatch.setattr(held, "bind_on", used_up)
    await owner.tunnels.bind_again(FakeSession(b"two"), held)  # type: ignore[arg-type]
    assert held.lost is not None


async def test_unbound_for_now_is_to_be_bound_again(owner: Owner, opened: tuple[HeldTunnel, FakeSession]) -> None:
    """It is missing on the session from then on."""
    held, session = opened
    assert owner.tunnels.unbound(session, held.label, FULL)  # type: ignore[arg-type]
    assert owner.tunnels.missing_on(session) == [held]  # type: ignore[arg-type]


async def test_unbound_because_somebody_took_it_is_lost(owner: Owner, opened: tuple[HeldTunnel, FakeSession]) -> None:
    """No epoch is tried after that."""
    held, session = opened
    assert not owner.tunnels.unbound(session, held.label, EPOCH)  # type: ignore[arg-type]
    assert held.lost is not None
    assert session.epochs == [1]


async def test_unbound_by_a_node_that_it_was_taken_from_says_nothing(
    owner: Owner, opened: tuple[HeldTunnel, FakeSession]
) -> None:
    """That is our own takeover, seen from the other side; an unknown label says nothing either."""
    held, session = opened
    other = FakeSession(b"two")
    await owner.tunnels.bind_again(other, held)  # type: ignore[arg-type]
    assert not owner.tunnels.unbound(session, held.label, EPOCH)  # type: ignore[arg-type]
    assert not owner.tunnels.unbound(other, "unknown", EPOCH)  # type: ignore[arg-type]
    assert held.lost is None


async def test_closing_tells_whether_a_node_is_to_be_told(
    owner: Owner, opened: tuple[HeldTunnel, FakeSession], make_tunnel: Callable[..., HeldTunnel]
) -> None:
    """Not of one that was never shown, nor twice."""
    held, _ = opened
    never_shown = make_tunnel()
    owner.tunnels.add(never_shown)
    assert not owner.tunnels.withdraw(never_shown)
    assert owner.emptied == 0
    assert owner.tunnels.withdraw(held)
    assert owner.emptied == 1
    assert not owner.tunnels.withdraw(held)


async def test_a_resumed_session_is_told_what_it_may_have_missed(
    owner: Owner, opened: tuple[HeldTunnel, FakeSession]
) -> None:
    """However long it was away; a new one knows nothing of it."""
    held, session = opened
    owner.tunnels.withdraw(held)
    owner.now += 10 * UNBIND_AGAIN
    owner.tunnels.withdraw_again(session, resumed=True)  # type: ignore[arg-type]
    assert session.unbinds == [held.label]
    owner.tunnels.withdraw_again(session, resumed=False)  # type: ignore[arg-type]
    owner.tunnels.withdraw_again(session, resumed=True)  # type: ignore[arg-type]
    assert session.unbinds == [held.label]


async def test_what_has_arrived_long_ago_is_not_said_again(
    owner: Owner, opened: tuple[HeldTunnel, FakeSession]
) -> None:
    """A lost connection takes only the last seconds with it."""
    held, session = opened
    owner.tunnels.withdraw(held)
    owner.now += UNBIND_AGAIN + 1
    owner.tunnels.forget_withdrawn()
    owner.tunnels.withdraw_again(session, resumed=True)  # type: ignore[arg-type]
    assert session.unbinds == []


async def test_all_are_lost_at_once(
    owner: Owner, opened: tuple[HeldTunnel, FakeSession], make_tunnel: Callable[..., HeldTunnel]
) -> None:
    """But those that are only being opened, whose openers are told."""
    held, _ = opened
    opening = make_tunnel()
    owner.tunnels.add(opening)
    owner.tunnels.lose_all(AuthError("revoked"))
    assert held.lost is not None
    assert opening.lost is None
    assert len(owner.tunnels) == 1
