"""How a store says that it is."""

import asyncio
from pathlib import Path

import pytest
from portway_registry.store.contract import Store, StoreHealth
from portway_registry.store.embedded import EmbeddedStore
from portway_registry.store.etcd import EtcdStore
from portway_registry.store.spec import EtcdSpec, StoreSpec
from portway_testkit.clusters.etcd import EtcdServer, EtcdTrio, fill_up, opened
from portway_testkit.clusters.registry import PATIENCE


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that runs is waited for on a machine that is busy as well; one that was killed refuses at once."""
    monkeypatch.setattr("portway_registry.store.etcd.health.TRY_SECONDS", PATIENCE)


async def test_a_store_that_is_well_says_so(store: Store, spec: StoreSpec, prefix: str) -> None:
    """One member, which leads, without a failure; its size where there is one."""
    await store.put(prefix + "a", b"1" * 1000)
    health = await store.health()
    assert health.kind == ("etcd" if isinstance(spec, EtcdSpec) else "embedded")
    (member,) = health.members
    assert (health.failure, member.failure, member.leads, member.learns) == ("", "", True, False)
    assert member.alarms == ()
    if isinstance(spec, EtcdSpec):
        assert member.name == "test"
        assert member.version.startswith("3.")
        assert 0 < member.used <= member.size
        assert member.applied > 0
        assert 0 < member.round_trip < PATIENCE


async def test_a_file_has_a_size_and_a_disk(tmp_path: Path) -> None:
    """And a file that is gone is said to be."""
    path = tmp_path / "registry.db"
    store = EmbeddedStore(path, on_failure=print)
    health = await store.health()
    assert health.disk_free > 0
    assert health.members[0].size > 0
    assert health.members[0].endpoint == str(path)
    path.unlink()
    assert "No such file" in (await store.health()).failure
    await store.close()


def etcd_store(*members: EtcdServer) -> EtcdStore:
    return EtcdStore(EtcdSpec(tuple(f"127.0.0.1:{member.port}" for member in members)))


async def named_members(store: EtcdStore) -> StoreHealth:
    """Once each member is known by its name, which its own start brings to the others."""
    async with asyncio.timeout(PATIENCE):
        while True:
            health = await store.health()
            if all(one.name for one in health.members):
                return health


async def test_members_of_etcd_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leader, one that does not answer, by its name, and one that the registry does not know of."""
    monkeypatch.setattr("portway_registry.store.etcd.calls.TOTAL_SECONDS", PATIENCE)  # another leader may be elected
    with EtcdTrio() as trio:
        kept = trio.leader()
        lost, unknown = (member for member in trio.members if member is not kept)
        known = [lost, kept]
        store = etcd_store(*known)
        try:
            whole = await named_members(store)
            assert sorted(one.name for one in whole.members) == ["member-1", "member-2", "member-3"]
            assert [one.failure for one in whole.members] == ["", "", ""]
            assert [one.name for one in whole.members if not one.endpoint] == [unknown.name]
            lost.kill()
            health = await store.health()
            assert health.failure == ""
            (silent,) = [one for one in health.members if one.failure]
            assert (silent.name, silent.endpoint) == (lost.name, f"127.0.0.1:{lost.port}")
        finally:
            await store.close()


async def test_etcd_without_a_majority_is_not_well() -> None:
    """The member that is left answers for itself, and no read is answered."""
    with EtcdTrio() as trio:
        store = etcd_store(*trio.members)
        try:
            for member in trio.members[1:]:
                member.kill()
            health = await store.health()
            assert "did not answer" in health.failure
            assert [bool(one.failure) for one in health.members] == [False, True, True]
        finally:
            await store.close()


async def test_an_alarm_is_told() -> None:
    """etcd that has used up its space takes no writes until it is disarmed."""
    with EtcdServer(quota_bytes=1 << 20) as server:
        async with opened(server.spec()) as store:
            await fill_up(store)
            (member,) = (await store.health()).members
            assert member.alarms == ("NOSPACE",)
