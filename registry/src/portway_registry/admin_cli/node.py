"""`portway-admin node`: the relay nodes of the cluster."""

import click
from portway_proto.v1.admin_pb2 import (
    NODE_ORDER_CORDON,
    NODE_ORDER_DRAIN,
    NODE_ORDER_REMOVE,
    NODE_ORDER_SERVE,
    GetNodeRequest,
    InviteNodeRequest,
    ListNodesRequest,
    NodeOrder,
    OrderNodeRequest,
    WatchNodesRequest,
)
from portway_proto.v1.types_pb2 import (
    REACH_FAILED,
    REACH_REACHED,
    REACH_TRYING,
    REACH_UNSPECIFIED,
    NodeInfo,
    NodeState,
)

from portway_registry.admin_cli.connection import Admin, json_option, pass_admin, seconds
from portway_registry.admin_cli.invitation import invitation_json
from portway_registry.admin_cli.output import print_changes, print_list, when

_COLUMNS = ("NAME", "REGION", "ADDRESS", "STATE", "SESSIONS", "TUNNELS", "VISITS", "VERSION", "SINCE", "REACHED")
_REACH = {
    REACH_UNSPECIFIED: "unchecked",
    REACH_TRYING: "trying",
    REACH_REACHED: "reached",
    REACH_FAILED: "failed",
}


@click.group()
def node() -> None:
    """Relay nodes: invite; list, show, watch; cordon, drain, remove, and serve again."""


@node.command("list")
@click.option("--region", default="", help="Only nodes of this region.")
@json_option
@pass_admin
def list_(admin: Admin, region: str) -> None:
    """List the nodes that are registered now."""
    with admin.calls() as calls:
        found = calls.stub.ListNodes(
            ListNodesRequest(region=region), metadata=calls.metadata, timeout=calls.timeout
        ).nodes
    where = f" in region {region}" if region else ""
    print_list(admin, "nodes", found, node_json, _COLUMNS, _row, f"No node{where} is registered.")


@node.command()
@click.argument("name")
@json_option
@pass_admin
def show(admin: Admin, name: str) -> None:
    """Show one node."""
    with admin.calls() as calls:
        found = calls.stub.GetNode(GetNodeRequest(name=name), metadata=calls.metadata, timeout=calls.timeout).node
    if admin.json:
        admin.print_json(node_json(found))
        return
    located = f"{found.latitude:.2f}, {found.longitude:.2f}" if found.latitude or found.longitude else "not told"
    admin.print_fields(
        {
            "name": found.name,
            "region": found.region,
            "serves": f"*.{found.region}.{found.domain}",
            "address": _address(found),
            "server name": found.server_name,
            "state": state(found),
            "reached": reached(found),
            "sessions": f"{found.sessions} of {found.max_sessions or 'any number'}",
            "tunnels": str(found.tunnels),
            "visits": str(found.visits),
            "position": located,
            "version": found.version,
            "since": when(found.started_at_ms),
        }
    )


@node.command()
@click.option("--region", required=True, help="The region that the new node is of.")
@click.option("--name", default="", help="Its name, also one to be replaced; by default it chooses one that is free.")
@click.option("--ttl", default="1h", show_default=True, callback=seconds, help="How long the token can be used.")
@json_option
@pass_admin
def invite(admin: Admin, region: str, name: str, ttl: int) -> None:
    """Print a token with which one new node joins, once: `portway-relay serve --join TOKEN ...`."""
    request = InviteNodeRequest(region=region, node=name, ttl_seconds=ttl)
    with admin.calls() as calls:
        answer = calls.stub.InviteNode(request, metadata=calls.metadata, timeout=calls.timeout)
        # Where it was made is where it is shown: the node has to reach the same address.
        token = f"{answer.token}@{calls.address}"
    if admin.json:
        admin.print_json({"token": token, **invitation_json(answer.invitation)})
        return
    who = f"node {answer.invitation.node}" if answer.invitation.node else "one node"
    click.echo(
        f"Invitation {answer.invitation.id}: {who} of region {region} may join with this token until "
        f"{when(answer.invitation.expires_at_ms)}. Keep it now: it cannot be shown again.",
        err=True,
    )
    click.echo(token)


@node.command()
@json_option
@pass_admin
def watch(admin: Admin) -> None:
    """Print the nodes, then each change to them as it happens, until interrupted."""
    with admin.calls() as calls:
        stream = calls.stub.WatchNodes(WatchNodesRequest(), metadata=calls.metadata)
        print_changes(admin, ((change.kind, change.node) for change in stream), "node", node_json, _line)


@node.command()
@click.argument("name")
@json_option
@pass_admin
def cordon(admin: Admin, name: str) -> None:
    """Let no new clients come to a node; those it has stay."""
    _order(admin, name, NODE_ORDER_CORDON, "takes no new clients")


@node.command()
@click.argument("name")
@json_option
@pass_admin
def drain(admin: Admin, name: str) -> None:
    """Have a node's clients attach elsewhere, under the same URLs; visits in progress may finish."""
    _order(admin, name, NODE_ORDER_DRAIN, "is being left by its clients")


@node.command()
@click.argument("name")
@json_option
@pass_admin
def remove(admin: Admin, name: str) -> None:
    """Have a node refused by registries and all other nodes, until it is invited anew."""
    _order(admin, name, NODE_ORDER_REMOVE, "is refused everywhere")


@node.command()
@click.argument("name")
@json_option
@pass_admin
def serve(admin: Admin, name: str) -> None:
    """Let a node serve as usual: takes back cordon and drain.

    Takes back remove, too, of a node whose certificate was made with `pki node`.
    """
    _order(admin, name, NODE_ORDER_SERVE, "serves as usual")


node.add_command(serve, "undrain")
node.add_command(serve, "uncordon")


def _order(admin: Admin, name: str, order: "NodeOrder.ValueType", what: str) -> None:
    with admin.calls() as calls:
        request = OrderNodeRequest(name=name, order=order)
        calls.stub.OrderNode(request, metadata=calls.metadata, timeout=calls.timeout)
    if admin.json:
        admin.print_json({"node": name, "order": NodeOrder.Name(order).removeprefix("NODE_ORDER_").lower()})
    else:
        click.echo(f"{name} {what}")


def node_json(found: NodeInfo) -> dict[str, object]:
    """For programs: the names are those of the protocol's NodeInfo."""
    return {
        "name": found.name,
        "region": found.region,
        "domain": found.domain,
        "host": found.host,
        "port": found.port,
        "server_name": found.server_name,
        "state": state(found),
        "reach": _REACH.get(found.reach, f"unknown ({found.reach})"),
        "reach_failure": found.reach_failure,
        "sessions": found.sessions,
        "max_sessions": found.max_sessions,
        "tunnels": found.tunnels,
        "visits": found.visits,
        "latitude": found.latitude,
        "longitude": found.longitude,
        "version": found.version,
        "started_at_ms": found.started_at_ms,
    }


def state(found: NodeInfo) -> str:
    """`ready`, `cordoned` or `draining`."""
    try:
        return NodeState.Name(found.state).removeprefix("NODE_STATE_").lower()
    except ValueError:
        return f"unknown ({found.state})"


def reached(found: NodeInfo) -> str:
    """Whether its advertised address was reached, so that clients are sent there; else why not."""
    if found.reach == REACH_FAILED:
        return f"no: {found.reach_failure}"
    return "not yet" if found.reach == REACH_TRYING else "yes"


def _address(found: NodeInfo) -> str:
    return f"[{found.host}]:{found.port}" if ":" in found.host else f"{found.host}:{found.port}"


def _row(found: NodeInfo) -> list[str]:
    most = f"/{found.max_sessions}" if found.max_sessions else ""
    return [
        found.name,
        found.region,
        _address(found),
        state(found),
        f"{found.sessions}{most}",
        str(found.tunnels),
        str(found.visits),
        found.version,
        when(found.started_at_ms),
        reached(found),
    ]


def _line(found: NodeInfo) -> str:
    counts = f"{found.sessions} sessions, {found.tunnels} tunnels, {found.visits} visits"
    not_reached = f"  reached: {reached(found)}" if found.reach in (REACH_TRYING, REACH_FAILED) else ""
    return f"{found.name}  {found.region}  {_address(found)}  {state(found)}  {counts}{not_reached}"
