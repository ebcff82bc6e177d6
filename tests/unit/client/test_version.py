"""portway.version: written down twice, and the same."""

import tomllib
from importlib.metadata import version
from pathlib import Path

from portway.version import VERSION

PYPROJECT = Path(__file__).resolve().parents[3] / "client" / "pyproject.toml"


def test_the_code_says_what_the_distribution_says() -> None:
    """pyproject.toml, the installed metadata and the constant agree."""
    assert tomllib.loads(PYPROJECT.read_text())["project"]["version"] == VERSION
    assert version("portway") == VERSION
