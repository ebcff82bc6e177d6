"""How a store says that it is."""

import time
from pathlib import Path

from portway_registry.store.contract import Store
from portway_registry.store.embedded import EmbeddedStore
from portway_registry.store.etcd import EtcdStore
from portway_registry.store.spec import EtcdSpec, StoreSpec
from portway_testkit.clusters.etcd import EtcdServer, EtcdTrio, fill_up, opened


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
        assert 0 < member.round_trip < 5


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


async def test_members_of_etcd_are_told_apart() -> None:
    """The leader, one that does not answer, by its name, and one that the registry does not know of."""
    with EtcdTrio() as trio:
        lost, unknown, kept = sorted(trio.members, key=lambda member: member.leads())
        known = [lost, kept]
        store = etcd_store(*known)
        try:
            whole = await store.health()
            assert sorted(one.name for one in whole.members) == ["member-1", "member-2", "member-3"]
            assert [one.failure for one in whole.members] == ["", "", ""]
            assert [one.name for one in whole.members if not one.endpoint] == [unknown.name]
            lost.kill()
            began = time.monotonic()
            health = await store.health()
            assert time.monotonic() - began < 8
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
