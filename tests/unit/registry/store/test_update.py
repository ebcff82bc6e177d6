"""Optimistic updates: what is written when others write at the same time."""

import asyncio

import pytest
from portway_registry.errors import NotFound, StoreError, StoreUnavailable
from portway_registry.store.contract import ABSENT, Entry
from portway_registry.store.embedded import EmbeddedStore
from portway_registry.store.update import TRIES, Decision, create, get_or_create, revision_of, update


async def increase(entry: Entry | None) -> Decision[int]:
    number = 1 + (0 if entry is None else int(entry.value))
    return Decision(number, str(number).encode())


async def test_no_update_is_lost(memory: EmbeddedStore) -> None:
    """Of updates at the same time each counts, whichever comes first."""
    numbers = await asyncio.gather(*(update(memory, "n", increase, "contended") for _ in range(TRIES)))
    assert sorted(numbers) == list(range(1, TRIES + 1))
    entry = await memory.get("n")
    assert entry is not None
    assert entry.value == str(TRIES).encode()


async def test_nothing_is_written_without_a_value(memory: EmbeddedStore) -> None:
    """A decision with a result alone, or an exception, leaves the key as it is."""

    async def look(entry: Entry | None) -> Decision[str]:
        return Decision("as it is")

    async def refuse(entry: Entry | None) -> Decision[str]:
        raise NotFound("not there")

    assert await update(memory, "n", look, "contended") == "as it is"
    with pytest.raises(NotFound):
        await update(memory, "n", refuse, "contended")
    assert (await memory.list("")).revision == 0


async def test_a_contended_key_is_given_up(memory: EmbeddedStore) -> None:
    """After TRIES tries the caller's text says so."""
    tries = 0

    async def always_late(entry: Entry | None) -> Decision[None]:
        nonlocal tries
        tries += 1
        await memory.put("n", b"another's")
        return Decision(None, b"mine")

    with pytest.raises(StoreUnavailable, match="contended"):
        await update(memory, "n", always_late, "contended")
    assert tries == TRIES


async def test_a_taken_key_makes_another_be_proposed(memory: EmbeddedStore) -> None:
    """Until one is free; nothing that was there is replaced."""
    await memory.put("1", b"old")
    numbers = iter(range(1, 100))

    def make() -> tuple[str, bytes, int]:
        number = next(numbers)
        return str(number), b"new", number

    assert await create(memory, make, "none free") == 2
    entry = await memory.get("1")
    assert entry is not None
    assert entry.value == b"old"
    with pytest.raises(StoreUnavailable, match="none free"):
        await create(memory, lambda: ("1", b"new", None), "none free")


async def test_of_callers_at_once_one_creates(memory: EmbeddedStore) -> None:
    """All get the value of the one that did."""
    values = iter((b"a", b"b", b"c"))
    found = await asyncio.gather(*(get_or_create(memory, "n", lambda: next(values)) for _ in range(3)))
    assert len({value for value, _ in found}) == 1
    assert [created for _, created in found].count(True) == 1


async def test_a_key_that_vanishes_meanwhile_is_an_error(
    memory: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was there when it was to be created, and not when it was read."""
    await memory.put("n", b"")

    async def absent(key: str) -> None:
        return None

    monkeypatch.setattr(memory, "get", absent)
    with pytest.raises(StoreError, match="n vanished"):
        await get_or_create(memory, "n", lambda: b"value")


async def test_what_is_not_there_must_not_be_there(memory: EmbeddedStore) -> None:
    """The condition of a write that creates, and of one that replaces."""
    assert revision_of(None) == ABSENT
    await memory.put("n", b"")
    entry = await memory.get("n")
    assert entry is not None
    assert revision_of(entry) == entry.modified
