"""`portway-admin audit`: who changed what."""

import click
from portway_proto.v1.admin_pb2 import AuditEntry, ListAuditRequest

from portway_registry.admin_cli.connection import Admin, json_option, pass_admin
from portway_registry.admin_cli.output import print_list, when

_COLUMNS = ("WHEN", "ACTOR", "ACTION", "TARGET")


@click.group()
def audit() -> None:
    """What admins have changed: list."""


@audit.command("list")
@click.option(
    "--limit",
    type=click.IntRange(min=1, max=1000),
    default=100,
    show_default=True,
    help="The most entries, the youngest first.",
)
@json_option
@pass_admin
def list_(admin: Admin, limit: int) -> None:
    """List what was changed, the youngest change first; the actor is the id of an admin's token."""
    with admin.calls() as calls:
        found = calls.stub.ListAudit(
            ListAuditRequest(limit=limit), metadata=calls.metadata, timeout=calls.timeout
        ).entries
    print_list(admin, "entries", found, _json, _COLUMNS, _row, "Nothing has been changed yet.")


def _json(entry: AuditEntry) -> dict[str, object]:
    return {"at_ms": entry.at_ms, "actor": entry.actor, "action": entry.action, "target": entry.target}


def _row(entry: AuditEntry) -> list[str]:
    return [when(entry.at_ms), entry.actor, entry.action, entry.target]
