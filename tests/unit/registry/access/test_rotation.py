"""When a grant key is made, and when one is forgotten."""

from collections.abc import AsyncIterator

import pytest
from portway_registry.access.grants import make_first_key
from portway_registry.access.rotation import KeyRotation
from portway_registry.state import keys
from portway_registry.state.records import GrantKeyRecord, decoder
from portway_registry.state.views import View
from portway_registry.store.embedded import EmbeddedStore

HOUR = 3_600_000
DAY = 24 * HOUR


class Cluster:
    """Keys in a store, and replicas that look after them, at a time that the test sets."""

    def __init__(self, store: EmbeddedStore, known: View[GrantKeyRecord]) -> None:
        self.now = 0
        self._store = store
        self._known = known
        self._replicas = [KeyRotation(store, known, lambda: self.now) for _ in range(2)]

    async def look(self, at: int) -> dict[str, int]:
        """All replicas look; the keys by their kids, with when they become active."""
        self.now = at
        for replica in self._replicas:
            await replica.look()
        await self._known.settled((await self._store.list("")).revision)
        return {key.kid: key.active_from_ms for key in self._known.values()}


@pytest.fixture
async def cluster(memory: EmbeddedStore) -> AsyncIterator[Cluster]:
    await make_first_key(memory, now_ms=0)
    known: View[GrantKeyRecord] = View(memory, keys.GRANT_KEYS, decoder(GrantKeyRecord), on_failure=print)
    await known.start()
    yield Cluster(memory, known)
    await known.close()


async def test_a_key_signs_for_thirty_days(cluster: Cluster) -> None:
    """The next one is published a day before it signs, and there is one, however many replicas look."""
    assert await cluster.look(at=29 * DAY - 1) == {"1": 0}
    assert await cluster.look(at=29 * DAY) == {"1": 0, "2": 30 * DAY}
    assert await cluster.look(at=30 * DAY) == {"1": 0, "2": 30 * DAY}


async def test_a_key_is_kept_while_its_grants_may_be_honoured(cluster: Cluster) -> None:
    """An old key goes when 26 hours have passed since the next one began to sign."""
    await cluster.look(at=29 * DAY)
    assert set(await cluster.look(at=30 * DAY + 26 * HOUR)) == {"1", "2"}
    assert set(await cluster.look(at=30 * DAY + 26 * HOUR + 1)) == {"2"}


async def test_a_year_leaves_few_keys(cluster: Cluster) -> None:
    """Looked after four times a day for a year, keys follow each other and do not pile up."""
    most = 0
    for hour in range(0, 365 * 24, 6):
        found = await cluster.look(at=hour * HOUR)
        most = max(most, len(found))
    assert most == 2
    assert max(map(int, found)) == 13


async def test_a_long_pause_makes_one_key(cluster: Cluster) -> None:
    """After a year without any registry there is one new key, not twelve."""
    assert set(await cluster.look(at=365 * DAY)) == {"1", "2"}
    assert set(await cluster.look(at=365 * DAY + HOUR)) == {"1", "2"}
