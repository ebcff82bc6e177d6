"""What a replica does beside serving."""

import logging

import pytest
from portway_geo.position import Position
from portway_registry import server


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
