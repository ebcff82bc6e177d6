"""The file of the embedded table: written and read again, and what is damaged is said to be."""

import lzma
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from portway_geo.format import Runs, Table, decode, encode
from portway_geo.locator import Position

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


@settings(deadline=None, max_examples=10)  # xz at its strongest takes 0.2 s, however little there is
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
