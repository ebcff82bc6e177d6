"""portway_runtime.version: written down once, and read by every distribution."""

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from portway_runtime.version import VERSION

ROOT = Path(__file__).resolve().parents[3]
MEMBERS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["workspace"]["members"]


@pytest.mark.parametrize("folder", MEMBERS)
def test_a_distribution_has_the_version_that_the_code_says(folder: str) -> None:
    """Its pyproject.toml has none of its own, and its installed metadata agrees."""
    project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
    assert "version" not in project
    assert version(project["name"]) == VERSION
