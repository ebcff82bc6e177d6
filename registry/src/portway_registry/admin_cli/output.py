"""How portway-admin prints: tables, fields and changes for people, one line of JSON for programs.

Here: what all nouns share. Not here: which fields a node or a tunnel has (the module of its name).
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

import click
from portway_proto.v1.admin_pb2 import (
    CHANGE_KIND_ADDED,
    CHANGE_KIND_CHANGED,
    CHANGE_KIND_KNOWN,
    CHANGE_KIND_REMOVED,
    CHANGE_KIND_SYNCED,
    ChangeKind,
)
from portway_runtime.printable import printable_json, printable_line

from portway_registry.admin_cli.connection import GlobalOptions

T = TypeVar("T")

_KINDS: Final[Mapping["ChangeKind.ValueType", str]] = {
    CHANGE_KIND_KNOWN: "known",
    CHANGE_KIND_SYNCED: "synced",
    CHANGE_KIND_ADDED: "added",
    CHANGE_KIND_CHANGED: "changed",
    CHANGE_KIND_REMOVED: "removed",
}


def print_text(text: str, *, err: bool = False) -> None:
    """One line for people; what others chose in it cannot control the terminal."""
    click.echo(printable_line(text), err=err)


def print_json(value: object) -> None:
    """One line of JSON."""
    click.echo(printable_json(value, sort_keys=True))


def print_list(
    options: GlobalOptions,
    noun: str,
    found: Iterable[T],
    as_json: Callable[[T], dict[str, object]],
    columns: Sequence[str],
    as_row: Callable[[T], Sequence[str]],
    empty: str,
) -> None:
    """A table, or the text `empty` when nothing was found; with --json `{NOUN: [...]}`."""
    if options.json:
        print_json({noun: [as_json(one) for one in found]})
    else:
        _print_table(columns, [as_row(one) for one in found], empty)


def print_fields(fields: Mapping[str, str]) -> None:
    """A line for each field: its name, padded, and its value."""
    width = max(map(len, fields)) + 2
    for name, value in fields.items():
        print_text(f"{name:<{width}}{value}")


def print_changes(
    options: GlobalOptions,
    changes: Iterable[tuple["ChangeKind.ValueType", T]],
    noun: str,
    as_json: Callable[[T], dict[str, object]],
    as_line: Callable[[T], str],
) -> None:
    """A line for each change as it arrives, until the stream ends.

    With --json `{"kind": ..., NOUN: ...}`; the line of kind "synced", after what was known before, has no NOUN.
    """
    for number, value in changes:
        kind = _KINDS.get(number)
        if kind is None:
            continue  # a kind of a later release
        if options.json:
            print_json({"kind": kind} if kind == "synced" else {"kind": kind, noun: as_json(value)})
        elif kind != "synced":
            print_text(f"{datetime.now(UTC):%H:%M:%SZ}  {kind:<8} {as_line(value)}")


def utc_time(ms: int) -> str:
    """A time in milliseconds since 1970 as text, in UTC; a dash for 0, which means none."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S}Z" if ms else "-"


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
    if not rows:
        print_text(empty)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=not sys.stdout.isatty())
    for row in rows:
        table.add_row(*(Text(printable_line(cell)) for cell in row))
    # Into a pipe nothing is cut to a terminal's width.
    Console(width=None if sys.stdout.isatty() else 500).print(table)
