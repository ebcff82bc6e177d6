"""The data that GeoIP answers from: the operator's own .mmdb file, or the embedded table.

Two layouts of .mmdb are read: MaxMind's (GeoIP2 and GeoLite2 City, Enterprise, and others in that layout), and the flat
one of DB-IP's City Lite packages. A file is mapped into memory and never reopened: a newer file is used after a
restart. Replace one by renaming a new one over it, never by writing into it.

maxminddb is imported when a file is opened.
"""

import ipaddress
import logging
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from portway_geo.errors import GeoError
from portway_geo.locator import Locator, packed
from portway_geo.position import Position
from portway_geo.table import EmbeddedTable

if TYPE_CHECKING:
    import maxminddb
    import maxminddb.types

logger = logging.getLogger(__name__)

_Lookup = Callable[[ipaddress.IPv4Address | ipaddress.IPv6Address], Position | None]

# The first records of a file may lack a position; a file has none when all of these lack it.
_SAMPLED_RECORDS: Final = 1_000
_ADVICE: Final = (
    "give --geoip a City database (GeoLite2-City.mmdb, GeoIP2-City.mmdb, DB-IP City Lite), "
    "or leave it out for the embedded table"
)


def open_locator(path: Path | None) -> Locator:
    """The operator's file, or without a path the embedded table, which answers after `load`.

    Raises GeoError when the file cannot be used.
    """
    return EmbeddedTable() if path is None else open_database(path)


class Database:
    """A Locator over an open .mmdb file."""

    def __init__(self, path: Path, lookup: _Lookup, close: Callable[[], None], made_at: int) -> None:
        self._path = path
        self._lookup = lookup
        self._close = close
        self._made_at = made_at
        self._damage_logged = False

    async def load(self) -> None:
        """As Locator.load; `open_database` has opened and checked the file."""

    def locate(self, address: str) -> Position | None:
        """As Locator.locate; an address in a damaged part of the file is unknown, and the first is logged."""
        import maxminddb

        raw = packed(address)
        if raw is None:
            return None
        try:
            return self._lookup(ipaddress.ip_address(raw))
        except (maxminddb.InvalidDatabaseError, ValueError, TypeError, KeyError) as error:
            if not self._damage_logged:
                self._damage_logged = True
                logger.warning("geoip file is damaged, some clients are not located: %s: %s", self._path, error)
            return None

    def made_at(self) -> int:
        """As Locator.made_at."""
        return self._made_at

    def close(self) -> None:
        """As Locator.close."""
        self._close()


def open_database(path: Path) -> Database:
    """Open and check a file. Raises GeoError when it is missing, damaged or of neither layout."""
    import maxminddb

    try:
        reader = maxminddb.open_database(path)
    except FileNotFoundError as error:
        raise GeoError(f"the GeoIP file {path} does not exist: correct the path, or leave --geoip out") from error
    except OSError as error:
        raise GeoError(f"the GeoIP file {path} cannot be read ({error}): make it a readable file") from error
    except (maxminddb.InvalidDatabaseError, ValueError) as error:
        raise GeoError(f"{path} is not a MaxMind DB file, or is damaged ({error}): {_ADVICE}") from error
    try:
        database = _database(path, reader)
    except BaseException:
        reader.close()
        raise
    return database


def _database(path: Path, reader: "maxminddb.Reader") -> Database:
    """The open file with the lookup of its layout."""
    import maxminddb

    metadata = reader.metadata()
    database_type, made_at = metadata.database_type, max(0, metadata.build_epoch)
    try:
        sample = [record for _, record in islice(reader, _SAMPLED_RECORDS) if isinstance(record, dict)]
    except (maxminddb.InvalidDatabaseError, ValueError) as error:
        raise GeoError(f"the GeoIP file {path} is damaged ({error}): fetch it again") from error
    if any("latitude" in record for record in sample):
        return Database(path, _flat_lookup(reader), reader.close, made_at)
    if any("location" in record for record in sample) and ("City" in database_type or "Enterprise" in database_type):
        return Database(path, _city_lookup(reader), reader.close, made_at)
    raise GeoError(f"the GeoIP file {path} is of type {database_type!r} and has no positions in it: {_ADVICE}")


def _city_lookup(reader: "maxminddb.Reader") -> _Lookup:
    """MaxMind's layout. Each `Locate` asks: the record is read as it is, without a library's objects around it."""

    def lookup(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Position | None:
        record = reader.get(address)
        if not isinstance(record, dict):
            return None
        location = _part(record, "location")
        country = _part(record, "country").get("iso_code") or _part(record, "registered_country").get("iso_code")
        return _position(location.get("latitude"), location.get("longitude"), country)

    return _within_family(lookup, reader.metadata().ip_version)


def _part(record: "dict[str, maxminddb.types.Record]", name: str) -> "dict[str, maxminddb.types.Record]":
    part = record.get(name)
    return part if isinstance(part, dict) else {}


def _flat_lookup(reader: "maxminddb.Reader") -> _Lookup:
    """DB-IP's flat layout: latitude, longitude and country_code side by side."""

    def lookup(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Position | None:
        record = reader.get(address)
        if not isinstance(record, dict):
            return None
        return _position(record.get("latitude"), record.get("longitude"), record.get("country_code"))

    return _within_family(lookup, reader.metadata().ip_version)


def _within_family(lookup: _Lookup, ip_version: int) -> _Lookup:
    """None for an IPv6 address where the file has IPv4 only, for which the readers would raise."""
    if ip_version != 4:
        return lookup
    return lambda address: lookup(address) if address.version == 4 else None


def _position(latitude: object, longitude: object, country: object) -> Position | None:
    """A position, or None for values that are not degrees."""
    if not isinstance(latitude, int | float) or not isinstance(longitude, int | float):
        return None
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        return None
    return Position(float(latitude), float(longitude), country if isinstance(country, str) else "")
