"""`portway-admin front-key`: the secret that nodes prove with whose connections they pass on to the registry."""

from typing import Final

import click
from portway_proto.v1.admin_pb2 import (
    FRONT_KEY_STATE_ACCEPTED,
    FRONT_KEY_STATE_ANNOUNCED,
    FRONT_KEY_STATE_IN_USE,
    FrontKeyInfo,
    FrontKeyState,
    ListFrontKeysRequest,
    RotateFrontKeyRequest,
)

from portway_registry.admin_cli.connection import GlobalOptions, json_option, pass_options
from portway_registry.admin_cli.output import few, print_list, print_result, utc_time
from portway_registry.admin_cli.table import Column

_COLUMNS = (
    Column("ID"),
    Column("STATE"),
    Column("IN USE FROM", rank=2),
    Column("ACCEPTED UNTIL"),
    Column("NOT KNOWN TO", rank=1, wraps=True),
)
_STATES: Final[dict["FrontKeyState.ValueType", str]] = {
    FRONT_KEY_STATE_ANNOUNCED: "announced",
    FRONT_KEY_STATE_IN_USE: "in use",
    FRONT_KEY_STATE_ACCEPTED: "accepted",
}


@click.group("front-key")
def front_key() -> None:
    """The secret of nodes' PROXY headers: list, rotate.

    A node that passes a connection on to the registry proves with a key made of it whose connection that is. It is
    replaced by itself each day.
    """


@front_key.command("list")
@json_option
@pass_options
def list_(options: GlobalOptions) -> None:
    """List the secrets by their ids, the one in use first.

    One that is `announced` comes into use once every registry knows it. One that is `accepted` was replaced: headers
    that were made by it are believed until the next one is made.
    """
    with options.calls() as calls:
        found = calls.call(calls.stub.ListFrontKeys, ListFrontKeysRequest()).keys
    print_list(options, "front_keys", list(found), _json, _COLUMNS, _row, "There is none yet; it is made in a moment.")


@front_key.command()
@click.option(
    "--force",
    is_flag=True,
    help="For one that was stolen: another one is in use at once, and headers by no other are believed.",
)
@json_option
@pass_options
def rotate(options: GlobalOptions, force: bool) -> None:
    """Replace it.

    The next one is told to every registry, and nodes use it as soon as all that live know it, after ten minutes in any
    case. No connection fails. Headers by the one before are believed for a day, for nodes that are cut off. With
    --force they are not, and connections that nodes pass on within the next second may be refused.
    """
    with options.calls() as calls:
        found = calls.call(calls.stub.RotateFrontKey, RotateFrontKeyRequest(force=force)).key
    if found.state == FRONT_KEY_STATE_IN_USE:
        text = "in use."
    else:
        begins = utc_time(found.used_from_ms)
        text = f"made. Nodes use it when all registries know it, from {begins} in any case. Not yet known to: "
        text += f"{_unaware(found)}."
    print_result(options, _json(found), f"Key {found.id} of PROXY headers is {text}")


def _json(found: FrontKeyInfo) -> dict[str, object]:
    """For programs, with the names of the protocol's FrontKeyInfo; null where there is nothing to say."""
    return {
        "id": found.id,
        "state": _STATES.get(found.state, str(found.state)),
        "used_from_ms": found.used_from_ms or None,
        "accepted_until_ms": found.accepted_until_ms or None,
        "unaware_replicas": list(found.unaware_replicas),
    }


def _row(found: FrontKeyInfo) -> list[str]:
    state = _STATES.get(found.state, str(found.state))
    return [found.id, state, utc_time(found.used_from_ms), utc_time(found.accepted_until_ms), _unaware(found)]


def _unaware(found: FrontKeyInfo) -> str:
    """Registries by their ids."""
    return few([f"registry {one}" for one in found.unaware_replicas])
