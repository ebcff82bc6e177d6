"""`portway-admin invitation`: tokens with which new nodes join. `node invite` creates one and prints it once."""

import click
from portway_proto.v1.admin_pb2 import Invitation, ListInvitationsRequest, RevokeInvitationRequest

from portway_registry.admin_cli.connection import GlobalOptions, json_option, pass_options
from portway_registry.admin_cli.output import print_list, print_result, utc_time
from portway_registry.admin_cli.table import Column

_COLUMNS = (
    Column("ID"),
    Column("REGION"),
    Column("NODE"),
    Column("CREATED", rank=4),
    Column("EXPIRES"),
    Column("USED BY", rank=1),
    Column("USED", rank=2),
    Column("REVOKED", rank=3),
)


@click.group()
def invitation() -> None:
    """Invitations of new nodes: list, revoke.

    `node invite` creates one.
    """


@invitation.command("list")
@click.option("--all", "everything", is_flag=True, help="Include used, revoked and expired invitations.")
@json_option
@pass_options
def list_(options: GlobalOptions, everything: bool) -> None:
    """List the invitations, without their tokens."""
    request = ListInvitationsRequest(include_over=everything)
    with options.calls() as calls:
        found = [one for page in calls.pages(calls.stub.ListInvitations, request) for one in page.invitations]
    print_list(options, "invitations", found, invitation_json, _COLUMNS, _row, "No node is invited.")


@invitation.command()
@click.argument("id")
@json_option
@pass_options
def revoke(options: GlobalOptions, id: str) -> None:  # noqa: A002 - its name on the command line
    """Revoke an invitation that has not been used yet. `invitation list` prints the IDs."""
    request = RevokeInvitationRequest(id=id)
    with options.calls() as calls:
        found = calls.call(calls.stub.RevokeInvitation, request).invitation
    text = f"Invitation {found.id} is revoked since {utc_time(found.revoked_at_ms)}."
    print_result(options, invitation_json(found), text)


def invitation_json(found: Invitation) -> dict[str, object]:
    """An invitation for programs, with the names of the protocol's Invitation; None for what did not happen."""
    return {
        "id": found.id,
        "region": found.region,
        "node": found.node or None,
        "created_by": found.created_by,
        "created_at_ms": found.created_at_ms,
        "expires_at_ms": found.expires_at_ms,
        "used_at_ms": found.used_at_ms or None,
        "used_by": found.used_by or None,
        "revoked_at_ms": found.revoked_at_ms or None,
    }


def _row(found: Invitation) -> list[str]:
    return [
        found.id,
        found.region,
        found.node or "any",
        utc_time(found.created_at_ms),
        utc_time(found.expires_at_ms),
        found.used_by or "-",
        utc_time(found.used_at_ms),
        utc_time(found.revoked_at_ms),
    ]
