"""Which data answers; operators' .mmdb files in both layouts, sound and otherwise."""

from pathlib import Path
from typing import Any

import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet
from portway_geo.database import Database, open_database, open_locator
from portway_geo.errors import GeoError
from portway_geo.position import Position
from portway_geo.table import EmbeddedTable
from portway_testkit.clusters.registry import loopback_geoip

CITY = {"country": {"iso_code": "DE"}, "location": {"latitude": 50.1, "longitude": 8.7}}
FLAT = {"country_code": "DE", "latitude": 50.1, "longitude": 8.7, "city": "Frankfurt"}
FRANKFURT = Position(50.1, 8.7, "DE")


def write(path: Path, database_type: str, records: dict[str, dict[str, Any]], *, ip_version: int = 6) -> Path:
    """A file as MMDBWriter makes it; IPv4 networks lie within ::/96 as in MaxMind's own."""
    writer = MMDBWriter(
        ip_version=ip_version, ipv4_compatible=ip_version == 6, database_type=database_type, float_type="f64"
    )
    for network, record in records.items():
        writer.insert_network(IPSet([network]), record)
    writer.to_db_file(str(path))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "geo.mmdb"


@pytest.mark.parametrize(
    ("database_type", "record"),
    [
        ("GeoLite2-City", CITY),
        ("GeoIP2-City", CITY),
        ("GeoIP2-Enterprise", CITY),
        ("DBIP-City-Lite", CITY),
        ("ipinfo dbip-city.mmdb", FLAT),
        ("My-Own", FLAT),
    ],
)
async def test_both_layouts_are_read_in_both_families(path: Path, database_type: str, record: dict[str, Any]) -> None:
    """MaxMind's layout and the flat one of DB-IP, IPv4, IPv6 and mapped addresses."""
    database = open_database(write(path, database_type, {"1.2.3.0/24": record, "2a00:1450::/32": record}))
    await database.load()
    for address in ("1.2.3.4", "2a00:1450::1", "::ffff:1.2.3.4"):
        assert database.locate(address) == FRANKFURT
    for address in ("1.2.4.4", "2a01::1", "", "name", "127.0.0.1"):
        assert database.locate(address) is None
    database.close()
    database.close()


def test_a_file_for_ipv4_alone_knows_no_ipv6(path: Path) -> None:
    """An IPv6 client is not located by it, and nothing is raised."""
    database = open_database(write(path, "GeoLite2-City", {"1.2.3.0/24": CITY}, ip_version=4))
    assert database.locate("1.2.3.4") == FRANKFURT
    assert database.locate("2a00:1450::1") is None
    database.close()


@pytest.mark.parametrize(
    ("record", "position"),
    [
        ({"country": {"iso_code": "DE"}}, None),
        ({"location": {"latitude": 50.1, "longitude": 8.7}}, Position(50.1, 8.7, "")),
        (
            {"registered_country": {"iso_code": "FR"}, "location": {"latitude": 1.0, "longitude": 2.0}},
            Position(1, 2, "FR"),
        ),
        ({"location": {"latitude": 95.0, "longitude": 8.7}}, None),
        ({"location": "50.1 8.7", "country": {"iso_code": "DE"}}, None),
        ({"location": {"latitude": 1.0, "longitude": 2.0}, "country": "DE"}, Position(1, 2, "")),
    ],
)
def test_a_record_without_a_sound_position_has_none(
    path: Path, record: dict[str, Any], position: Position | None
) -> None:
    """Missing and impossible degrees are no position; a country falls back to the registered one."""
    database = open_database(write(path, "GeoLite2-City", {"1.0.0.0/24": CITY, "1.2.3.0/24": record}))
    assert database.locate("1.2.3.4") == position
    database.close()


def test_a_flat_record_with_texts_for_degrees_has_none(path: Path) -> None:
    """Degrees that are no numbers are no position."""
    database = open_database(write(path, "flat", {"1.0.0.0/24": FLAT, "1.2.3.0/24": FLAT | {"latitude": "50"}}))
    assert database.locate("1.2.3.4") is None
    database.close()


@pytest.mark.parametrize(
    ("database_type", "record"),
    [("GeoLite2-ASN", {"autonomous_system_number": 1}), ("GeoLite2-Country", {"country": {"iso_code": "DE"}})],
)
def test_a_file_without_positions_is_refused(path: Path, database_type: str, record: dict[str, Any]) -> None:
    """A database of another kind is an error that names the right kinds."""
    with pytest.raises(GeoError, match=f"{database_type}.*no positions.*GeoLite2-City"):
        open_database(write(path, database_type, {"1.2.3.0/24": record}))


def test_a_file_that_is_missing_or_none_is_refused(path: Path) -> None:
    """A wrong path, a folder, noise and a cut file are errors that say which file and what to do."""
    with pytest.raises(GeoError, match="does not exist"):
        open_database(path)
    with pytest.raises(GeoError, match="not a MaxMind DB file"):
        open_database(path.parent)
    path.write_bytes(b"noise" * 100)
    with pytest.raises(GeoError, match="not a MaxMind DB file"):
        open_database(path)
    whole = write(path, "GeoLite2-City", {"1.2.3.0/24": CITY}).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(GeoError, match=r"geo\.mmdb"):
        open_database(path)


def test_the_operator_s_file_wins(tmp_path: Path) -> None:
    """With a file it is the file, without one the table that comes along."""
    assert isinstance(open_locator(None), EmbeddedTable)
    opened = open_locator(loopback_geoip(tmp_path / "city.mmdb"))
    assert isinstance(opened, Database)
    opened.close()
