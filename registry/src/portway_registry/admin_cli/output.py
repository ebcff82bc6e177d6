"""How lists and changes are shown, alike for every noun.

Here: times, states, and the loop of a watch. Not here: what a node or a tunnel shows (the module of its name).
"""

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

from portway_registry.admin_cli.connection import Admin, printable

T = TypeVar("T")

_KINDS: Final[Mapping["ChangeKind.ValueType", str]] = {
    CHANGE_KIND_KNOWN: "known",
    CHANGE_KIND_SYNCED: "synced",
    CHANGE_KIND_ADDED: "added",
    CHANGE_KIND_CHANGED: "changed",
    CHANGE_KIND_REMOVED: "removed",
}


def when(ms: int) -> str:
    """A time of the registry's, in UTC; a dash for none."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S}Z" if ms else "-"


def print_list(
    admin: Admin,
    noun: str,
    found: Iterable[T],
    as_json: Callable[[T], dict[str, object]],
    columns: Sequence[str],
    as_row: Callable[[T], Sequence[str]],
    empty: str,
) -> None:
    """Print all that was found: a table, or `empty` where there is nothing; a program gets `{NOUN: [...]}`."""
    if admin.json:
        admin.print_json({noun: [as_json(one) for one in found]})
    else:
        admin.print_table(columns, [as_row(one) for one in found], empty)


def print_changes(
    admin: Admin,
    changes: Iterable[tuple["ChangeKind.ValueType", T]],
    noun: str,
    as_json: Callable[[T], dict[str, object]],
    as_line: Callable[[T], str],
) -> None:
    """Print each change as a line of its own, at once, until the stream ends.

    A program gets `{"kind": ..., NOUN: ...}`; the line of kind "synced", after what was known before, has no NOUN.
    """
    for number, value in changes:
        kind = _KINDS.get(number)
        if kind is None:
            continue  # a later release's, of which nothing can be said
        if admin.json:
            admin.print_json({"kind": kind} if kind == "synced" else {"kind": kind, noun: as_json(value)})
        elif kind != "synced":
            click.echo(f"{datetime.now(UTC):%H:%M:%SZ}  {kind:<8} {printable(as_line(value))}")
