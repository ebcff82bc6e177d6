"""What the registry's ports need before they are opened."""

import tempfile
from pathlib import Path

import pytest
from portway_registry.errors import ConfigError
from portway_registry.ports import GrpcPorts


def test_without_room_for_its_own_sockets_a_registry_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full or missing TMPDIR."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match="set TMPDIR"):
        GrpcPorts(1, 100)
