"""portway.engine.bindings: the tunnels of a link, bound again on whatever session there is."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from portway.engine import bindings as module
from portway.engine.binding import Binding
from portway.engine.bindings import EPOCH_TRIES, UNBIND_AGAIN, Bindings
from portway.engine.dialogue import BindRequest, SessionKey, TunnelBound
from portway.engine.failures import Failure
from portway.engine.session import BindRefused, SessionOver
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
        self.key = SessionKey(key, b"secret")
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
    """A Bindings with its surroundings: a clock, tasks, and how often it said that it was empty."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.emptied = 0
        self.tasks = Tasks("test")
        self.bindings = Bindings(self.tasks, self._emptied, lambda: self.now)

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
async def opened(owner: Owner, make_binding: Callable[..., Binding]) -> tuple[Binding, FakeSession]:
    """A tunnel that is open, on the session that holds it."""
    session, binding = FakeSession(), make_binding()
    owner.bindings.add(binding)
    await owner.bindings.bind(session, binding)  # type: ignore[arg-type]
    return binding, session


async def test_a_tunnel_is_served_from_before_its_bind(owner: Owner, make_binding: Callable[..., Binding]) -> None:
    """A visit may overtake BOUND."""
    binding = make_binding(1234)
    owner.bindings.add(binding)
    assert owner.bindings.table == {binding.label: LocalService(1234)}
    assert len(owner.bindings) == 1
    assert not owner.bindings.opened
    await owner.bindings.bind(FakeSession(), binding)  # type: ignore[arg-type]
    assert owner.bindings.opened


async def test_taken_epochs_are_passed_over_a_few_times(owner: Owner, make_binding: Callable[..., Binding]) -> None:
    """An answer that was lost may have used one up."""
    session, binding = FakeSession(), make_binding()
    owner.bindings.add(binding)
    session.answers = [BindRefused(EPOCH)] * (EPOCH_TRIES - 1)
    await owner.bindings.bind(session, binding)  # type: ignore[arg-type]
    assert session.epochs == list(range(1, EPOCH_TRIES + 1))


async def test_epochs_that_are_taken_again_and_again_are_refused(
    owner: Owner, make_binding: Callable[..., Binding]
) -> None:
    """Somebody else has the seed."""
    session, binding = FakeSession(), make_binding()
    owner.bindings.add(binding)
    session.answers = [BindRefused(EPOCH)] * 100
    with pytest.raises(BindRefused, match="taken"):
        await owner.bindings.bind(session, binding)  # type: ignore[arg-type]
    assert len(session.binds) == EPOCH_TRIES


async def test_what_a_session_does_not_hold_is_missing_on_it(
    owner: Owner, opened: tuple[Binding, FakeSession], make_binding: Callable[..., Binding]
) -> None:
    """Only tunnels that were open once: who opens one binds it."""
    binding, session = opened
    owner.bindings.add(make_binding())
    assert owner.bindings.missing_on(session) == []  # type: ignore[arg-type]
    other = FakeSession(b"two")
    assert owner.bindings.missing_on(other) == [binding]  # type: ignore[arg-type]
    await owner.bindings.bind_again(other, binding)  # type: ignore[arg-type]
    assert owner.bindings.missing_on(other) == []  # type: ignore[arg-type]
    assert other.epochs == [2]


async def test_what_is_refused_for_now_is_tried_in_the_background(
    owner: Owner, opened: tuple[Binding, FakeSession]
) -> None:
    """bind_again returns after the first answer; the tries go on until it is bound."""
    binding, _ = opened
    session = FakeSession(b"two")
    session.answers = [BindRefused(FULL)] * 3
    await owner.bindings.bind_again(session, binding)  # type: ignore[arg-type]
    assert session.epochs == [2]
    await owner.settled()
    assert session.epochs == [2, 3, 4, 5]
    assert binding.held_by(session.key)


async def test_the_tries_end_with_their_session(owner: Owner, opened: tuple[Binding, FakeSession]) -> None:
    """And take no epoch after it."""
    binding, _ = opened
    session, next_one = FakeSession(b"two"), FakeSession(b"three")
    session.answers = [BindRefused(FULL)]
    await owner.bindings.bind_again(session, binding)  # type: ignore[arg-type]
    session.up = False
    await owner.bindings.bind_again(next_one, binding)  # type: ignore[arg-type]
    await owner.settled()
    assert binding.held_by(next_one.key)
    assert (session.epochs, next_one.epochs) == ([2], [3])


async def test_the_tries_end_with_their_tunnel(owner: Owner, opened: tuple[Binding, FakeSession]) -> None:
    """Once it is closed."""
    binding, _ = opened
    session = FakeSession(b"two")
    session.answers = [BindRefused(FULL)] * 100
    await owner.bindings.bind_again(session, binding)  # type: ignore[arg-type]
    owner.bindings.withdraw(binding)
    await owner.settled()
    assert session.epochs == [2]


async def test_what_is_refused_for_good_is_lost(owner: Owner, opened: tuple[Binding, FakeSession]) -> None:
    """With the node's reason; the table lets go of it."""
    binding, _ = opened
    session = FakeSession(b"two")
    session.answers = [BindRefused(QUOTA)]
    await owner.bindings.bind_again(session, binding)  # type: ignore[arg-type]
    assert binding.lost is not None
    assert isinstance(binding.lost.reason, QuotaError)
    assert (len(owner.bindings), owner.bindings.table, owner.emptied) == (0, {}, 1)


async def test_a_chain_that_is_used_up_is_lost(
    owner: Owner, opened: tuple[Binding, FakeSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no next epoch to try."""
    binding, _ = opened

    def used_up(session: SessionKey) -> BindRequest:
        raise RemoteError("its epochs are used up")

    monkeypatch.setattr(binding, "bind_on", used_up)
    await owner.bindings.bind_again(FakeSession(b"two"), binding)  # type: ignore[arg-type]
    assert binding.lost is not None


async def test_unbound_for_now_is_to_be_bound_again(owner: Owner, opened: tuple[Binding, FakeSession]) -> None:
    """It is missing on the session from then on."""
    binding, session = opened
    assert owner.bindings.unbound(session, binding.label, FULL)  # type: ignore[arg-type]
    assert owner.bindings.missing_on(session) == [binding]  # type: ignore[arg-type]


async def test_unbound_because_somebody_took_it_is_lost(owner: Owner, opened: tuple[Binding, FakeSession]) -> None:
    """No epoch is tried after that."""
    binding, session = opened
    assert not owner.bindings.unbound(session, binding.label, EPOCH)  # type: ignore[arg-type]
    assert binding.lost is not None
    assert session.epochs == [1]


async def test_unbound_by_a_node_that_it_was_taken_from_says_nothing(
    owner: Owner, opened: tuple[Binding, FakeSession]
) -> None:
    """That is our own takeover, seen from the other side; an unknown label says nothing either."""
    binding, session = opened
    other = FakeSession(b"two")
    await owner.bindings.bind_again(other, binding)  # type: ignore[arg-type]
    assert not owner.bindings.unbound(session, binding.label, EPOCH)  # type: ignore[arg-type]
    assert not owner.bindings.unbound(other, "unknown", EPOCH)  # type: ignore[arg-type]
    assert binding.lost is None


async def test_closing_tells_whether_a_node_is_to_be_told(
    owner: Owner, opened: tuple[Binding, FakeSession], make_binding: Callable[..., Binding]
) -> None:
    """Not of one that was never shown, nor twice."""
    binding, _ = opened
    never_shown = make_binding()
    owner.bindings.add(never_shown)
    assert not owner.bindings.withdraw(never_shown)
    assert owner.emptied == 0
    assert owner.bindings.withdraw(binding)
    assert owner.emptied == 1
    assert not owner.bindings.withdraw(binding)


async def test_a_resumed_session_is_told_what_it_may_have_missed(
    owner: Owner, opened: tuple[Binding, FakeSession]
) -> None:
    """However long it was away; a new one knows nothing of it."""
    binding, session = opened
    owner.bindings.withdraw(binding)
    owner.now += 10 * UNBIND_AGAIN
    owner.bindings.withdraw_again(session, resumed=True)  # type: ignore[arg-type]
    assert session.unbinds == [binding.label]
    owner.bindings.withdraw_again(session, resumed=False)  # type: ignore[arg-type]
    owner.bindings.withdraw_again(session, resumed=True)  # type: ignore[arg-type]
    assert session.unbinds == [binding.label]


async def test_what_has_arrived_long_ago_is_not_said_again(owner: Owner, opened: tuple[Binding, FakeSession]) -> None:
    """A lost connection takes only the last seconds with it."""
    binding, session = opened
    owner.bindings.withdraw(binding)
    owner.now += UNBIND_AGAIN + 1
    owner.bindings.forget_withdrawn()
    owner.bindings.withdraw_again(session, resumed=True)  # type: ignore[arg-type]
    assert session.unbinds == []


async def test_all_are_lost_at_once(
    owner: Owner, opened: tuple[Binding, FakeSession], make_binding: Callable[..., Binding]
) -> None:
    """But those that are only being opened, whose openers are told."""
    binding, _ = opened
    opening = make_binding()
    owner.bindings.add(opening)
    owner.bindings.lose_all(AuthError("revoked"))
    assert binding.lost is not None
    assert opening.lost is None
    assert len(owner.bindings) == 1
