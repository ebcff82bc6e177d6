"""Which data GeoIP answers from. Here: the choice. Not here: either of the two."""

from pathlib import Path

from portway_geo.database import open_database
from portway_geo.locator import Locator
from portway_geo.table import EmbeddedTable


def open_locator(path: Path | None) -> Locator:
    """The operator's file, or with no path the embedded table, which answers once `load` is done.

    Raises GeoError when the file cannot be used.
    """
    return EmbeddedTable() if path is None else open_database(path)
