"""Tables for people, laid out for the width that there is.

On a terminal that is too narrow for all columns, those that matter least are left out and named, and long text is
wrapped; nothing that is shown is cut. Without a width, as in a pipe, every column is shown and each row is one line.
Widths are in cells of a terminal, of which a character takes one, two or none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from portway_runtime.printable import printable_line
from rich.cells import cell_len, chop_cells

_GAP: Final = "  "
# Cells that text has at least before it is wrapped: four short words.
_WRAPPED_WIDTH: Final = 20


@dataclass(frozen=True, slots=True)
class Column:
    """A column's name. Those of rank 0 are always shown, the others where there is room, the lowest rank first. The
    text of one that `wraps` may take several lines."""

    name: str
    rank: int = 0
    wraps: bool = False


def table_lines(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """The lines of a table, the names of the columns first; `width` is in cells. What others chose in the rows cannot
    control the terminal."""
    cells = [[printable_line(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip((one.name for one in columns), *cells, strict=True)]
    shown = _fitting(columns, widths, width)
    lines = ["", _line([columns[number].name for number in shown], [widths[number] for number in shown])]
    lines.append("-" * (sum(widths[at] for at in shown) + len(_GAP) * (len(shown) - 1)))
    for row in cells:
        lines += _row_lines([row[number] for number in shown], [widths[number] for number in shown])
    lines.append("")
    missing = [column.name for number, column in enumerate(columns) if number not in shown]
    if width is not None and missing:
        lines += _wrap(
            f"No room for {', '.join(missing)}: a wider terminal, a pipe and --json have all columns.", width
        )
    return lines


def _fitting(columns: Sequence[Column], widths: list[int], width: int | None) -> list[int]:
    """The numbers of the columns that are shown, in their order. `widths` become those to show: a wrapped column may
    get less than its widest cell needs."""
    everything = list(range(len(columns)))
    if width is None:
        return everything
    wrapped = [number for number in everything if columns[number].wraps]
    whole = {number: widths[number] for number in wrapped}
    for number in wrapped:
        widths[number] = min(whole[number], _WRAPPED_WIDTH)
    shown: list[int] = []
    room = width + len(_GAP)
    for number in sorted(everything, key=lambda number: columns[number].rank):
        needed = widths[number] + len(_GAP)
        if columns[number].rank == 0 or needed <= room:
            shown.append(number)
            room -= needed
    for number in wrapped:
        if number in shown:
            more = min(max(room, 0), whole[number] - widths[number])
            widths[number] += more
            room -= more
    return sorted(shown)


def _row_lines(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """One line, or several when a cell is wider than its column."""
    if all(cell_len(cell) <= width for cell, width in zip(row, widths, strict=True)):
        return [_line(row, widths)]
    wrapped = [_wrap(cell, width) for cell, width in zip(row, widths, strict=True)]
    height = max(map(len, wrapped))
    return [_line([lines[at] if at < len(lines) else "" for lines in wrapped], widths) for at in range(height)]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
    return _GAP.join(padded).rstrip()


def _wrap(text: str, width: int) -> list[str]:
    """Lines of `width` cells at most, between words where that is possible."""
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        for part in chop_cells(word, width):
            longer = f"{line} {part}" if line else part
            if line and cell_len(longer) > width:
                lines.append(line)
                longer = part
            line = longer
    return [*lines, line]
