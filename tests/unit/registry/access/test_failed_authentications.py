"""Failed authentications, and how little of them is written."""

import ipaddress

import pytest
from portway_registry.access.failed_authentications import FailedAuthentications
from portway_registry.errors import StoreUnavailable, TokenMissing, TokenRevoked, TokenUnknown
from portway_registry.state.audit import Audit
from portway_registry.store.embedded import EmbeddedStore

NOW_MS = 1_800_000_000_000


async def entries(audit: Audit) -> set[tuple[str, str, str]]:
    return {(one.actor, one.action, one.target) for one in (await audit.page(1_000))[0]}


async def test_failures_are_counted_by_address_and_reason(memory: EmbeddedStore) -> None:
    """An IPv6 address by its /64. What was written is not written again."""
    audit = Audit(memory, lambda: NOW_MS)
    failed = FailedAuthentications(audit)
    one = ipaddress.ip_address("192.0.2.1")
    for _ in range(3):
        failed.note(one, TokenUnknown())
    failed.note(one, TokenMissing())
    for host in ("2001:db8::1", "2001:db8::2"):
        failed.note(ipaddress.ip_address(host), TokenRevoked())
    await failed.write()
    action = "authentication.failed"
    assert await entries(audit) == {
        ("192.0.2.1", action, "3 calls: this cluster does not know the API token"),
        ("192.0.2.1", action, "1 call: no API token"),
        ("2001:db8::/64", action, "2 calls: the API token is revoked"),
    }
    failed.note(one, TokenMissing())
    await failed.write()
    assert len((await audit.page(1_000))[0]) == 4


async def test_many_addresses_are_few_entries(memory: EmbeddedStore) -> None:
    """Those with the most failures by name, all others in one; memory is bounded too."""
    audit = Audit(memory, lambda: NOW_MS)
    failed = FailedAuthentications(audit)
    for number in range(20_000):
        failed.note(ipaddress.IPv4Address(number), TokenUnknown())
    for _ in range(50):
        failed.note(ipaddress.IPv4Address(7), TokenUnknown())
    assert len(failed._counts) <= 1_001
    await failed.write()
    found = await entries(audit)
    assert len(found) == 6
    assert ("0.0.0.7", "authentication.failed", "51 calls: this cluster does not know the API token") in found
    others = sum(int(what.split()[0]) for address, _, what in found if address == "other addresses")
    assert others == 20_000 - 5


async def test_an_outage_loses_no_count() -> None:
    """They are written together afterwards."""
    closed = EmbeddedStore(None, on_failure=print)
    await closed.close()
    failed = FailedAuthentications(Audit(closed, lambda: NOW_MS))
    failed.note(ipaddress.ip_address("192.0.2.1"), TokenMissing())
    with pytest.raises(StoreUnavailable):
        await failed.write()
    assert failed._counts.total() == 1
