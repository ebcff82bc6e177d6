"""portway.engine.tunnel_set: the tunnels of a link, bound again on whatever session there is."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from portway.engine import tunnel_set as module
from portway.engine.dialogue import BindRequest, SessionCredentials, TunnelBound
from portway.engine.failures import Failure
from portway.engine.held_tunnel import OUTBIDS, HeldTunnel
from portway.engine.key_file import KeyFile
from portway.engine.presences import Presences
from portway.engine.session import BindRefused, SessionOver
from portway.engine.signer import OUTBID, Signer
from portway.engine.tunnel_set import UNBIND_AGAIN, TunnelSet
from portway.errors import AuthError, Error, InvalidError, QuotaError, TakenOverError
from portway_carrier.contract import LocalService
from portway_proto.v1.lane_pb2 import FailureCode
from portway_proto.wire.statements import Presence
from portway_runtime.clocks import RegistryClock
from portway_runtime.tasks import Tasks
from portway_testkit.fakes.fake_link import FakeDirectory, node
from portway_testkit.signers import CLUSTER_ID, NOW_MS

EPOCH = Failure(FailureCode.FAILURE_CODE_EPOCH, "taken")
QUOTA = Failure(FailureCode.FAILURE_CODE_QUOTA, "no more")
TIME = Failure(FailureCode.FAILURE_CODE_TIME, "wrong time")
REVOKED = Failure(FailureCode.FAILURE_CODE_REVOKED, "revoked")
FULL = Failure(FailureCode.FAILURE_CODE_OVERLOADED, "full")


class FakeSession:
    """Answers BIND with what `answers` has next, and with BOUND when it has nothing."""

    def __init__(self, key: bytes = b"one") -> None:
        self.credentials = SessionCredentials(key, b"secret")
        self.up = True
        self.answers: list[Exception] = []
        self.binds: list[BindRequest] = []
        self.unbinds: list[str] = []
        self.presences: list[Presence] = []
        self.node = node(key.decode())

    async def bind(self, bind: BindRequest) -> TunnelBound:
        assert self.presences[-1].places(bind.claim)
        await asyncio.sleep(0)
        if not self.up:
            raise SessionOver("gone")
        self.binds.append(bind)
        if self.answers:
            raise self.answers.pop(0)
        return TunnelBound(len(self.binds), "a.test", 443, "", 0, b"")

    def present(self, presence: Presence, grant: str) -> None:
        self.presences.append(presence)

    def unbind(self, label: str) -> None:
        self.unbinds.append(label)

    @property
    def epochs(self) -> list[int]:
        """From the time of the test on, beginning with 1."""
        return [bind.claim.epoch - NOW_MS + 1 for bind in self.binds]


class Owner:
    """The owner of a TunnelSet: clocks, tasks, how often it was empty, and what nodes refused.

    A refusal is final with `final`; with `elsewhere` another node is to be tried.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.times_empty = 0
        self.doubted: list[Failure] = []
        self.final: Error | None = None
        self.elsewhere = False
        self.asked_time = 0
        self.tasks = Tasks("test")
        self.signer = Signer(RegistryClock(lambda: 0.0, lambda: 0.0))
        self.signer.learn(CLUSTER_ID, NOW_MS)
        self.presences = Presences(FakeDirectory(), self.signer, lambda: self.now)  # type: ignore[arg-type]
        self.tunnels = TunnelSet(self.tasks, self, self.signer, self.presences, lambda: self.now)

    def session(self, key: bytes = b"one") -> FakeSession:
        """The current session from now on."""
        session = FakeSession(key)
        self.presences.begin(session, resumed=False)  # type: ignore[arg-type]
        return session

    async def refused(self, session: object, held: HeldTunnel, failure: Failure) -> bool:
        self.doubted.append(failure)
        if self.final is not None:
            raise self.final
        return self.elsewhere

    async def out_of_time(self, session: object) -> None:
        self.asked_time += 1

    def emptied(self) -> None:
        self.times_empty += 1

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
    session, held = owner.session(), make_tunnel()
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
    await owner.tunnels.bind(owner.session(), held)  # type: ignore[arg-type]
    assert owner.tunnels.any_open


def shown(owner: Owner, held: HeldTunnel, above: int, by: Signer | None = None) -> BindRefused:
    """EPOCH with a claim so many epochs above the time of the test, by another program with the same key or `by`."""
    by = by or other_program()
    return BindRefused(EPOCH, by.claim(held._key, NOW_MS + above, "two", b"").encoded)


def other_program() -> Signer:
    signer = Signer()
    signer.learn(CLUSTER_ID, NOW_MS)
    return signer


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


async def test_one_presence_is_for_many(owner: Owner, make_tunnel: Callable[..., HeldTunnel]) -> None:
    """All claims of a new session are signed and listed before the first BIND."""
    session = owner.session()
    many = [make_tunnel(port) for port in range(1, 20)]
    for held in many:
        owner.tunnels.add(held)
        await owner.tunnels.bind(session, held)  # type: ignore[arg-type]
    assert len(session.presences) == len(many)
    next_one = owner.session(b"two")
    assert owner.tunnels.announce_missing(next_one) == many  # type: ignore[arg-type]
    for held in many:
        await owner.tunnels.bind_again(next_one, held)  # type: ignore[arg-type]
    assert [len(presence.ids) for presence in next_one.presences] == [len(many)]
    assert {bind.label for bind in next_one.binds} == {held.label for held in many}


async def test_a_session_has_so_many_claims_and_no_more(
    owner: Owner, make_tunnel: Callable[..., HeldTunnel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next tunnel is an error that says what to do."""
    monkeypatch.setattr(module, "MAX_CLAIMS", 2)
    for port in (1, 2):
        owner.tunnels.add(make_tunnel(port))
    with pytest.raises(InvalidError, match="use another process"):
        owner.tunnels.add(make_tunnel(3))


async def test_nothing_is_signed_for_a_session_that_is_over(
    owner: Owner, opened: tuple[HeldTunnel, FakeSession]
) -> None:
    """It would take the tunnel from the session that has it."""
    held, session = opened
    gone = FakeSession(b"gone")
    gone.up = False
    with pytest.raises(SessionOver):
        await owner.tunnels.bind(gone, held)  # type: ignore[arg-type]
    assert held.held_by(session.credentials)


async def test_what_a_session_does_not_hold_is_missing_on_it(
    owner: Owner, opened: tuple[HeldTunnel, FakeSession], make_tunnel: Callable[..., HeldTunnel]
) -> None:
    """Only tunnels that were open once: who opens one binds it."""
    held, session = opened
    owner.tunnels.add(make_tunnel())
    assert owner.tunnels.missing_on(session) == []  # type: ignore[arg-type]
    other = owner.session(b"two")
    assert owner.tunnels.missing_on(other) == [held]  # type: ignore[arg-type]
    await owner.tunnels.bind_again(other, held)  # type: ignore[arg-type]
    assert owner.tunnels.missing_on(other) == []  # type: ignore[arg-type]
    assert other.epochs == [2]


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


async def test_closing_tells_whether_a_node_is_to_be_told(
    owner: Owner, opened: tuple[HeldTunnel, FakeSession], make_tunnel: Callable[..., HeldTunnel]
) -> None:
    """Not of one that was never shown, nor twice."""
    held, _ = opened
    never_shown = make_tunnel()
    owner.tunnels.add(never_shown)
    assert not owner.tunnels.withdraw(never_shown)
    assert owner.times_empty == 0
    assert owner.tunnels.withdraw(held)
    assert owner.times_empty == 1
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


async def test_a_label_that_is_open_again_is_not_withdrawn(
    owner: Owner, make_tunnel: Callable[..., HeldTunnel], tmp_path: Path
) -> None:
    """A key file's comes back: a resumed session that is told of the first one's end would end the second."""
    key_file, session = KeyFile(tmp_path / "key"), owner.session()
    first, second = (make_tunnel(port, key_file=key_file) for port in (1, 2))
    owner.tunnels.add(first)
    await owner.tunnels.bind(session, first)  # type: ignore[arg-type]
    owner.tunnels.withdraw(first)
    owner.tunnels.add(second)
    await owner.tunnels.bind(session, second)  # type: ignore[arg-type]
    owner.tunnels.withdraw(first)
    owner.tunnels.withdraw_again(session, resumed=True)  # type: ignore[arg-type]
    assert session.unbinds == []
    assert owner.tunnels.table == {second.label: LocalService(2)}


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
