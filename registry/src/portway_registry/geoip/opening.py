"""Which data GeoIP answers from. Here: the choice. Not here: either of the two."""

from pathlib import Path

from portway_registry.geoip.database import open_database
from portway_registry.geoip.locator import Locator
from portway_registry.geoip.table import EmbeddedTable


def open_locator(path: Path | None) -> Locator:
    """The operator's file, or with no path the embedded table, which answers once `load` is done.

    Raises ConfigError when the file cannot be used.
    """
    return EmbeddedTable() if path is None else open_database(path)
