"""Invitations: made once, shown once, told apart from made-up ones, and forgotten at last."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from portway_registry.access.invitations import Invitations
from portway_registry.errors import Busy, InvitationOver, InvitationUnknown, TokenMalformed
from portway_registry.state import keys
from portway_registry.state.audit import Audit
from portway_registry.state.records import InvitationRecord, decoder
from portway_registry.state.views import View
from portway_registry.store.embedded import EmbeddedStore

DAY_MS = 86_400_000


class Stage:
    def __init__(self, store: EmbeddedStore) -> None:
        self.store = store
        self.now_ms = 1_800_000_000_000
        self.view: View[InvitationRecord] = View(
            store, keys.INVITATIONS, decoder(InvitationRecord), on_failure=self._failed
        )
        self.invitations = Invitations(store, self.view, Audit(store, lambda: self.now_ms), lambda: self.now_ms)

    def _failed(self, error: BaseException) -> None:
        raise error

    async def make(self, *, ttl: int = 0) -> tuple[InvitationRecord, str]:
        return await self.invitations.create(region="fra", node="", ttl=ttl, by="admin")


@pytest.fixture
async def stage(memory: EmbeddedStore) -> AsyncIterator[Stage]:
    stage = Stage(memory)
    await stage.view.start()
    yield stage
    await stage.view.close()


async def test_the_secret_is_in_the_token_alone(stage: Stage) -> None:
    """What is kept does not have it, and it is known by it."""
    record, token = await stage.make()
    entry = await stage.store.get(keys.invitation(record.id))
    assert entry is not None
    assert token.split("_")[2].encode() not in entry.value
    assert await stage.invitations.authenticate(token) == record
    assert record.expires_at_ms == stage.now_ms + 3_600_000


async def test_a_wrong_secret_and_an_unknown_id_look_alike(stage: Stage) -> None:
    """Who guesses learns nothing; what has not the form is not looked up."""
    record, token = await stage.make()
    _, other = await stage.make()
    for text in (f"pwj_{record.id}_{other.split('_')[2]}", f"pwj_zzzz_{'a' * 32}"):
        with pytest.raises(InvitationUnknown):
            await stage.invitations.authenticate(text)
    with pytest.raises(TokenMalformed):
        await stage.invitations.authenticate(token[:-1])


async def test_it_ends_with_its_time(stage: Stage) -> None:
    """To the millisecond, and is listed no more among those that let somebody in."""
    _, token = await stage.make(ttl=10)
    stage.now_ms += 9_999
    assert await stage.invitations.authenticate(token)
    stage.now_ms += 1
    with pytest.raises(InvitationOver, match="has expired"):
        await stage.invitations.authenticate(token)
    assert stage.invitations.find(over=False) == []
    assert len(stage.invitations.find(over=True)) == 1


async def test_old_ones_are_forgotten_in_the_end(stage: Stage) -> None:
    """A month after they were over, when the next is made."""
    old, _ = await stage.make()
    stage.now_ms += 29 * DAY_MS
    younger, _ = await stage.make()
    stage.now_ms += 2 * DAY_MS
    youngest, _ = await stage.make()
    assert [one.id for one in stage.invitations.find(over=True)] == [younger.id, youngest.id]
    assert await stage.store.get(keys.invitation(old.id)) is None


async def test_strangers_cannot_load_the_store(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many are looked up at once; the rest are told to come again, not that they are wrong."""
    held = asyncio.Event()

    async def slow(key: str) -> None:
        await held.wait()

    monkeypatch.setattr(stage.store, "get", slow)
    guesses = [
        asyncio.ensure_future(stage.invitations.authenticate(f"pwj_guess{number}_{'a' * 32}")) for number in range(9)
    ]
    with pytest.raises(Busy):
        await guesses[8]
    held.set()
    outcomes = await asyncio.gather(*guesses[:8], return_exceptions=True)
    assert all(isinstance(one, InvitationUnknown) for one in outcomes)
