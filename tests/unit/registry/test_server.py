"""What a replica does beside serving."""

import logging
from pathlib import Path

import pytest
from portway_geo.position import Position
from portway_registry import server
from portway_registry.server import Registry
from portway_runtime.errors import NoThread
from portway_testkit.clusters.registry import Pki
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
