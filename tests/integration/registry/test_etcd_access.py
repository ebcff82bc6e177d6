"""How the etcd store gets in: TLS, client certificates, user and password, several endpoints."""

import asyncio
import dataclasses
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from portway_registry.errors import ConfigError, StoreError, StoreFull, StoreUnavailable
from portway_registry.store.contract import Revision
from portway_registry.store.etcd import EtcdStore
from portway_registry.store.spec import EtcdSpec
from portway_testkit.clusters.etcd import EtcdServer, fill_up, opened
from portway_testkit.clusters.registry import PATIENCE


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    """TLS, client certificates demanded, and a user."""
    with EtcdServer(tls=True) as server:
        server.demand_user("portway", "open sesame")
        yield server


@pytest.fixture
def dead_endpoint() -> Iterator[str]:
    """An address where nobody listens, and nobody will meanwhile."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{holder.getsockname()[1]}"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls give up after two seconds."""
    monkeypatch.setattr("portway_registry.store.etcd.calls.TOTAL_SECONDS", 2.0)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that runs is waited for on a machine that is busy as well."""
    for module in ("calls", "members", "watch"):
        monkeypatch.setattr(f"portway_registry.store.etcd.{module}.TRY_SECONDS", 4.0)
    monkeypatch.setattr("portway_registry.store.etcd.calls.TOTAL_SECONDS", PATIENCE)


def given_up(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The endpoints that another one was tried after, each time."""
    return [one.__dict__["from"] for one in caplog.records if one.message == "etcd endpoint changed"]


async def test_tls_and_user_open_the_door(server: EtcdServer) -> None:
    """With CA, client certificate, user and password every call works: reads, writes, leases, watches."""
    async with opened(server.spec()) as store:
        after = (await store.list("/a/")).revision
        lease = await store.grant_lease(30)
        assert await store.put("/a/1", b"x", lease=lease)
        await store.keep_lease(lease)
        watch = store.watch("/a/", after)
        batch = await anext(watch)
        await watch.aclose()
        assert [event.entry.key for event in batch] == ["/a/1"]
        await store.revoke_lease(lease)


async def test_the_ca_may_have_a_byte_order_mark(server: EtcdServer, tmp_path: Path) -> None:
    """As editors write it."""
    spec = server.spec()
    assert spec.ca is not None
    ca = tmp_path / "bom.crt"
    ca.write_text(spec.ca.read_text(), encoding="utf-8-sig")
    async with opened(dataclasses.replace(spec, ca=ca)) as store:
        assert await store.get("/none") is None


async def test_tokens_that_are_void_are_replaced(server: EtcdServer) -> None:
    """A restarted etcd knows no token any more: calls, leases and watches get a new one by themselves."""
    async with opened(server.spec()) as store:
        after = (await store.list("/b/")).revision
        watch = store.watch("/b/", after)
        await store.put("/b/1", b"")
        await anext(watch)
        lease = await store.grant_lease(30)
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
        await store.keep_lease(lease)
        await store.put("/b/2", b"")
        async with asyncio.timeout(PATIENCE):
            batch = await anext(watch)
        await watch.aclose()
        assert [event.entry.key for event in batch] == ["/b/2"]


async def test_many_calls_share_one_token(server: EtcdServer) -> None:
    """Calls that begin together while there is no token all work."""
    async with opened(server.spec()) as store:
        assert all(await asyncio.gather(*(store.put(f"/c/{number}", b"") for number in range(50))))


async def test_a_wrong_password_is_told_at_once(server: EtcdServer, tmp_path: Path) -> None:
    """A password that etcd refuses is no outage: the error names the settings, and not the password."""
    wrong = tmp_path / "password"
    wrong.write_text("not this")
    async with opened(dataclasses.replace(server.spec(), password_file=wrong)) as store:
        with pytest.raises(StoreError, match="--etcd-user") as raised:
            await store.get("/a")
        assert not isinstance(raised.value, StoreUnavailable)
        assert "not this" not in str(raised.value)


async def test_a_missing_user_is_told_at_once() -> None:
    """An etcd that demands a user says so to who has none."""
    with EtcdServer() as server:
        nobody = server.spec()
        server.demand_user("portway", "open sesame")
        async with opened(nobody) as store:
            with pytest.raises(StoreError, match="demands a user"):
                await store.get("/a")


@pytest.mark.usefixtures("impatient")
async def test_a_wrong_ca_is_an_outage_with_its_reason(server: EtcdServer, tmp_path: Path) -> None:
    """An etcd whose certificate is not trusted is not spoken to."""
    other = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(other)
    async with opened(dataclasses.replace(server.spec(), ca=other)) as store:
        with pytest.raises(StoreUnavailable, match=r"(?i)certificate|handshake"):
            await store.get("/a")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """A missing file is a ConfigError with its name."""
    with pytest.raises(ConfigError, match=r"gone\.pem"):
        EtcdStore(EtcdSpec(("a:1",), secure=True, ca=tmp_path / "gone.pem"))


@pytest.mark.usefixtures("patient")
async def test_a_dead_first_endpoint_is_passed_over(
    server: EtcdServer, dead_endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With several endpoints the ones that are dead cost one failed try, for calls and for watches."""
    async with opened(server.spec(before=(dead_endpoint,))) as store:
        assert await store.put("/d/1", b"x")
    assert given_up(caplog) == [dead_endpoint]
    async with opened(server.spec(before=(dead_endpoint,))) as store:
        watch = store.watch("/d/", Revision(1))
        async with asyncio.timeout(PATIENCE):
            batch = await anext(watch)
        await watch.aclose()
        assert batch[-1].entry.key == "/d/1"
    assert given_up(caplog) == [dead_endpoint] * 2


@pytest.mark.usefixtures("patient")
async def test_a_frozen_first_endpoint_is_passed_over(server: EtcdServer, caplog: pytest.LogCaptureFixture) -> None:
    """A member that accepts and never answers costs one try; a watch that hangs on it moves on as well."""
    with socket.socket() as frozen:
        frozen.bind(("127.0.0.1", 0))
        frozen.listen()
        endpoint = f"127.0.0.1:{frozen.getsockname()[1]}"
        async with opened(server.spec(before=(endpoint,))) as store:
            assert await store.put("/e/1", b"x")
    assert given_up(caplog) == [endpoint]


@pytest.mark.usefixtures("impatient")
async def test_all_endpoints_dead_is_an_outage(dead_endpoint: str) -> None:
    """With nobody there a call raises StoreUnavailable within its time limit and says what it met."""
    async with opened(EtcdSpec((dead_endpoint,))) as store:
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(StoreUnavailable, match=dead_endpoint):
                await store.get("/a")


@pytest.mark.usefixtures("patient")
async def test_an_etcd_without_room_is_told_as_such() -> None:
    """At once: every member refuses, until an operator makes room. Reads go on."""
    with EtcdServer(quota_bytes=1 << 20) as small:
        async with opened(small.spec()) as store:
            await fill_up(store)
            began = asyncio.get_running_loop().time()
            with pytest.raises(StoreFull, match="alarm disarm"):
                await store.put("/full/more", b"")
            assert asyncio.get_running_loop().time() - began < PATIENCE / 2  # it is not asked again
            assert (await store.list("/full/")).entries
