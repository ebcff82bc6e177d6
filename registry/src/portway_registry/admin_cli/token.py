"""`portway-admin token`: API tokens of clients and of admins. The secret is in the answer to `create` alone."""

import click
from portway_proto.v1.admin_pb2 import (
    ROLE_ADMIN,
    ROLE_CLIENT,
    CreateTokenRequest,
    ListTokensRequest,
    RevokeTokenRequest,
    TokenInfo,
)

from portway_registry.admin_cli.connection import Admin, json_option, pass_admin
from portway_registry.admin_cli.output import print_list, when

_ROLES = {"client": ROLE_CLIENT, "admin": ROLE_ADMIN}
_ROLE_NAMES = {number: name for name, number in _ROLES.items()}
_COLUMNS = ("ID", "TENANT", "ROLE", "MAX TUNNELS", "CREATED", "REVOKED", "DESCRIPTION")


@click.group()
def token() -> None:
    """API tokens: create, list, revoke."""


@token.command()
@click.option("--tenant", required=True, help="Whom its tunnels are counted for.")
@click.option("--description", default="", help="What it is for, for people.")
@click.option(
    "--role",
    type=click.Choice(tuple(_ROLES)),
    default="client",
    show_default=True,
    help="A client's opens tunnels; an admin's is for portway-admin.",
)
@click.option(
    "--max-tunnels",
    type=click.IntRange(min=1, max=1_000_000),
    help="The most tunnels open at once with it; by default what the registry is set to.",
)
@json_option
@pass_admin
def create(admin: Admin, tenant: str, description: str, role: str, max_tunnels: int | None) -> None:
    """Make a token and print it, this once."""
    request = CreateTokenRequest(
        tenant=tenant, description=description, role=_ROLES[role], max_tunnels=max_tunnels or 0
    )
    with admin.calls() as calls:
        answer = calls.stub.CreateToken(request, metadata=calls.metadata, timeout=calls.timeout)
    if admin.json:
        admin.print_json({"token": answer.token, **_json(answer.info)})
        return
    # The token alone on stdout, so that `TOKEN=$(portway-admin token create ...)` holds it and nothing else.
    click.echo(
        f"Token {answer.info.id} of tenant {answer.info.tenant}, role {role}. Keep it now: it cannot be shown again.",
        err=True,
    )
    click.echo(answer.token)


@token.command("list")
@click.option("--tenant", default="", help="Only tokens of this tenant.")
@click.option("--all", "everything", is_flag=True, help="Revoked ones too.")
@json_option
@pass_admin
def list_(admin: Admin, tenant: str, everything: bool) -> None:
    """List the tokens, without their secrets."""
    request = ListTokensRequest(tenant=tenant, include_revoked=everything)
    with admin.calls() as calls:
        found = calls.stub.ListTokens(request, metadata=calls.metadata, timeout=calls.timeout).tokens
    print_list(admin, "tokens", found, _json, _COLUMNS, _row, "There is no such token.")


@token.command()
@click.argument("id")
@json_option
@pass_admin
def revoke(admin: Admin, id: str) -> None:  # noqa: A002 - what it is called on the command line
    """Make a token worthless, and close the tunnels that are open with it.

    ID is its second part, as `token list` shows it. A token that is revoked already stays so.
    """
    with admin.calls() as calls:
        info = calls.stub.RevokeToken(RevokeTokenRequest(id=id), metadata=calls.metadata, timeout=calls.timeout).info
    if admin.json:
        admin.print_json(_json(info))
        return
    click.echo(f"Token {info.id} of tenant {info.tenant} is revoked since {when(info.revoked_at_ms)}.")


def _json(info: TokenInfo) -> dict[str, object]:
    """The names of the protocol's TokenInfo."""
    return {
        "id": info.id,
        "tenant": info.tenant,
        "description": info.description,
        "role": _ROLE_NAMES.get(info.role, f"unknown ({info.role})"),
        "max_tunnels": info.max_tunnels,
        "created_at_ms": info.created_at_ms,
        "revoked_at_ms": info.revoked_at_ms,
    }


def _row(info: TokenInfo) -> list[str]:
    return [
        info.id,
        info.tenant,
        _ROLE_NAMES.get(info.role, f"unknown ({info.role})"),
        str(info.max_tunnels or "default"),
        when(info.created_at_ms),
        when(info.revoked_at_ms),
        info.description,
    ]
