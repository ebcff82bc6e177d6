"""`portway-admin ca`: the cluster's own CA, and its replacement."""

from collections.abc import Iterable
from typing import Final

import click
from portway_proto.v1.admin_pb2 import (
    AUTHORITY_STATE_ANNOUNCED,
    AUTHORITY_STATE_ISSUING,
    AUTHORITY_STATE_RETIRING,
    AuthorityInfo,
    AuthorityState,
    ListAuthoritiesRequest,
    RetireAuthorityRequest,
    RotateAuthorityRequest,
)

from portway_registry.admin_cli.connection import GlobalOptions, json_option, pass_options
from portway_registry.admin_cli.output import few, print_list, print_result, utc_time
from portway_registry.admin_cli.table import Column

_COLUMNS = (
    Column("ID"),
    Column("STATE"),
    Column("MADE", rank=4),
    Column("ENDS", rank=1),
    Column("NOT TRUSTED BY", rank=2, wraps=True),
    Column("CERTIFICATES OF", rank=3, wraps=True),
)
_STATES: Final[dict["AuthorityState.ValueType", str]] = {
    AUTHORITY_STATE_ANNOUNCED: "announced",
    AUTHORITY_STATE_ISSUING: "issuing",
    AUTHORITY_STATE_RETIRING: "retiring",
}


@click.group()
def ca() -> None:
    """The cluster's own CA: list, rotate, retire.

    It signs the certificates of nodes and of the registry's port for nodes. Visitors do not see it.
    """


@ca.command("list")
@json_option
@pass_options
def list_(options: GlobalOptions) -> None:
    """List the CAs, the one that issues first.

    An `announced` one issues next, once all trust it. A `retiring` one was replaced: it may be retired when nobody has
    a certificate of it any more.
    """
    request = ListAuthoritiesRequest()
    with options.calls() as calls:
        found = [one for page in calls.pages(calls.stub.ListAuthorities, request) for one in page.authorities]
    print_list(options, "authorities", found, _json, _COLUMNS, _row, "There is no CA.")


@ca.command()
@click.option(
    "--force",
    is_flag=True,
    help="Let the announced CA issue now: those that do not trust it cannot reach who has a certificate of it.",
)
@json_option
@pass_options
def rotate(options: GlobalOptions, force: bool) -> None:
    """Make the next CA, or say what the announced one waits for.

    Every registry, node and client is told to trust it; clients learn of it when they renew their grants, within 30
    minutes. Then it issues by itself: nodes and registries get new certificates without a restart, and nothing is
    interrupted. `ca retire` ends the rotation. This command may be repeated.
    """
    with options.calls() as calls:
        found = calls.call(calls.stub.RotateAuthority, RotateAuthorityRequest(force=force)).authority
    if found.state == AUTHORITY_STATE_ISSUING:
        text = "issues certificates from now on. `ca list` shows when the one before may be retired."
    else:
        text = f"is announced. It issues by itself when all trust it. Waits for {_unaware(found)}."
    print_result(options, _json(found), f"CA {found.id} {text}")


@ca.command()
@click.argument("id")
@click.option("--force", is_flag=True, help="Although certificates of it are in use: their owners lose the cluster.")
@json_option
@pass_options
def retire(options: GlobalOptions, id: str, force: bool) -> None:  # noqa: A002 - its name on the command line
    """Take a CA away, so that nobody trusts it any more.

    Refused while it issues, and while a node or registry has a certificate of it; of nodes that are away until that has
    ended. `node remove` gives up a node that does not come back.
    """
    with options.calls() as calls:
        found = calls.call(calls.stub.RetireAuthority, RetireAuthorityRequest(id=id, force=force)).authority
    print_result(options, _json(found), f"CA {found.id} is retired.")


def _json(found: AuthorityInfo) -> dict[str, object]:
    """A CA for programs, with the names of the protocol's AuthorityInfo; null where there is nothing to say."""
    return {
        "id": found.id,
        "state": _STATES.get(found.state, str(found.state)),
        "made_at_ms": found.made_at_ms or None,
        "ends_at_ms": found.ends_at_ms or None,
        "unaware_nodes": list(found.unaware_nodes),
        "unaware_replicas": list(found.unaware_replicas),
        "unaware_away": list(found.unaware_away),
        "unaware_clients_of": list(found.unaware_clients_of),
        "used_by_nodes": list(found.used_by_nodes),
        "used_by_replicas": list(found.used_by_replicas),
        "used_by_away": list(found.used_by_away),
        "away_until_ms": found.away_until_ms or None,
        "from_files": found.from_files,
        "certificate": found.certificate.decode("ascii", "replace"),
    }


def _row(found: AuthorityInfo) -> list[str]:
    state = _STATES.get(found.state, str(found.state))
    used = [*found.used_by_nodes, *_registries(found.used_by_replicas), *_away(found.used_by_away)]
    return [
        found.id,
        state,
        utc_time(found.made_at_ms),
        utc_time(found.ends_at_ms),
        _unaware(found),
        few(used),
    ]


def _unaware(found: AuthorityInfo) -> str:
    return few(
        [
            *found.unaware_nodes,
            *_registries(found.unaware_replicas),
            *_away(found.unaware_away),
            *(f"clients of {name}" for name in found.unaware_clients_of),
        ]
    )


def _registries(ids: Iterable[str]) -> list[str]:
    return [f"registry {one}" for one in ids]


def _away(names: Iterable[str]) -> list[str]:
    return [f"{one} (away)" for one in names]
