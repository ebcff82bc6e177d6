"""The newest presence of each session in the store."""

from collections.abc import Sequence

import pytest
from portway_registry.errors import StoreUnavailable
from portway_registry.state import keys
from portway_registry.store.contract import Put, Write
from portway_registry.store.embedded import EmbeddedStore
from portway_registry.tunnels.presences import Presences
from portway_testkit.clusters.announcing import Announcing
from portway_testkit.clusters.views import ViewedStore
from portway_testkit.signers import NOW_MS, SessionSigner


async def test_a_later_presence_replaces_an_earlier_one(cluster: ViewedStore, announcing: Announcing) -> None:
    """Whichever comes first, at whichever node, and whether or not the view has seen it; the answer is what counts."""
    signer = SessionSigner()
    early = signer.present("fra-1", time_ms=NOW_MS)
    late = signer.present("lon-1", time_ms=NOW_MS + 1)
    for presence in (late, early):
        stored = (await announcing.presences.put([presence]))[signer.key.public]
        assert (stored.node, stored.time_ms, stored.encoded) == ("lon-1", NOW_MS + 1, late.encoded)
    await cluster.settle()
    assert (await announcing.presences.put([early]))[signer.key.public].time_ms == NOW_MS + 1
    assert await cluster.presences() == {signer.key.public.hex(): NOW_MS + 1}


async def test_sessions_do_not_disturb_each_other(cluster: ViewedStore, announcing: Announcing) -> None:
    """Of many at once each is stored or is not by itself."""
    signers = [SessionSigner() for _ in range(40)]
    await announcing.presences.put([one.present("fra-1", time_ms=NOW_MS + 5) for one in signers[:20]])
    stored = await announcing.presences.put([one.present("fra-1", time_ms=NOW_MS) for one in signers])
    assert [stored[one.key.public].time_ms - NOW_MS for one in signers] == [5] * 20 + [0] * 20


async def test_what_nobody_can_believe_is_deleted(cluster: ViewedStore, announcing: Announcing) -> None:
    """37 minutes after its time: seven, and the leeway of two clocks. What came in its place meanwhile stays."""
    old, young, renewed = SessionSigner(), SessionSigner(), SessionSigner()
    await announcing.presences.put(
        [
            old.present("fra-1", time_ms=NOW_MS),
            renewed.present("fra-1", time_ms=NOW_MS),
            young.present("fra-1", time_ms=NOW_MS + 1),
        ]
    )
    await cluster.settle()
    # The view does not show this yet.
    await announcing.presences.put([renewed.present("fra-1", time_ms=NOW_MS + 60_000)])
    announcing.now_ms = NOW_MS + 37 * 60_000 + 1
    await announcing.presences.sweep()
    assert set(await cluster.presences()) == {young.key.public.hex(), renewed.key.public.hex()}


class Contested(EmbeddedStore):
    """A store in which the session's earlier presence changes under every write."""

    def __init__(self, signer: SessionSigner) -> None:
        super().__init__(None, on_failure=print)
        self._signer = signer
        self._time_ms = NOW_MS

    async def write(self, writes: Sequence[Write]) -> tuple[bool, ...]:
        self._time_ms += 1
        theirs = self._signer.present("lon-1", time_ms=self._time_ms)
        await super().write([Put(keys.presence(theirs.session_key), theirs.encoded)])
        return await super().write(writes)


async def test_a_presence_that_is_fought_over_is_left_for_later(cluster: ViewedStore) -> None:
    """It is not tried for ever."""
    signer = SessionSigner()
    store = Contested(signer)
    presences = Presences(store, cluster.views.presences, lambda: NOW_MS)
    with pytest.raises(StoreUnavailable, match="changed each time"):
        await presences.put([signer.present("fra-1", time_ms=NOW_MS + 1_000)])
    await store.close()
