"""How many tunnels a tenant and its tokens have, and which of them are too many."""

import asyncio

import pytest
from portway_proto.v1.mesh_pb2 import EVICTION_REASON_QUOTA, Eviction
from portway_proto.wire.statements import SigningKey
from portway_registry.errors import QuotaFull, StoreUnavailable
from portway_registry.state import keys
from portway_registry.state.records import Role, TokenRecord
from portway_registry.state.tunnel_limits import TunnelLimits
from portway_registry.state.views import Views
from portway_registry.store.contract import Entry
from portway_registry.store.embedded import EmbeddedStore
from portway_registry.tunnels import quota as quota_module
from portway_registry.tunnels.quota import Limit, Quota, Room
from portway_testkit.clusters.registry import tunnel_info
from portway_testkit.clusters.views import ViewedStore
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.links.carrier_link import until
from portway_testkit.signers import label_of

TOKEN = TokenRecord("own", "demo", Role.CLIENT, b"")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def quota(cluster: ViewedStore, clock: ManualClock) -> Quota:
    views = cluster.views
    return Quota(TunnelLimits(views.tokens, views.tenants, default=3), views.tunnels, clock)


def free(quota: Quota, tenant: str = "demo", token_id: str = "own") -> list[int]:
    return [quota.free(limit) for limit in quota.limits_on(tenant, token_id)]


async def test_a_tenant_s_own_limit_counts_else_the_default(cluster: ViewedStore, quota: Quota) -> None:
    """A token may narrow it for itself, and not widen it."""
    await cluster.put_tenant("large", 7)
    assert [quota.limits.of_tenant(name) for name in ("large", "demo")] == [7, 3]
    tokens = [TokenRecord("t", "large", Role.CLIENT, b"", max_tunnels=most) for most in (0, 2, 9)]
    assert [quota.limits.of_token(token) for token in tokens] == [7, 2, 7]


async def test_what_is_open_leaves_less_room(cluster: ViewedStore, quota: Quota) -> None:
    """Of the tenant with every token, of a token with a limit of its own, at whichever nodes; never below none."""
    await cluster.put_token("own", max_tunnels=2)
    rooms = [free(quota)]
    for number, token in enumerate(("own", "other", "own", "other")):
        await cluster.put_tunnel(tunnel_info(token_id=token, node=f"n{number}"))
        rooms.append(free(quota))
    assert rooms == [[3, 2], [2, 1], [1, 1], [0, 0], [0, 0]]
    assert free(quota, "another") == [3, 0]
    assert free(quota, "demo", "unknown") == [0]


async def test_the_newest_are_too_many(cluster: ViewedStore, quota: Quota) -> None:
    """What was bound last in the cluster is over the quota; a label that moved keeps its age."""
    tunnel_keys = [SigningKey() for _ in range(5)]
    for number, key in enumerate(tunnel_keys):
        await cluster.put_tunnel(tunnel_info(key, token_id=f"t{number}"))
    await cluster.put_tunnel(tunnel_info(tunnel_keys[0], 2, token_id="t0", node="lon-1"))
    over = {item.name: limit for item, limit in quota.excess("demo", "t4")}
    assert over == dict.fromkeys(map(label_of, tunnel_keys[3:]), Limit("demo", False, 3))
    assert list(quota.excess("another", "")) == []


async def test_a_token_s_newest_are_too_many_for_it_alone(cluster: ViewedStore, quota: Quota) -> None:
    """Though its tenant has room; the eviction says which limit it was."""
    await cluster.put_token("own", max_tunnels=1)
    first, second = (tunnel_info(token_id="own") for _ in range(2))
    for tunnel in (first, second):
        await cluster.put_tunnel(tunnel)
    ((item, limit),) = quota.excess("demo", "own")
    assert limit.eviction(item.value) == Eviction(
        label=second.label, epoch=1, reason=EVICTION_REASON_QUOTA, max_tunnels=1, of_token=True
    )


async def test_two_replicas_find_the_same(cluster: ViewedStore, memory: EmbeddedStore, quota: Quota) -> None:
    """Also of tunnels that were written together: the order is the store's, then that of labels."""
    views = Views(memory, on_failure=print)
    await views.start()
    other = Quota(TunnelLimits(views.tokens, views.tenants, default=3), views.tunnels)
    tunnels = [tunnel_info(token_id=f"t{number % 2}") for number in range(6)]
    for tunnel in tunnels:
        await memory.put(keys.tunnel(tunnel.label), tunnel.SerializeToString())
        await cluster.views.tunnels.caught_up(tunnel.label)
        await views.tunnels.caught_up(tunnel.label)
        found = [[item.name for item, _ in one.excess("demo", "t0")] for one in (quota, other)]
        assert found[0] == found[1]
    assert set(found[0]) == {tunnel.label for tunnel in tunnels[3:]}
    await views.close()


async def test_a_batch_takes_what_room_there_is(cluster: ViewedStore, quota: Quota) -> None:
    """Its own tunnels count at once, a label once; one that it replaces leaves its place, of its own token too."""
    await cluster.put_token("own", max_tunnels=2)
    old = tunnel_info(token_id="other")
    await cluster.put_tunnel(old)
    room = Room(quota)
    first, second, third = (tunnel_info(token_id="own") for _ in range(3))
    assert [room.take(one, None) for one in (first, second, first)] == [None] * 3
    assert room.take(third, None) == Limit("demo", False, 3)
    moved = tunnel_info(token_id="else")
    assert room.take(moved, old) is None
    taken_over = tunnel_info(token_id="own")
    assert room.take(taken_over, old) == Limit("own", True, 2)
    assert room.take(taken_over, tunnel_info(token_id="own")) is None


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a place."""
    monkeypatch.setattr(quota_module, "_PATIENCE", 0.05)


async def test_room_that_there_is_is_not_asked_for(cluster: ViewedStore, quota: Quota) -> None:
    """The store is not read for it."""
    cluster.store.get = unexpected  # type: ignore[method-assign]
    await quota.demand_room(TOKEN, 3)


async def unexpected(key: str) -> Entry | None:
    raise AssertionError(f"{key} is read")


@pytest.mark.usefixtures("impatient")
async def test_a_full_quota_is_told_with_its_number(cluster: ViewedStore, quota: Quota) -> None:
    """Whose it is, how many there may be, what to do next; so is one that has less room than is asked for."""
    with pytest.raises(QuotaFull, match=r"tenant demo may have 3 tunnels .*, and 4 more are asked for: close one"):
        await quota.demand_room(TOKEN, 4)
    for _ in range(3):
        await cluster.put_tunnel(tunnel_info(token_id="other"))
    with pytest.raises(QuotaFull, match=r"3 tunnels open at once and has them: close one, .*set-quota demo"):
        await quota.demand_room(TOKEN, 1)
    await cluster.put_tenant("demo", 9)
    await cluster.put_token("own", max_tunnels=1)
    await quota.demand_room(TOKEN, 1)
    await cluster.put_tunnel(tunnel_info(token_id="own"))
    with pytest.raises(QuotaFull, match="this token may have 1 tunnels"):
        await quota.demand_room(TOKEN, 1)


async def test_a_place_that_is_freed_is_waited_for(
    cluster: ViewedStore, quota: Quota, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that is started again comes before the end of its first tunnel is known here."""
    tunnels = [tunnel_info() for _ in range(3)]
    for tunnel in tunnels:
        await cluster.put_tunnel(tunnel)
    monkeypatch.setattr(quota_module, "_PATIENCE", 60.0)
    asked = asyncio.ensure_future(quota.demand_room(TOKEN, 1))
    await until(lambda: bool(quota._waiting))
    await cluster.store.delete(keys.tunnel(tunnels[0].label))
    await asked


async def test_few_clients_of_a_tenant_wait(
    cluster: ViewedStore, quota: Quota, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a hundred that ask at once some wait for a place, the others are told without; another tenant's wait too."""
    monkeypatch.setattr(quota_module, "_PATIENCE", 60.0)
    for tenant in ("demo", "other"):
        tunnels = [tunnel_info(tenant=tenant) for _ in range(3)]
        for tunnel in tunnels:
            await cluster.put_tunnel(tunnel)
    asked = [asyncio.ensure_future(quota.demand_room(TOKEN, 1)) for _ in range(100)]
    other = asyncio.ensure_future(quota.demand_room(TokenRecord("t", "other", Role.CLIENT, b""), 1))
    await until(lambda: sum(one.done() for one in asked) == 84)
    assert {type(one.exception()) for one in asked if one.done()} == {QuotaFull}
    waiting = [one for one in asked if not one.done()]
    assert len(waiting) == 16
    await cluster.store.delete(keys.tunnel(tunnels[0].label))
    await other
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert not quota._waiting


class Away:
    """Cuts the store off."""

    def __init__(self, store: EmbeddedStore) -> None:
        self._store, self._get = store, store.get
        self.away = False
        self.read = 0
        store.get = self.get  # type: ignore[method-assign]

    async def get(self, key: str) -> Entry | None:
        self.read += 1
        if self.away:
            raise StoreUnavailable("away")
        return await self._get(key)


@pytest.fixture
def away(cluster: ViewedStore) -> Away:
    return Away(cluster.store)


@pytest.mark.usefixtures("impatient")
async def test_without_the_store_nobody_is_refused(
    cluster: ViewedStore, quota: Quota, away: Away, clock: ManualClock
) -> None:
    """What was closed meanwhile is not known here. A token whose quota is full costs one read a second."""
    for _ in range(3):
        await cluster.put_tunnel(tunnel_info())
    away.read, away.away = 0, True
    await quota.demand_room(TOKEN, 1)
    away.away = False
    for _ in range(2):
        with pytest.raises(QuotaFull):
            await quota.demand_room(TOKEN, 1)
    assert away.read == 2
    clock.now += 1
    away.away = True
    await quota.demand_room(TOKEN, 1)
