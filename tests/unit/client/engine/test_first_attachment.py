"""portway.engine.first_attachment: searching on while somebody waits."""

import logging
import random
from itertools import pairwise
from types import SimpleNamespace

import pytest
from portway.engine.dialling import NO_ANSWER_YET
from portway.engine.first_attachment import LONGEST_PAUSE, FirstAttachment
from portway.errors import Attempt, AuthError, UnreachableError
from portway_runtime import backoff
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.fake_link import FakeSearch, FakeSession

AWAY = UnreachableError("no registry", (Attempt("", "r:1", "connection refused"),))
UNNAMED = UnreachableError("no registry", (Attempt("", "r:1", "its name cannot be resolved"),))
UNTRUSTED = UnreachableError("no registry", (Attempt("", "r:1", "not trusted"),), lasting=True)


class World:
    """A search, what it finds, and the pauses between two."""

    def __init__(self, *outcomes: FakeSession | Exception) -> None:
        self.search = FakeSearch(ManualClock(), list(outcomes))
        self.pauses: list[float] = []
        self.first = FirstAttachment(self.search, self._sleep)  # type: ignore[arg-type]

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def attach(self) -> None:
        await self.first.attach(None, lambda: None, lambda: 1)  # type: ignore[arg-type]


async def test_it_goes_on_until_a_node_accepts() -> None:
    """A registry that is not there yet, a name that does not resolve yet: whoever waits has a time limit of his own."""
    world = World(UNNAMED, AWAY, AWAY, FakeSession())
    await world.attach()
    assert len(world.search.tried) == 4
    assert world.search.new_tunnels == [1] * 4
    assert world.first.failure is None


async def test_pauses_grow_to_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each at least half of the one that is due."""
    monkeypatch.setattr(backoff, "random", random.Random(3))
    world = World(*[AWAY] * 12, FakeSession())
    await world.attach()
    assert all(pause <= LONGEST_PAUSE for pause in world.pauses)
    assert all(later >= LONGEST_PAUSE / 2 for later in world.pauses[4:])
    monkeypatch.setattr(backoff, "random", SimpleNamespace(uniform=lambda low, high: high))
    even = World(*[AWAY] * 8, FakeSession())
    await even.attach()
    assert all(earlier <= later for earlier, later in pairwise(even.pauses))


async def test_nodes_that_ask_to_wait_are_waited_for() -> None:
    """A hint is longer than any pause."""
    world = World(AWAY, FakeSession())
    world.search.wait_before_dialling = 2.5
    await world.attach()
    assert world.pauses == [2.5]


@pytest.mark.parametrize("error", [UNTRUSTED, AuthError("revoked")])
async def test_what_another_try_cannot_mend_is_raised(error: Exception) -> None:
    """A setting has to be changed first, or the token."""
    world = World(AWAY, error)
    with pytest.raises(type(error)) as raised:
        await world.attach()
    assert raised.value is error


async def test_each_reason_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """`portway forward` shows it while it waits."""
    caplog.set_level(logging.INFO, "portway")
    await World(AWAY, AWAY, UNNAMED, UNNAMED, FakeSession()).attach()
    assert caplog.messages == [f"not attached yet, trying again: {one}" for one in (AWAY, UNNAMED)]


async def test_who_was_tried_is_known_at_any_moment() -> None:
    """By the last whole search; one in progress adds what it knows already."""
    world = World(AWAY, UNTRUSTED)
    with pytest.raises(UnreachableError):
        await world.attach()
    assert world.first.attempts == AWAY.attempts
    refused = Attempt("one", "n:1", "full")
    world.search.attempts = (refused, Attempt("", "r:1", NO_ANSWER_YET))
    assert world.first.attempts == (*AWAY.attempts, refused)
    world.first.failure = None
    assert world.first.attempts == world.search.attempts
