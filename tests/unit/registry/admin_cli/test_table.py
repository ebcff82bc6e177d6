"""Tables: nothing that is shown is cut, whatever the terminal's width."""

import re

from portway_registry.admin_cli.table import Column, table_lines
from rich.cells import cell_len

COLUMNS = (
    Column("LABEL"),
    Column("EPOCH", rank=3),
    Column("HOST", rank=1),
    Column("OPENED", rank=2),
    Column("REASON", wraps=True),
)
LABEL = "abcdefghijklmnop"
HOST = f"{LABEL}.fra.tunnels.example"
REASON = "no connection within 3 s from the registry at 192.0.2.1"
ROWS = [[LABEL, "7", HOST, "2026-01-01", REASON], [LABEL, "8", "b.example", "2026-01-02", "-"]]


def test_without_a_width_a_row_is_a_line() -> None:
    """In a pipe: every column as wide as its widest cell, no space at a line's end."""
    assert table_lines(COLUMNS, ROWS) == [
        "",
        f"LABEL             EPOCH  {'HOST':<36}  OPENED      REASON",
        "-" * 130,
        f"{LABEL}  7      {HOST}  2026-01-01  {REASON}",
        f"{LABEL}  8      {'b.example':<36}  2026-01-02  -",
        "",
    ]


def test_a_terminal_with_room_for_everything_shows_it() -> None:
    """As a pipe does."""
    assert table_lines(COLUMNS, ROWS, 130) == table_lines(COLUMNS, ROWS)


def test_what_matters_least_is_left_out_and_named() -> None:
    """A column of a later rank is shown where one of an earlier rank has no room; long text is wrapped."""
    assert table_lines(COLUMNS, ROWS, 60) == [
        "",
        "LABEL             EPOCH  OPENED      REASON",
        "-" * 60,
        f"{LABEL}  7      2026-01-01  no connection within 3",
        f"{'':<37}s from the registry at",
        f"{'':<37}192.0.2.1",
        f"{LABEL}  8      2026-01-02  -",
        "",
        "No room for HOST: a wider terminal, a pipe and --json have",
        "all columns.",
    ]


def test_no_cell_is_cut() -> None:
    """At any width that has room for a word: labels stay in one piece even where the terminal itself has to wrap the
    line, text has all its words, and a line is no wider than the terminal or than what is always shown."""
    least = len(LABEL) + 2 + 20
    for width in range(20, 140):
        lines = table_lines(COLUMNS, ROWS, width)
        assert max(map(cell_len, lines)) <= max(width, least)
        end = lines.index("", 1)
        note = " ".join(lines[end + 1 :])
        shown = [column for column in COLUMNS if column.name in lines[1]]
        assert [column.name for column in COLUMNS if column not in shown] == re.findall(r"[A-Z]{4,}", note)
        row = " ".join(lines[3 : end - 1]).split()
        for column, cell in zip(COLUMNS, ROWS[0], strict=True):
            assert column not in shown or set(cell.split()) <= set(row)


def test_a_word_that_is_too_long_is_broken() -> None:
    """None of its characters is lost."""
    columns = (Column("A", wraps=True),)
    word = "x" * 50
    lines = table_lines(columns, [[word]], 20)
    assert lines[3:-1] == ["x" * 20, "x" * 20, "x" * 10]


def test_wide_characters_take_two_cells() -> None:
    """Columns stay in line, and a wrapped line has no more cells than there are."""
    columns = (Column("A", wraps=True), Column("B"))
    text = "日本" * 20
    whole = table_lines(columns, [[text, "1"], ["x", "2"]])
    assert whole[3] == f"{text}  1"
    assert whole[4] == f"x{' ' * 79}  2"
    lines = table_lines(columns, [[text, "1"]], 24)[3:-1]
    assert [cell_len(line.split()[0]) for line in lines] == [20, 20, 20, 20]
    assert "".join(line.split()[0] for line in lines) == text


def test_what_others_chose_cannot_control_the_terminal() -> None:
    """Nor begin another line."""
    assert table_lines((Column("A"),), [["a\x1b[2J\nb"]])[3] == "a\ufffd[2J\ufffdb"
