"""Changes that are waited for: each is seen, those of one moment together, and none twice."""

import asyncio

import pytest
from portway_registry.state.gathered_changes import GatheredChanges

LONG = 3600.0
GATHERED = 0.01


async def nothing_is_left(changes: GatheredChanges) -> None:
    """A wait does not end by itself, though it has several times the time to gather."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5 * GATHERED):
            await changes.wait(LONG)


async def test_a_change_before_the_wait_is_seen() -> None:
    """It ends the wait, and only this one."""
    changes = GatheredChanges(GATHERED)
    changes.notice()
    await changes.wait(LONG)
    await nothing_is_left(changes)


async def test_what_comes_with_a_change_is_seen_with_it() -> None:
    """A change while others are gathered ends no wait of its own."""
    changes = GatheredChanges(GATHERED)
    changes.notice("old", "new")
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(changes.wait())
        await asyncio.sleep(0)
        assert not first.done()
        changes.notice("old", "new")
    await nothing_is_left(changes)


async def test_without_a_change_the_wait_ends_by_time() -> None:
    """And a change that comes later is not lost."""
    changes = GatheredChanges(GATHERED)
    await changes.wait(0.0)
    changes.notice()
    await changes.wait(LONG)
