"""The embedded GeoIP table: where addresses are looked up when the operator brings no file.

Country and whole degrees, IPv4 in steps of /24, IPv6 in steps of /44, from DB-IP City Lite (CC BY 4.0; README.md has
the attribution). Here: the table in memory, its look-up, and its file, whose layout README.md describes. Not here:
how the table is made from its source (table_builder.py, scripts/build_geoip_table).
"""

import asyncio
import json
import lzma
import re
import struct
import sys
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from itertools import accumulate, islice
from typing import Any, Final

from portway_geo.errors import GeoError
from portway_geo.locator import packed
from portway_geo.position import Position

FORMAT: Final = 2
NOWHERE: Final = 0  # the cell of addresses whose position is unknown
IPV4_BITS: Final = 32
IPV6_BITS: Final = 128

_PACKAGE: Final = "portway_geo"
_FILE: Final = "dbip-city-lite.xz"
_IPV4_BYTES: Final = IPV4_BITS // 8
_DATED: Final = re.compile(r" \d+\.\d+\.(\d{8})\d*\b")  # of the package's version: year, month, day, and more
_LENGTH: Final = struct.Struct(">I")
_MAX_DIFFERENCE: Final = 0xFFFF_FFFF  # u32
_MAX_CELLS: Final = 0x1_0000  # u16
# Sums are accumulated in C without releasing the interpreter's lock. A chunk takes about a millisecond, so an event
# loop in another thread is not delayed for longer.
_CHUNK: Final = 16_384


@dataclass(frozen=True, slots=True)
class Runs:
    """Addresses of one family: those from `starts[i]` (in units of one /step) to the next start are in `cells[i]`."""

    step: int
    starts: "array[int]"
    cells: "array[int]"  # quoted: array can be subscripted at run time from Python 3.12 on


@dataclass(frozen=True, slots=True)
class Table:
    """The content of a table file. `positions` are by cell; that of NOWHERE is None."""

    source: str
    positions: tuple[Position | None, ...]
    ipv4: Runs
    ipv6: Runs


class EmbeddedTable:
    """A Locator over a Table; with none given, over the one in the package, which `load` reads."""

    def __init__(self, table: Table | None = None) -> None:
        self._table = table

    async def load(self) -> None:
        """As Locator.load; the file is read and unpacked in a thread of the loop's executor."""
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

    def made_at(self) -> int:
        """As Locator.made_at."""
        return 0 if self._table is None else made_at(self._table.source)

    def close(self) -> None:
        """As Locator.close; a table has no open file."""


def made_at(source: str) -> int:
    """When the data of a source was made, in seconds since the Unix epoch, by the date in the version of its package;
    0 when it names none."""
    found = _DATED.search(source)
    try:
        return int(datetime.strptime(found[1], "%Y%m%d").replace(tzinfo=UTC).timestamp()) if found else 0
    except ValueError:
        return 0


def read_table() -> Table:
    """The table in the package; takes about half a second. Raises GeoError when it is damaged."""
    try:
        return decode((resources.files(_PACKAGE) / _FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise GeoError(
            f"the GeoIP table of the package portway-geo cannot be read ({error}): "
            "install the package again, or name a .mmdb file with --geoip"
        ) from error


def encode(table: Table) -> bytes:
    """The bytes of a table file; equal tables give equal bytes.

    Raises ValueError for more cells than a u16 can number, and for a run in a cell that does not exist.
    """
    if len(table.positions) > _MAX_CELLS:
        raise ValueError(f"{len(table.positions)} cells are more than the {_MAX_CELLS} the format can number")
    bodies: list[bytes] = []
    parts = []
    for bits, runs in ((IPV4_BITS, table.ipv4), (IPV6_BITS, table.ipv6)):
        if max(runs.cells) >= len(table.positions):
            raise ValueError(f"a run is in cell {max(runs.cells)} of {len(table.positions)}")
        differences, cells = _differences(runs)
        parts.append({"bits": bits, "step": runs.step, "n": len(cells)})
        bodies += [_compress(_little_endian(differences), 4), _compress(_little_endian(cells), 2)]
    header = {
        "format": FORMAT,
        "source": table.source,
        "cells": [p and [_short(p.latitude), _short(p.longitude), p.country] for p in table.positions],
        "parts": parts,
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    return b"".join([_compress(_LENGTH.pack(len(text)) + text, 1), *bodies])


def decode(blob: bytes) -> Table:
    """The table in a file's bytes. Raises ValueError when they are damaged or of another format."""
    try:
        data = memoryview(lzma.decompress(blob))
        (length,) = _LENGTH.unpack_from(data)
        offset = _LENGTH.size + length
        header: dict[str, Any] = json.loads(bytes(data[_LENGTH.size : offset]))
        if header["format"] != FORMAT:
            raise ValueError(f"the table has format {header['format']}; this release reads {FORMAT}")
        positions = tuple(cell and Position(float(cell[0]), float(cell[1]), cell[2]) for cell in header["cells"])
        families: dict[int, Runs] = {}
        for part in header["parts"]:
            families[part["bits"]], offset = _runs(data, offset, part["step"], part["n"])
        return Table(header["source"], positions, families[IPV4_BITS], families[IPV6_BITS])
    except (lzma.LZMAError, struct.error, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"the table is damaged: {error!r}") from error


def _runs(data: memoryview, offset: int, step: int, n: int) -> tuple[Runs, int]:
    """One part, and the offset of the next."""
    middle, end = offset + 4 * n, offset + 6 * n
    if n < 1 or end > len(data):
        raise ValueError(f"the table is damaged: {n} runs do not fit into {len(data)} bytes")
    differences = _from_little_endian("I", data[offset:middle])
    cells = _from_little_endian("H", data[middle:end])
    sums = accumulate(differences)
    starts = array("I" if step <= 32 else "Q")
    while chunk := array(starts.typecode, islice(sums, _CHUNK)):
        starts += chunk
    return Runs(step, starts, cells), end


def _differences(runs: Runs) -> "tuple[array[int], array[int]]":
    """The differences of the starts, each of which fits a u32, and the cells of their runs."""
    differences, cells = array("I"), array("H")
    previous, previous_cell = 0, NOWHERE
    for start, cell in zip(runs.starts, runs.cells, strict=True):
        gap = start - previous
        while gap > _MAX_DIFFERENCE:
            differences.append(_MAX_DIFFERENCE)
            cells.append(previous_cell)
            gap -= _MAX_DIFFERENCE
        differences.append(gap)
        cells.append(cell)
        previous, previous_cell = start, cell
    return differences, cells


def _short(degrees: float) -> float | int:
    """Whole degrees without the ".0" that JSON would write."""
    return int(degrees) if degrees == int(degrees) else degrees


def _compress(data: bytes, width: int) -> bytes:
    """One xz stream, tuned to values of `width` bytes (5 % smaller here than with the defaults)."""
    low_bits = width.bit_length() - 1
    options = {"id": lzma.FILTER_LZMA2, "preset": 9, "lc": min(3, 4 - low_bits), "lp": low_bits, "pb": low_bits}
    filters: Sequence[dict[str, int]] = [options]
    return lzma.compress(data, format=lzma.FORMAT_XZ, filters=filters)


def _little_endian(values: "array[int]") -> bytes:
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values.tobytes()


def _from_little_endian(typecode: str, data: memoryview) -> "array[int]":
    values = array(typecode, b"")
    values.frombytes(bytes(data))
    if sys.byteorder == "big":
        values.byteswap()
    return values
