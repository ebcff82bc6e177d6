"""How portway-admin prints: tables, fields and changes for people, one line of JSON for programs.

Here: what all nouns share. Not here: how a table is laid out (table.py); which fields a node or a tunnel has (the
module of its name).
"""

import shutil
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
from portway_registry.admin_cli.table import Column, table_lines

T = TypeVar("T")

_KINDS: Final[Mapping["ChangeKind.ValueType", str]] = {
    CHANGE_KIND_KNOWN: "known",
    CHANGE_KIND_SYNCED: "synced",
    CHANGE_KIND_ADDED: "added",
    CHANGE_KIND_CHANGED: "changed",
    CHANGE_KIND_REMOVED: "removed",
}
_FEW: Final = 3


def print_text(text: str, *, err: bool = False) -> None:
    """One line for people; what others chose in it cannot control the terminal."""
    click.echo(printable_line(text), err=err)


def print_json(value: object) -> None:
    """One line of JSON."""
    click.echo(printable_json(value, sort_keys=True))


def print_result(options: GlobalOptions, as_json: dict[str, object], text: str) -> None:
    """What a command has done: one line for people, or one object."""
    if options.json:
        print_json(as_json)
    else:
        print_text(text)


def print_list(
    options: GlobalOptions,
    noun: str,
    found: Iterable[T],
    as_json: Callable[[T], dict[str, object]],
    columns: Sequence[Column],
    as_row: Callable[[T], Sequence[str]],
    empty: str,
) -> None:
    """A table, or the text `empty` when nothing was found; with --json `{NOUN: [...]}`."""
    if options.json:
        print_json({noun: [as_json(one) for one in found]})
    else:
        rows = [as_row(one) for one in found]
        if not rows:
            print_text(empty)
            return
        click.echo("\n".join(table_lines(columns, rows, _room())))


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


def few(names: Sequence[str]) -> str:
    """The first few names, for a cell of a table; a dash for none. --json has all."""
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return f"{', '.join(names[:_FEW])}{more}" if names else "-"


def _room() -> int | None:
    """The width of the terminal that standard output is; None when it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
