"""portway.engine.presences: when the node of a session is told what it holds."""

import asyncio
from typing import Any

import pytest
from portway.engine import presences as module
from portway.engine.presences import Presences
from portway.engine.signer import Signer
from portway_proto.wire.limits import PRESENCE_INTERVAL
from portway_proto.wire.statements import Claim, SigningKey
from portway_runtime.clocks import RegistryClock
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.fake_link import FakeDirectory, FakeSession
from portway_testkit.signers import CLUSTER_ID, NOW_MS


class Teller:
    """Presences with their surroundings: a clock that counts sleep, a signer, and sessions to begin."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.signer = Signer(RegistryClock(lambda: 0.0, self.clock))
        self.signer.learn(CLUSTER_ID, NOW_MS)
        self.directory = FakeDirectory()
        directory: Any = self.directory
        self.presences = Presences(directory, self.signer, self.clock)

    def begin(self, name: str, *, resumed: bool = False) -> FakeSession:
        session: Any = FakeSession(name)
        self.presences.begin(session, resumed=resumed)
        assert isinstance(session, FakeSession)
        return session

    def claim(self, node: str = "n1") -> Claim:
        return self.signer.claim(SigningKey(), self.signer.epoch_after(0), node, b"")


@pytest.fixture
async def teller(monkeypatch: pytest.MonkeyPatch) -> Teller:
    monkeypatch.setattr(module, "GATHER_CLOSED", 0.0)
    return Teller()


async def gathered() -> None:
    """What is sent after closing has been sent."""
    closed = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.001, closed.set_result, None)
    await closed


async def test_one_is_sent_before_each_claim_that_the_latest_does_not_list(teller: Teller) -> None:
    """And none for a claim that it lists."""
    session, one, two, three = teller.begin("n1"), teller.claim(), teller.claim(), teller.claim()
    teller.presences.list([one])
    teller.presences.list([one])
    teller.presences.list([two, three])
    assert [presence.ids for presence in session.presences] == [{one.id}, {one.id, two.id, three.id}]
    assert {presence.node for presence in session.presences} == {"n1"}


async def test_the_next_claim_of_a_tunnel_replaces_the_one_before(teller: Teller) -> None:
    """It is one tunnel."""
    session, key = teller.begin("n1"), SigningKey()
    first, second = (teller.signer.claim(key, NOW_MS + number, "n1", b"") for number in range(2))
    teller.presences.list([first])
    teller.presences.list([second])
    assert session.presences[-1].ids == {second.id}


async def test_one_without_closed_tunnels_follows(teller: Teller) -> None:
    """One for many; none for a claim that was never listed."""
    session = teller.begin("n1")
    claims = [teller.claim() for _ in range(5)]
    teller.presences.list(claims)
    for claim in claims[:3]:
        teller.presences.drop(claim.label)
    teller.presences.drop(teller.claim().label)
    await gathered()
    assert [len(presence.ids) for presence in session.presences] == [5, 2]


async def test_one_is_due_every_five_minutes_sleep_included(teller: Teller) -> None:
    """A machine that slept renews it at its first look at the clock; a session without tunnels has none."""
    session = teller.begin("n1")
    teller.presences.renew_if_due()
    teller.presences.list([teller.claim()])
    teller.clock.now += PRESENCE_INTERVAL - 1
    teller.presences.renew_if_due()
    assert len(session.presences) == 1
    for slept in (1, PRESENCE_INTERVAL, 8 * 3600):
        teller.clock.now += slept
        teller.presences.renew_if_due()
        teller.presences.renew_if_due()
    assert len(session.presences) == 4
    assert session.presences[-1].time_ms == NOW_MS + 1000 * int(2 * PRESENCE_INTERVAL + 8 * 3600)


async def test_the_clock_is_looked_at_often(teller: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's own timers do not notice that the machine slept."""
    session = teller.begin("n1")
    teller.presences.list([teller.claim()])
    looks: list[float] = []

    async def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            raise asyncio.CancelledError
        teller.clock.now += 3600  # while the loop counts a few seconds

    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await teller.presences.keep_renewed()
    assert looks == [module.LOOK_EVERY] * 3
    assert len(session.presences) == 3


async def test_only_the_current_session_is_presented(teller: Teller) -> None:
    """A later presence for the node that is left would take the tunnels from the next node."""
    first = teller.begin("n1")
    teller.presences.list([teller.claim()])
    second = teller.begin("n2")
    closed, kept = teller.claim("n2"), teller.claim("n2")
    teller.presences.list([closed, kept])
    teller.presences.drop(closed.label)
    await gathered()
    teller.clock.now += PRESENCE_INTERVAL
    teller.presences.renew_if_due()
    assert len(first.presences) == 1
    assert [presence.ids for presence in second.presences] == [{closed.id, kept.id}, {kept.id}, {kept.id}]
    assert second.presences[0].time_ms > first.presences[0].time_ms


async def test_a_resumed_session_is_presented_at_once(teller: Teller) -> None:
    """With what it held; a new one holds nothing yet."""
    teller.begin("n1")
    claim = teller.claim()
    teller.presences.list([claim])
    resumed = teller.begin("n1", resumed=True)
    assert [presence.ids for presence in resumed.presences] == [{claim.id}]
    assert teller.begin("n1").presences == []
    assert teller.presences.that_lists(claim) is None


async def test_what_places_a_claim_is_the_latest_alone(teller: Teller) -> None:
    """MOVED shows both."""
    session, claim = teller.begin("n1"), teller.claim()
    assert teller.presences.that_lists(claim) is None
    teller.presences.list([claim])
    assert teller.presences.that_lists(claim) is session.presences[0]
    assert teller.presences.that_lists(teller.claim()) is None


async def test_after_the_end_nothing_is_sent(teller: Teller) -> None:
    """Nor after closing."""
    session, claim = teller.begin("n1"), teller.claim()
    teller.presences.list([claim])
    teller.presences.drop(claim.label)
    teller.presences.end()
    await gathered()
    teller.clock.now += PRESENCE_INTERVAL
    teller.presences.renew_if_due()
    assert len(session.presences) == 1


async def test_the_newest_grant_goes_with_each(teller: Teller) -> None:
    """So that the session lasts longer."""
    session = teller.begin("n1")
    teller.presences.list([teller.claim()])
    teller.directory.grant = "renewed"
    teller.clock.now += PRESENCE_INTERVAL
    teller.presences.renew_if_due()
    assert session.grants == ["grant", "renewed"]
