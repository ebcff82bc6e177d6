"""What a replica does beside serving."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from portway_geo.position import Position
from portway_proto.v1.admin_pb2 import GetHealthRequest
from portway_proto.v1.admin_pb2_grpc import AdminStub
from portway_registry import server
from portway_registry.config import Config
from portway_registry.errors import StoreFull
from portway_registry.server import Registry
from portway_registry.state import keys, replica
from portway_registry.store.contract import Write
from portway_registry.store.embedded import EmbeddedStore
from portway_registry.store.open import open_store
from portway_runtime.errors import NoThread
from portway_testkit.clusters.registry import Pki, bearer, channel, running
from portway_testkit.clusters.replicas import LateUntilRead
from portway_testkit.processes.threads import no_more_threads


class Locator:
    """Needs a thread, as the embedded table does."""

    def __init__(self) -> None:
        self.tries = 0

    async def load(self) -> None:
        self.tries += 1
        if self.tries < 3:
            raise RuntimeError("can't start new thread")

    def locate(self, address: str) -> Position | None:
        return None

    def made_at(self) -> int:
        return 0

    def close(self) -> None: ...


async def test_geoip_is_loaded_once_there_is_a_thread(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Until then clients are not located, and the replica serves."""
    monkeypatch.setattr(server, "_LOAD_AGAIN", 0.0)
    locator = Locator()
    with caplog.at_level(logging.WARNING):
        await server._load(locator)
    assert locator.tries == 3
    assert [record.getMessage() for record in caplog.records] == ["clients are not located yet"] * 2


async def test_no_replica_starts_without_threads(pki: Pki, tmp_path: Path) -> None:
    """gRPC would end the process in the middle; nothing was opened by then."""
    registry = Registry(pki.config(tmp_path))
    with no_more_threads(), pytest.raises(NoThread, match="raise the limit"):
        await registry.start()
    await registry.start()
    await registry.stop()


async def test_a_full_store_keeps_no_replica_from_starting(
    pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It serves what it can read; its own record follows once there is room."""
    config = pki.config(tmp_path, store=f"embedded:{tmp_path / 'store.db'}")
    full, written = True, asyncio.Event()
    await started_once(config)
    write = EmbeddedStore.write

    async def write_if_there_is_room(store: EmbeddedStore, writes: Sequence[Write]) -> tuple[bool, ...]:
        if full:
            raise StoreFull("no room")
        done = await write(store, writes)
        if any(one.key.startswith(keys.REPLICAS) for one in writes):
            written.set()
        return done

    monkeypatch.setattr(EmbeddedStore, "write", write_if_there_is_room)
    monkeypatch.setattr(replica, "_PAUSE", 0.02)
    registry = Registry(config)
    async with asyncio.timeout(20):
        await registry.start()
        assert registry.address
        assert "since the store is full" in caplog.text
        full = False
        await written.wait()
    await registry.stop()


async def test_a_replica_s_record_is_taken_away_when_nothing_writes_it_any_more(
    pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was written again would be waited for until its lease ends."""
    done: list[str] = []
    run, close = replica.Replica.run, replica.Replica.close

    async def noted_run(self: replica.Replica) -> None:
        try:
            await run(self)
        finally:
            done.append("written no more")

    async def noted_close(self: replica.Replica) -> None:
        await close(self)
        done.append("taken away")

    monkeypatch.setattr(replica.Replica, "run", noted_run)
    monkeypatch.setattr(replica.Replica, "close", noted_close)
    await started_once(pki.config(tmp_path))
    assert done == ["written no more", "taken away"]


async def test_a_replica_that_serves_knows_of_itself(pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However late it hears of changes: a node that joins at once is told where registries serve nodes."""

    def open_late(spec: Any, *, on_failure: Callable[[BaseException], None]) -> LateUntilRead:
        late = LateUntilRead(open_store(spec, on_failure=on_failure), owned=True)
        late.hold(keys.REPLICAS)
        return late

    monkeypatch.setattr("portway_registry.cluster.open_store", open_late)
    config = pki.config(tmp_path)
    async with running(config) as registry, channel(registry.address, pki.ca) as public:
        assert config.admin_token_file is not None
        shown = bearer(config.admin_token_file.read_text().strip())
        told = await AdminStub(public).GetHealth(GetHealthRequest(), metadata=shown)
    assert [one.answers for one in told.replicas] == [True]


async def started_once(config: Config) -> None:
    registry = Registry(config)
    await registry.start()
    await asyncio.sleep(0)
    await registry.stop()
