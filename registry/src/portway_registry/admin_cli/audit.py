"""`portway-admin audit`: the changes that admins and joining nodes have made, and failed authentications."""

from itertools import islice

import click
from portway_proto.v1.admin_pb2 import AuditEntry, ListAuditRequest

from portway_registry.admin_cli.connection import GlobalOptions, json_option, pass_options
from portway_registry.admin_cli.output import print_list, utc_time
from portway_registry.admin_cli.table import Column

_PAGE = 1000  # the registry's largest
_COLUMNS = (
    Column("WHEN"),
    Column("ACTOR"),
    Column("ACTION"),
    Column("TARGET", wraps=True),
)


@click.group()
def audit() -> None:
    """Changes that admins have made, and failed authentications: list."""


@audit.command("list")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="The largest number of entries to print.",
)
@json_option
@pass_options
def list_(options: GlobalOptions, limit: int) -> None:
    """List the changes, the newest first.

    The actor is the id of an admin's token or of an invitation. Failed authentications are counted by address, once a
    minute at most.
    """
    with options.calls() as calls:
        pages = calls.pages(calls.stub.ListAudit, ListAuditRequest(page_size=min(limit, _PAGE)))
        found = list(islice((one for page in pages for one in page.entries), limit))
    print_list(options, "entries", found, _json, _COLUMNS, _row, "Nothing has been changed yet.")


def _json(entry: AuditEntry) -> dict[str, object]:
    return {"at_ms": entry.at_ms, "actor": entry.actor, "action": entry.action, "target": entry.target}


def _row(entry: AuditEntry) -> list[str]:
    return [utc_time(entry.at_ms), entry.actor, entry.action, entry.target]
