"""The embedded table: as it is shipped, and its file, written and read again."""

import lzma
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from portway_geo import table as table_module
from portway_geo.errors import GeoError
from portway_geo.position import Position, distance_km
from portway_geo.table import EmbeddedTable, Runs, Table, decode, encode, read_table


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

    monkeypatch.setattr(table_module, "decode", broken)
    with pytest.raises(GeoError, match=r"install the package again.*--geoip"):
        read_table()


POSITIONS = (None, Position(50.0, 8.0, "DE"), Position(-33.5, 151.0, "AU"), Position(0.0, 0.0, ""))


def runs(step: int, *pairs: tuple[int, int]) -> Runs:
    typecode = "I" if step <= 32 else "Q"
    return Runs(step, array(typecode, [start for start, _ in pairs]), array("H", [cell for _, cell in pairs]))


TABLE = Table("a source", POSITIONS, runs(24, (0, 0), (256, 1), (70_000, 2)), runs(44, (0, 0), (1 << 31, 3)))


def test_a_table_comes_back_as_it_was() -> None:
    """Source, positions and both families survive."""
    assert decode(encode(TABLE)) == TABLE


def test_the_same_table_is_the_same_bytes() -> None:
    """Rebuilding from the same source changes nothing."""
    assert encode(TABLE) == encode(decode(encode(TABLE)))


def test_a_run_longer_than_a_difference_keeps_its_cell() -> None:
    """A gap of more than 32 bits is written in pieces that say the same."""
    far = Table("s", POSITIONS, TABLE.ipv4, runs(44, (0, 1), (3 << 33, 2)))
    read = decode(encode(far)).ipv6
    cells = dict(zip(read.starts, read.cells, strict=True))
    assert cells.pop(3 << 33) == 2
    assert set(cells.values()) == {1}


@settings(max_examples=10)  # xz at its strongest takes 0.2 s, however little there is
@given(st.lists(st.integers(0, (1 << 24) - 1), unique=True, min_size=1).map(sorted), st.data())
def test_any_runs_survive(starts: list[int], data: st.DataObject) -> None:
    """Whatever the runs are, they are read as they were written."""
    cells = data.draw(st.lists(st.integers(0, 3), min_size=len(starts), max_size=len(starts)))
    table = Table("s", POSITIONS, runs(24, *zip(starts, cells, strict=True)), TABLE.ipv6)
    assert decode(encode(table)) == table


def test_what_cannot_be_numbered_is_not_written() -> None:
    """A run in a cell that is not there, and more cells than a u16 counts, are errors."""
    with pytest.raises(ValueError, match="cell 9 of 4"):
        encode(Table("s", POSITIONS, runs(24, (0, 9)), TABLE.ipv6))
    many = tuple(Position(float(number), 0.0, "") for number in range(65_537))
    with pytest.raises(ValueError, match="65537 cells"):
        encode(Table("s", many, TABLE.ipv4, TABLE.ipv6))


def damaged() -> list[bytes]:
    whole = encode(TABLE)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    inner = lzma.decompress(whole)
    cut = lzma.compress(inner[:-1], check=lzma.CHECK_CRC64)
    other = lzma.compress(inner.replace(b'"format":2', b'"format":3'))
    empty = lzma.compress(b"\0\0\0\2{}")
    return [b"", b"noise", whole[: len(whole) // 2], bytes(flipped), cut, other, empty]


@pytest.mark.parametrize("blob", damaged(), ids=["empty", "noise", "half", "flipped", "cut", "format", "no fields"])
def test_damage_is_found(blob: bytes) -> None:
    """Whatever is wrong with the bytes is a ValueError, never another error and never a wrong table."""
    with pytest.raises(ValueError):
        decode(blob)
