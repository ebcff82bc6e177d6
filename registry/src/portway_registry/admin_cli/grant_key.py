"""`portway-admin grant-key`: the keys that sign grants."""

from typing import Final

import click
from portway_proto.v1.admin_pb2 import (
    GRANT_KEY_STATE_ANNOUNCED,
    GRANT_KEY_STATE_SIGNING,
    GRANT_KEY_STATE_UNREADABLE,
    GRANT_KEY_STATE_VERIFYING,
    GrantKeyInfo,
    GrantKeyState,
    ListGrantKeysRequest,
    RetireGrantKeyRequest,
    RotateGrantKeyRequest,
)

from portway_registry.admin_cli.connection import GlobalOptions, json_option, pass_options
from portway_registry.admin_cli.output import few, print_list, print_result, utc_time
from portway_registry.admin_cli.table import Column

_COLUMNS = (
    Column("ID"),
    Column("STATE"),
    Column("MADE", rank=3),
    Column("SIGNS FROM", rank=2),
    Column("GRANTS IN USE UNTIL"),
    Column("NOT KNOWN TO", rank=1, wraps=True),
)
_STATES: Final[dict["GrantKeyState.ValueType", str]] = {
    GRANT_KEY_STATE_ANNOUNCED: "announced",
    GRANT_KEY_STATE_SIGNING: "signing",
    GRANT_KEY_STATE_VERIFYING: "verifying",
    GRANT_KEY_STATE_UNREADABLE: "unreadable",
}


@click.group("grant-key")
def grant_key() -> None:
    """The keys that sign grants: list, rotate, retire.

    A grant is what a client shows to a node. Keys are rotated by themselves each 30 days.
    """


@grant_key.command("list")
@json_option
@pass_options
def list_(options: GlobalOptions) -> None:
    """List the keys, the oldest first.

    One is `signing`. One that is `announced` signs next, once every node and registry knows it. Those that are
    `verifying` were replaced, and go by themselves when no grant of theirs can be in use any more.
    """
    request = ListGrantKeysRequest()
    with options.calls() as calls:
        found = [one for page in calls.pages(calls.stub.ListGrantKeys, request) for one in page.keys]
    print_list(options, "grant_keys", found, _json, _COLUMNS, _row, "There is no key; the registry's log says why.")


@grant_key.command()
@json_option
@pass_options
def rotate(options: GlobalOptions) -> None:
    """Make the next key.

    It is told to every node and registry, and signs as soon as all that live know it, after a day in any case. The key
    before verifies its grants as long as they live. Nothing is interrupted. While a key is announced no other is made.
    """
    with options.calls() as calls:
        found = calls.call(calls.stub.RotateGrantKey, RotateGrantKeyRequest()).key
    if found.state == GRANT_KEY_STATE_SIGNING:
        text = "It signs from now on."
    else:
        begins = utc_time(found.signs_from_ms)
        text = f"It signs when all know it, from {begins} in any case. Not yet known to: {_unaware(found)}."
    print_result(options, _json(found), f"Grant key {found.id} is made. {text}")


@grant_key.command()
@click.argument("id")
@click.option(
    "--force",
    is_flag=True,
    help="Also a key that signs, or whose grants may be in use: nodes refuse those grants from then on.",
)
@json_option
@pass_options
def retire(options: GlobalOptions, id: str, force: bool) -> None:  # noqa: A002 - its name on the command line
    """Delete a key, so that no grant of it is accepted any more.

    Refused while it signs, and while grants that it signed may be in use. Use --force for a key that was stolen: a new
    one signs at once then; clients whose grants are refused get new ones. For up to 35 minutes, until a client renews
    its grant, its new tunnels may be refused, and its open ones may end when their node registers again.
    """
    with options.calls() as calls:
        answer = calls.call(calls.stub.RetireGrantKey, RetireGrantKeyRequest(id=id, force=force))
    as_json = {**_json(answer.key), "signing_id": answer.signing_id}
    print_result(options, as_json, f"Grant key {answer.key.id} is retired. Key {answer.signing_id} signs.")


def _json(found: GrantKeyInfo) -> dict[str, object]:
    """A key for programs, with the names of the protocol's GrantKeyInfo; null where there is nothing to say."""
    return {
        "id": found.id,
        "state": _state(found),
        "made_at_ms": found.made_at_ms or None,
        "signs_from_ms": found.signs_from_ms or None,
        "used_until_ms": found.used_until_ms or None,
        "early": found.early,
        "unaware_nodes": list(found.unaware_nodes),
        "unaware_replicas": list(found.unaware_replicas),
    }


def _row(found: GrantKeyInfo) -> list[str]:
    signs = found.state == GRANT_KEY_STATE_SIGNING
    until = "it signs" if signs else utc_time(found.used_until_ms)
    begins = utc_time(found.signs_from_ms)
    if found.state == GRANT_KEY_STATE_ANNOUNCED and found.early:
        begins = f"{begins} or sooner"
    return [found.id, _state(found), utc_time(found.made_at_ms), begins, until, _unaware(found)]


def _state(found: GrantKeyInfo) -> str:
    return _STATES.get(found.state, str(found.state))


def _unaware(found: GrantKeyInfo) -> str:
    """Nodes by name, registries by their ids; a dash for none."""
    return few([*found.unaware_nodes, *(f"registry {one}" for one in found.unaware_replicas)])
