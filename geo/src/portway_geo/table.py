"""The embedded table: where the registry looks when the operator brings no file of their own.

Country and whole degrees, IPv4 in steps of /24, IPv6 in steps of /44, from DB-IP City Lite ("IP Geolocation by
DB-IP", CC BY 4.0; see NOTICE). Rebuilt by scripts/build_geoip_table.py, which says how far it is from its source.
Here: loading and searching it. Not here: its format (format.py).
"""

import asyncio
from bisect import bisect_right
from importlib import resources

from portway_geo.errors import GeoError
from portway_geo.format import IPV4_BITS, IPV6_BITS, Table, decode
from portway_geo.locator import Position, packed

_PACKAGE = "portway_geo"
_FILE = "dbip-city-lite.xz"
_IPV4_BYTES = IPV4_BITS // 8


class EmbeddedTable:
    """A Locator over a Table; with none given, over the one in the package, read when `load` is called."""

    def __init__(self, table: Table | None = None) -> None:
        self._table = table

    async def load(self) -> None:
        """As Locator.load; the reading and unpacking are done in a thread of the loop's executor."""
        if self._table is None:
            self._table = await asyncio.to_thread(read_table)

    def locate(self, address: str) -> Position | None:
        """As Locator.locate."""
        table = self._table
        raw = packed(address)
        if table is None or raw is None:
            return None
        if len(raw) == _IPV4_BYTES:
            runs, bits = table.ipv4, IPV4_BITS
        else:
            runs, bits = table.ipv6, IPV6_BITS
        step = int.from_bytes(raw) >> (bits - runs.step)
        run = bisect_right(runs.starts, step) - 1
        return table.positions[runs.cells[run]] if run >= 0 else None

    def close(self) -> None:
        """As Locator.close; a table holds no file."""


def read_table() -> Table:
    """The package's own table; takes about half a second. Raises GeoError when it is damaged."""
    try:
        return decode((resources.files(_PACKAGE) / _FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise GeoError(
            f"the GeoIP table that comes with portway-registry cannot be read ({error}): "
            "install the package again, or name a .mmdb file with --geoip"
        ) from error
