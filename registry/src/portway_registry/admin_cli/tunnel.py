"""`portway-admin tunnel`: the tunnels that are open. Whoever has a label has the tunnel's address, so what is printed
here is as secret as they are (SECURITY.md)."""

from collections.abc import Iterator

import click
from portway_proto.v1.admin_pb2 import GetTunnelRequest, ListTunnelsRequest, WatchTunnelsRequest
from portway_proto.v1.types_pb2 import TunnelInfo

from portway_registry.admin_cli.connection import Admin, Calls, json_option, pass_admin
from portway_registry.admin_cli.node import node_json
from portway_registry.admin_cli.node import state as node_state
from portway_registry.admin_cli.output import print_changes, print_list, when

# Each page costs the registry a walk over all tunnels; so many are the most it gives.
_PAGE = 5000
_COLUMNS = ("LABEL", "NODE", "TENANT", "TOKEN", "EPOCH", "OPTIONS", "HOST", "OPENED")


@click.group()
def tunnel() -> None:
    """Open tunnels: list, show, watch. Labels are secrets: whoever has one can visit."""


@tunnel.command("list")
@click.option("--node", default="", help="Only tunnels whose client is connected to this node.")
@click.option("--tenant", default="", help="Only tunnels of this tenant.")
@json_option
@pass_admin
def list_(admin: Admin, node: str, tenant: str) -> None:
    """List the tunnels that are open now, all of them."""
    with admin.calls() as calls:
        found = list(_pages(calls, ListTunnelsRequest(node=node, tenant=tenant, page_size=_PAGE)))
    print_list(admin, "tunnels", found, _json, _COLUMNS, _row, "No such tunnel is open.")


@tunnel.command()
@click.argument("label")
@json_option
@pass_admin
def show(admin: Admin, label: str) -> None:
    """Show one tunnel, and the node that its client is connected to."""
    with admin.calls() as calls:
        answer = calls.stub.GetTunnel(GetTunnelRequest(label=label), metadata=calls.metadata, timeout=calls.timeout)
    found, home = answer.tunnel, answer.node if answer.HasField("node") else None
    if admin.json:
        admin.print_json({"tunnel": _json(found), "node": None if home is None else node_json(home)})
        return
    admin.print_fields(
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
            "opened": when(found.opened_at_ms),
        }
    )


@tunnel.command()
@json_option
@pass_admin
def watch(admin: Admin) -> None:
    """Print the tunnels, then each change to them as it happens, until interrupted."""
    with admin.calls() as calls:
        stream = calls.stub.WatchTunnels(WatchTunnelsRequest(), metadata=calls.metadata)
        print_changes(admin, ((change.kind, change.tunnel) for change in stream), "tunnel", _json, _line)


def _pages(calls: Calls, request: ListTunnelsRequest) -> Iterator[TunnelInfo]:
    """Every tunnel asked for, however many pages they fill."""
    while True:
        page = calls.stub.ListTunnels(request, metadata=calls.metadata, timeout=calls.timeout)
        yield from page.tunnels
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _json(found: TunnelInfo) -> dict[str, object]:
    """The names of the protocol's TunnelInfo; without the proof, which is of no use to anyone but its node."""
    return {
        "label": found.label,
        "host": found.host,
        "node": found.node,
        "region": found.region,
        "epoch": found.epoch,
        "tenant": found.tenant,
        "token_id": found.token_id,
        "h2_enabled": found.options.h2_enabled,
        "unencrypted_port": found.unencrypted_port,
        "opened_at_ms": found.opened_at_ms,
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
        when(found.opened_at_ms),
    ]


def _line(found: TunnelInfo) -> str:
    return f"{found.label}  {found.node}  epoch {found.epoch}  tenant {found.tenant}  {_options(found)}"
