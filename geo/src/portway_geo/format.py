"""The file format of the embedded GeoIP table.

Here: bytes to runs of addresses and back. Not here: where the runs come from (reduction.py) and how they are
searched (table.py).

The file is several xz streams one after another, which decompress as one; each has the filter that suits its
width. Decompressed, it is:

    u32 big-endian      length of the header
    header              JSON: "format": 2, "source": text, "cells": [null, [latitude, longitude, country], ...],
                        "parts": [{"bits": 32, "step": 24, "n": ...}, {"bits": 128, "step": 44, "n": ...}]
    for each part:
        n u32 little-endian   differences of the runs' starts, the first from 0, in units of one /step
        n u16 little-endian   the cell of each run

A run lasts until the next one starts. Cell 0 is null: nothing is known. A run longer than a u32 difference
can say is written as several with the same cell. What damages a file in storage is found by xz's own check sums.
"""

import json
import lzma
import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any

from portway_geo.locator import Position

FORMAT = 2
NOWHERE = 0
IPV4_BITS = 32
IPV6_BITS = 128

_LENGTH = struct.Struct(">I")
_LONGEST = 0xFFFF_FFFF
_MOST_CELLS = 0x1_0000
# Running sums are made in C without letting other threads in; so many at a time take about a millisecond, so
# that an event loop beside the loading thread is not held up.
_CHUNK = 16_384


@dataclass(frozen=True, slots=True)
class Runs:
    """Addresses of one family: the run from `starts[i]` (in units of one /step) on is in cell `cells[i]`."""

    step: int
    starts: "array[int]"
    cells: "array[int]"  # quoted: array can be subscripted at run time from Python 3.12 on


@dataclass(frozen=True, slots=True)
class Table:
    """Everything the file holds."""

    source: str
    positions: tuple[Position | None, ...]
    ipv4: Runs
    ipv6: Runs


def encode(table: Table) -> bytes:
    """The file's bytes, the same for the same table.

    Raises ValueError for more cells than a u16 counts, and for a run whose cell is not there.
    """
    if len(table.positions) > _MOST_CELLS:
        raise ValueError(f"{len(table.positions)} cells are more than the {_MOST_CELLS} the format can number")
    bodies: list[bytes] = []
    parts = []
    for bits, runs in ((IPV4_BITS, table.ipv4), (IPV6_BITS, table.ipv6)):
        if max(runs.cells) >= len(table.positions):
            raise ValueError(f"a run is in cell {max(runs.cells)} of {len(table.positions)}")
        differences, cells = _differences(runs)
        parts.append({"bits": bits, "step": runs.step, "n": len(cells)})
        bodies += [_compress(_little(differences), 4), _compress(_little(cells), 2)]
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
        at = _LENGTH.size + length
        header: dict[str, Any] = json.loads(bytes(data[_LENGTH.size : at]))
        if header["format"] != FORMAT:
            raise ValueError(f"the table has format {header['format']}; this release reads {FORMAT}")
        positions = tuple(cell and Position(float(cell[0]), float(cell[1]), cell[2]) for cell in header["cells"])
        families: dict[int, Runs] = {}
        for part in header["parts"]:
            families[part["bits"]], at = _runs(data, at, part["step"], part["n"])
        return Table(header["source"], positions, families[IPV4_BITS], families[IPV6_BITS])
    except (lzma.LZMAError, struct.error, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"the table is damaged: {error!r}") from error


def _runs(data: memoryview, at: int, step: int, n: int) -> tuple[Runs, int]:
    """One part, and where the next begins."""
    middle, end = at + 4 * n, at + 6 * n
    if n < 1 or end > len(data):
        raise ValueError(f"the table is damaged: {n} runs do not fit into {len(data)} bytes")
    differences = _from_little("I", data[at:middle])
    cells = _from_little("H", data[middle:end])
    sums = accumulate(differences)
    starts = array("I" if step <= 32 else "Q")
    while chunk := array(starts.typecode, islice(sums, _CHUNK)):
        starts += chunk
    return Runs(step, starts, cells), end


def _differences(runs: Runs) -> "tuple[array[int], array[int]]":
    """Differences that fit a u32, with the runs' cells."""
    differences, cells = array("I"), array("H")
    previous, previous_cell = 0, NOWHERE
    for start, cell in zip(runs.starts, runs.cells, strict=True):
        gap = start - previous
        while gap > _LONGEST:
            differences.append(_LONGEST)
            cells.append(previous_cell)
            gap -= _LONGEST
        differences.append(gap)
        cells.append(cell)
        previous, previous_cell = start, cell
    return differences, cells


def _short(degrees: float) -> float | int:
    """Whole degrees without the ".0" that JSON would write."""
    return int(degrees) if degrees == int(degrees) else degrees


def _compress(data: bytes, width: int) -> bytes:
    """One xz stream, tuned to values of `width` bytes (5 % smaller here than the defaults)."""
    low_bits = width.bit_length() - 1
    options = {"id": lzma.FILTER_LZMA2, "preset": 9, "lc": min(3, 4 - low_bits), "lp": low_bits, "pb": low_bits}
    filters: Sequence[dict[str, int]] = [options]
    return lzma.compress(data, format=lzma.FORMAT_XZ, filters=filters)


def _little(values: "array[int]") -> bytes:
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values.tobytes()


def _from_little(typecode: str, data: Iterable[int] | memoryview) -> "array[int]":
    values = array(typecode, b"")
    values.frombytes(bytes(data))
    if sys.byteorder == "big":
        values.byteswap()
    return values
