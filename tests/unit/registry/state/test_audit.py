"""Who did what, the newest first."""

import logging

import pytest
from portway_registry.errors import StoreUnavailable
from portway_registry.state import keys
from portway_registry.state.audit import Audit
from portway_registry.store.contract import Entry
from portway_registry.store.embedded import EmbeddedStore


async def test_the_newest_entries_come_first(memory: EmbeddedStore) -> None:
    """By time, as many as asked for; entries of one moment do not overwrite each other."""
    times = iter((999, 1_000, 20_000, 20_000, 3))
    audit = Audit(memory, lambda: next(times))
    for target in ("999", "1000", "20000", "20000", "3"):
        await audit.add("admin", "token.create", target)
    found = (await audit.page(10))[0]
    assert [one.at_ms for one in found] == [20_000, 20_000, 1_000, 999, 3]
    assert [one.target for one in (await audit.page(2))[0]] == ["20000", "20000"]
    assert found[-1].actor == "admin"


async def test_the_newest_are_read_and_not_all(memory: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that asks for a few of 20,000 entries costs the store a few, of each kind."""
    audit = Audit(memory, lambda: 1)
    await audit.add("admin", "token.create", "one")
    asked: list[tuple[str, int]] = []

    async def last(prefix: str, number: int, *, before: str | None = None) -> tuple[Entry, ...]:
        asked.append((prefix, number))
        return await EmbeddedStore.last(memory, prefix, number, before=before)

    monkeypatch.setattr(memory, "last", last)
    monkeypatch.setattr(memory, "list", None)
    assert [one.target for one in (await audit.page(3))[0]] == ["one"]
    assert asked == [(keys.AUDIT, 4), (keys.AUDIT_FAILURES, 4)]  # one more, to know whether there is another page


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20, 21])
async def test_pages_are_the_whole(memory: EmbeddedStore, size: int) -> None:
    """Each entry once, of both kinds and in the order of time, while new ones are added; entries of one moment too. The
    last page says that it is."""
    times = iter((1, 1, 1, 2, 3, 3, 4, 5, 6, 6, *range(7, 100)))
    audit = Audit(memory, lambda: next(times))
    for number in range(10):
        await audit.add("admin", "token.create", str(number))
        await audit.add_failures([("192.0.2.1", str(number))])
    whole, end = await audit.page(100)
    assert (len(whole), end) == (20, "")
    found, token = await audit.page(size)
    while token:
        await audit.add("admin", "token.revoke", "meanwhile")
        more, token = await audit.page(size, after=token)
        assert 0 < len(more) <= size
        found += more
    assert found == whole


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


DAY = 24 * 3_600_000


async def test_old_entries_are_deleted(memory: EmbeddedStore) -> None:
    """Changes after a year, failed authentications after a month."""
    now = 1_800_000_000_000
    for age in (0, 29, 31, 364, 366):
        then = Audit(memory, lambda age=age: now - age * DAY)  # type: ignore[misc]
        await then.add("admin", "token.create", str(age))
        await then.add_failures([("192.0.2.1", str(age))])
    audit = Audit(memory, lambda: now)
    await audit.trim()
    found = [(one.action, one.target) for one in (await audit.page(100))[0]]
    assert sorted(target for action, target in found if action == "token.create") == ["0", "29", "31", "364"]
    assert sorted(target for action, target in found if action == "authentication.failed") == ["0", "29"]


async def test_strangers_push_out_no_change(memory: EmbeddedStore) -> None:
    """The oldest failures go when there are too many; the changes stay, and both are listed in the order of time."""
    now = 1_800_000_000_000
    times = iter(range(now, now + 10_000))
    audit = Audit(memory, lambda: next(times))
    await audit.add("admin", "token.create", "first")
    for number in range(2_100):
        await audit.add_failures([("192.0.2.1", str(number))])
    await audit.add("admin", "token.create", "last")
    await audit.trim()
    found = [one.target for one in (await audit.page(10_000))[0]]
    assert found == ["last", *(str(number) for number in range(2_099, 99, -1)), "first"]
    assert [one.target for one in (await audit.page(2))[0]] == ["last", "2099"]
