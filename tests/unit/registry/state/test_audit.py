"""Who did what, the newest first."""

import logging

import pytest
from portway_registry.errors import StoreUnavailable
from portway_registry.state import keys
from portway_registry.state.audit import Audit
from portway_registry.store.embedded import EmbeddedStore


async def test_the_newest_entries_come_first(memory: EmbeddedStore) -> None:
    """By time, as many as asked for; entries of one moment do not overwrite each other."""
    times = iter((999, 1_000, 20_000, 20_000, 3))
    audit = Audit(memory, lambda: next(times))
    for target in ("999", "1000", "20000", "20000", "3"):
        await audit.add("admin", "token.create", target)
    found = await audit.latest(10)
    assert [one.at_ms for one in found] == [20_000, 20_000, 1_000, 999, 3]
    assert [one.target for one in await audit.latest(2)] == ["20000", "20000"]
    assert found[-1].actor == "admin"


async def test_what_is_done_does_not_fail_for_the_audit(caplog: pytest.LogCaptureFixture) -> None:
    """While the store is away a change that it has already is only logged; `add` alone says so to its caller."""
    closed = EmbeddedStore(None, on_failure=print)
    await closed.close()
    audit = Audit(closed, lambda: 0)
    with caplog.at_level(logging.WARNING):
        assert not await audit.add_done("admin", "token.create", "abc")
    assert "not in the audit: token.create of abc by admin" in caplog.text
    with pytest.raises(StoreUnavailable):
        await audit.add("admin", "token.create", "abc")


def test_keys_sort_by_time() -> None:
    """A text order that is the order of time, for the next 250 years."""
    times = [0, 9, 10, 1_800_000_000_000, 9_999_999_999_999]
    found = [keys.audit(at_ms, "x") for at_ms in times]
    assert found == sorted(found)
