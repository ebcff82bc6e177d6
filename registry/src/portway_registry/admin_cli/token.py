"""`portway-admin token`: API tokens of clients and of admins. Only `create` prints a secret."""

import click
from portway_proto.v1.admin_pb2 import (
    ROLE_ADMIN,
    ROLE_CLIENT,
    CreateTokenRequest,
    ListTokensRequest,
    RevokeTokenRequest,
    TokenInfo,
)

from portway_registry.admin_cli.connection import GlobalOptions, json_option, pass_options
from portway_registry.admin_cli.output import print_json, print_list, print_result, print_text, utc_time
from portway_registry.admin_cli.table import Column

_ROLES = {"client": ROLE_CLIENT, "admin": ROLE_ADMIN}
_ROLE_NAMES = {number: name for name, number in _ROLES.items()}
_COLUMNS = (
    Column("ID"),
    Column("TENANT"),
    Column("ROLE"),
    Column("MAX TUNNELS", rank=3),
    Column("CREATED", rank=4),
    Column("REVOKED", rank=1),
    Column("DESCRIPTION", rank=2, wraps=True),
)


@click.group()
def token() -> None:
    """API tokens: create, list, revoke."""


@token.command()
@click.option("--tenant", required=True, help="The tenant that its tunnels are counted for.")
@click.option("--description", default="", help="What the token is for, as a note to people.")
@click.option(
    "--role",
    type=click.Choice(tuple(_ROLES)),
    default="client",
    show_default=True,
    help="client: to open tunnels; admin: for portway-admin.",
)
@click.option(
    "--max-tunnels",
    type=click.IntRange(min=1, max=1_000_000),
    help="The largest number of tunnels open at once with it, below its tenant's; by default its tenant's alone.",
)
@json_option
@pass_options
def create(options: GlobalOptions, tenant: str, description: str, role: str, max_tunnels: int | None) -> None:
    """Create a token and print it; it cannot be printed again."""
    request = CreateTokenRequest(
        tenant=tenant, description=description, role=_ROLES[role], max_tunnels=max_tunnels or 0
    )
    with options.calls() as calls:
        answer = calls.call(calls.stub.CreateToken, request)
    if options.json:
        print_json({"token": answer.token, **_json(answer.info)})
        return
    # The token alone on stdout, so that `TOKEN=$(portway-admin token create ...)` holds it and nothing else.
    print_text(
        f"Token {answer.info.id} of tenant {answer.info.tenant}, role {role}. Keep it now: it cannot be shown again.",
        err=True,
    )
    print_text(answer.token)


@token.command("list")
@click.option("--tenant", default="", help="Only tokens of this tenant.")
@click.option("--all", "everything", is_flag=True, help="Include revoked tokens.")
@json_option
@pass_options
def list_(options: GlobalOptions, tenant: str, everything: bool) -> None:
    """List the tokens, without their secrets."""
    request = ListTokensRequest(tenant=tenant, include_revoked=everything)
    with options.calls() as calls:
        found = [one for page in calls.pages(calls.stub.ListTokens, request) for one in page.tokens]
    print_list(options, "tokens", found, _json, _COLUMNS, _row, "There is no such token.")


@token.command()
@click.argument("id")
@json_option
@pass_options
def revoke(options: GlobalOptions, id: str) -> None:  # noqa: A002 - its name on the command line
    """Revoke a token, and close the tunnels that are open with it.

    ID is its second part, as `token list` prints it. Revoking a token again changes nothing.
    """
    with options.calls() as calls:
        info = calls.call(calls.stub.RevokeToken, RevokeTokenRequest(id=id)).info
    text = f"Token {info.id} of tenant {info.tenant} is revoked since {utc_time(info.revoked_at_ms)}."
    print_result(options, _json(info), text)


def _json(info: TokenInfo) -> dict[str, object]:
    """A token for programs, with the names of the protocol's TokenInfo; None for what did not happen or is not set."""
    return {
        "id": info.id,
        "tenant": info.tenant,
        "description": info.description,
        "role": _ROLE_NAMES.get(info.role, f"unknown ({info.role})"),
        "max_tunnels": info.max_tunnels or None,
        "created_at_ms": info.created_at_ms,
        "revoked_at_ms": info.revoked_at_ms or None,
    }


def _row(info: TokenInfo) -> list[str]:
    return [
        info.id,
        info.tenant,
        _ROLE_NAMES.get(info.role, f"unknown ({info.role})"),
        str(info.max_tunnels or "tenant's"),
        utc_time(info.created_at_ms),
        utc_time(info.revoked_at_ms),
        info.description,
    ]
