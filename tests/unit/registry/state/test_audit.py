"""Who did what, the youngest first."""

from portway_registry.state import audit, keys
from portway_registry.store.embedded import EmbeddedStore


async def test_the_youngest_entries_come_first(memory: EmbeddedStore) -> None:
    """By time, as many as asked for; entries of one moment do not overwrite each other."""
    for at_ms in (999, 1_000, 20_000, 20_000, 3):
        await memory.write([audit.entry(at_ms=at_ms, actor="admin", action="token.create", target=str(at_ms))])
    found = await audit.latest(memory, 10)
    assert [one.at_ms for one in found] == [20_000, 20_000, 1_000, 999, 3]
    assert [one.target for one in await audit.latest(memory, 2)] == ["20000", "20000"]
    assert found[-1].actor == "admin"


def test_keys_sort_by_time() -> None:
    """A text order that is the order of time, for the next 250 years."""
    times = [0, 9, 10, 1_800_000_000_000, 9_999_999_999_999]
    found = [keys.audit(at_ms, "x") for at_ms in times]
    assert found == sorted(found)
