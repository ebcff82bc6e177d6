"""`portway-admin invitation`: tokens with which new nodes join. `node invite` makes them, and shows each once."""

import click
from portway_proto.v1.admin_pb2 import Invitation, ListInvitationsRequest, RevokeInvitationRequest

from portway_registry.admin_cli.connection import Admin, json_option, pass_admin
from portway_registry.admin_cli.output import print_list, when

_COLUMNS = ("ID", "REGION", "NODE", "CREATED", "EXPIRES", "USED BY", "USED", "REVOKED")


@click.group()
def invitation() -> None:
    """Invitations of new nodes: list, revoke; `node invite` makes one."""


@invitation.command("list")
@click.option("--all", "everything", is_flag=True, help="Used, revoked and expired ones too.")
@json_option
@pass_admin
def list_(admin: Admin, everything: bool) -> None:
    """List the invitations, without their tokens."""
    request = ListInvitationsRequest(include_over=everything)
    with admin.calls() as calls:
        found = calls.stub.ListInvitations(request, metadata=calls.metadata, timeout=calls.timeout).invitations
    print_list(admin, "invitations", found, invitation_json, _COLUMNS, _row, "Nobody is invited.")


@invitation.command()
@click.argument("id")
@json_option
@pass_admin
def revoke(admin: Admin, id: str) -> None:  # noqa: A002 - what it is called on the command line
    """Make an invitation worthless that nobody has used yet. ID is as `invitation list` shows it."""
    request = RevokeInvitationRequest(id=id)
    with admin.calls() as calls:
        found = calls.stub.RevokeInvitation(request, metadata=calls.metadata, timeout=calls.timeout).invitation
    if admin.json:
        admin.print_json(invitation_json(found))
        return
    click.echo(f"Invitation {found.id} is revoked since {when(found.revoked_at_ms)}.")


def invitation_json(found: Invitation) -> dict[str, object]:
    """The names of the protocol's Invitation."""
    return {
        "id": found.id,
        "region": found.region,
        "node": found.node,
        "created_by": found.created_by,
        "created_at_ms": found.created_at_ms,
        "expires_at_ms": found.expires_at_ms,
        "used_at_ms": found.used_at_ms,
        "used_by": found.used_by,
        "revoked_at_ms": found.revoked_at_ms,
    }


def _row(found: Invitation) -> list[str]:
    return [
        found.id,
        found.region,
        found.node or "any",
        when(found.created_at_ms),
        when(found.expires_at_ms),
        found.used_by or "-",
        when(found.used_at_ms),
        when(found.revoked_at_ms),
    ]
