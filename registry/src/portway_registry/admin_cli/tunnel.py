"""`portway-admin tunnel`: the tunnels that are open.

A label is part of the tunnel's address, which is secret, and so is what these commands print (SECURITY.md).
"""

import re
from typing import Final

import click
from portway_proto.v1.admin_pb2 import GetTunnelRequest, ListTunnelsRequest, WatchTunnelsRequest
from portway_proto.v1.types_pb2 import TunnelInfo

from portway_registry.admin_cli.connection import GlobalOptions, json_option, pass_options
from portway_registry.admin_cli.node import node_json
from portway_registry.admin_cli.node import state as node_state
from portway_registry.admin_cli.output import print_changes, print_fields, print_json, print_list, utc_time
from portway_registry.admin_cli.table import Column

# The registry's largest page, because it goes through all tunnels for each page.
_PAGE = 5000
# In SCHEME://USER@HOST:PORT/PATH, of which all but the host may be missing.
_BEFORE_HOST: Final = re.compile(r"\A(?:[a-z]+://)?(?:[^/?#@]*@)?", re.IGNORECASE)
_AFTER_LABEL: Final = re.compile(r"[./:?#]")
_COLUMNS = (
    Column("LABEL"),
    Column("NODE"),
    Column("TENANT"),
    Column("TOKEN", rank=4),
    Column("EPOCH", rank=5),
    Column("OPTIONS", rank=1),
    Column("HOST", rank=2),
    Column("OPENED", rank=3),
)


@click.group()
def tunnel() -> None:
    """Open tunnels: list, show, watch. Labels are secrets: anyone who has one can visit."""


@tunnel.command("list")
@click.option("--node", default="", help="Only tunnels whose client is connected to this node.")
@click.option("--tenant", default="", help="Only tunnels of this tenant.")
@json_option
@pass_options
def list_(options: GlobalOptions, node: str, tenant: str) -> None:
    """List all tunnels that are open now."""
    with options.calls() as calls:
        request = ListTunnelsRequest(node=node, tenant=tenant, page_size=_PAGE)
        found = [one for page in calls.pages(calls.stub.ListTunnels, request) for one in page.tunnels]
    print_list(options, "tunnels", found, _json, _COLUMNS, _row, "No such tunnel is open.")


@tunnel.command()
@click.argument("tunnel")
@json_option
@pass_options
def show(options: GlobalOptions, tunnel: str) -> None:
    """Show one tunnel, and the node that its client is connected to.

    TUNNEL is its label, its host or a URL of it.
    """
    request = GetTunnelRequest(label=_label_in(tunnel))
    with options.calls() as calls:
        answer = calls.call(calls.stub.GetTunnel, request)
    found, home = answer.tunnel, answer.node if answer.HasField("node") else None
    if options.json:
        print_json({"tunnel": _json(found), "node": None if home is None else node_json(home)})
        return
    print_fields(
        {
            "label": found.label,
            "host": found.host,
            "raw port": str(found.unencrypted_port or "-"),
            "options": _options(found),
            "home node": f"{found.node} ({'not registered now' if home is None else node_state(home)})",
            "region": found.region,
            "tenant": found.tenant,
            "token": found.token_id,
            "epoch": str(found.epoch),
            "opened": utc_time(found.opened_at_ms),
        }
    )


@tunnel.command()
@json_option
@pass_options
def watch(options: GlobalOptions) -> None:
    """Print the tunnels, then each change.

    Changes are printed as they happen, until interrupted.
    """
    with options.calls() as calls:
        stream = calls.stream(calls.stub.WatchTunnels, WatchTunnelsRequest())
        print_changes(options, ((change.kind, change.tunnel) for change in stream), "tunnel", _json, _line)


def _label_in(text: str) -> str:
    """The label in a host or a URL, which is the first part of the host; or the text itself. Raises UsageError."""
    if text.strip().lower().startswith("tcp://"):
        raise click.UsageError("a tcp:// address has no label: look for its port in `portway-admin tunnel list`")
    return _AFTER_LABEL.split(_BEFORE_HOST.sub("", text.strip()), maxsplit=1)[0].lower()


def _json(found: TunnelInfo) -> dict[str, object]:
    """A tunnel for programs, with the names of the protocol's TunnelInfo; without the claim, which only nodes use."""
    return {
        "label": found.label,
        "host": found.host,
        "node": found.node,
        "region": found.region,
        "epoch": found.epoch,
        "tenant": found.tenant,
        "token_id": found.token_id,
        "h2_enabled": found.options.h2_enabled,
        "unencrypted_port": found.unencrypted_port or None,
        "opened_at_ms": found.opened_at_ms or None,
    }


def _options(found: TunnelInfo) -> str:
    given = ["h2"] if found.options.h2_enabled else []
    if found.unencrypted_port:
        given.append(f"tcp:{found.unencrypted_port}")
    return " ".join(given) or "-"


def _row(found: TunnelInfo) -> list[str]:
    return [
        found.label,
        found.node,
        found.tenant,
        found.token_id,
        str(found.epoch),
        _options(found),
        found.host,
        utc_time(found.opened_at_ms),
    ]


def _line(found: TunnelInfo) -> str:
    return f"{found.label}  {found.node}  epoch {found.epoch}  tenant {found.tenant}  {_options(found)}"
