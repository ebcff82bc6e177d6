"""The table that comes with the registry, as it is shipped."""

import pytest
from portway_geo import table
from portway_geo.errors import GeoError
from portway_geo.format import Table
from portway_geo.locator import Position
from portway_geo.position import distance_km
from portway_geo.table import EmbeddedTable, read_table


@pytest.fixture(scope="module")
def shipped() -> Table:
    return read_table()


@pytest.fixture(scope="module")
def locator(shipped: Table) -> EmbeddedTable:
    return EmbeddedTable(shipped)


@pytest.mark.parametrize(
    ("address", "country", "near"),
    [
        # University networks stay where their university is.
        ("18.9.22.69", "US", Position(42.4, -71.1)),
        ("130.149.7.201", "DE", Position(52.5, 13.3)),
        ("131.111.150.25", "GB", Position(52.2, 0.1)),
        ("133.11.0.1", "JP", Position(35.7, 139.7)),
        ("2001:638:904::1", "DE", Position(51, 10)),
        ("2001:630:212::1", "GB", Position(52, -1)),
    ],
)
def test_known_networks_are_found(locator: EmbeddedTable, address: str, country: str, near: Position) -> None:
    """IPv4 and IPv6 networks that have been at one place for decades are in their country, within 600 km."""
    found = locator.locate(address)
    assert found is not None
    assert found.country == country
    assert distance_km(found, near) < 600


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.1.1", "192.168.0.1", "::1", "fe80::1", "fd00::1", "", "name"])
def test_what_is_nowhere_is_not_known(locator: EmbeddedTable, address: str) -> None:
    """Private addresses and garbage have no position."""
    assert locator.locate(address) is None


def test_a_mapped_address_is_found_as_ipv4(locator: EmbeddedTable) -> None:
    """What comes in over a dual-stack socket is found like what does not."""
    assert locator.locate("::ffff:18.9.22.69") == locator.locate("18.9.22.69")


def test_it_names_its_source(shipped: Table) -> None:
    """The attribution that the licence demands is in the file itself."""
    assert "IP Geolocation by DB-IP" in shipped.source
    assert "CC BY 4.0" in shipped.source


async def test_before_it_is_loaded_nobody_is_located() -> None:
    """A registry serves while the table loads; loading twice is no error."""
    locator = EmbeddedTable()
    assert locator.locate("18.9.22.69") is None
    await locator.load()
    first = locator.locate("18.9.22.69")
    await locator.load()
    assert first == locator.locate("18.9.22.69")
    assert first is not None
    locator.close()


def test_a_damaged_table_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation is a GeoError that names both remedies."""

    def broken(blob: bytes) -> Table:
        raise ValueError("damaged")

    monkeypatch.setattr(table, "decode", broken)
    with pytest.raises(GeoError, match=r"install the package again.*--geoip"):
        read_table()
