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
    NODE_STATE_READY,
    REACH_FAILED,
    REACH_REACHED,
    REACH_TRYING,
    REACH_UNSPECIFIED,
    NodeInfo,
    NodeState,
)
from portway_runtime.endpoints import Endpoint

from portway_registry.admin_cli.connection import (
    GlobalOptions,
    json_option,
    parse_address,
    parse_duration,
    pass_options,
)
from portway_registry.admin_cli.invitation import invitation_json
from portway_registry.admin_cli.output import (
    print_changes,
    print_fields,
    print_json,
    print_list,
    print_result,
    print_text,
    utc_time,
)
from portway_registry.admin_cli.table import Column
from portway_registry.state.records import has_right_clock, waits_for_certificate

_COLUMNS = (
    Column("NAME"),
    Column("REGION"),
    Column("ADDRESS", rank=1),
    Column("STATE"),
    Column("SESSIONS", rank=2),
    Column("TUNNELS", rank=3),
    Column("VISITS", rank=4),
    Column("VERSION", rank=7),
    Column("SINCE", rank=6),
    Column("ENDS", rank=5),
    Column("REACHED", wraps=True),
)
_DAY = len("2026-01-01")  # what the table shows of the end of a certificate
_REACH = {
    REACH_UNSPECIFIED: "unchecked",
    REACH_TRYING: "trying",
    REACH_REACHED: "reached",
    REACH_FAILED: "failed",
}


@click.group()
def node() -> None:
    """Relay nodes: invite; list, show, watch; cordon, drain, remove; serve."""


@node.command("list")
@click.option("--region", default="", help="Only nodes of this region.")
@json_option
@pass_options
def list_(options: GlobalOptions, region: str) -> None:
    """List the nodes that are registered now.

    ENDS is the day on which the first of a node's certificates ends that somebody has to replace.
    """
    with options.calls() as calls:
        pages = list(calls.pages(calls.stub.ListNodes, ListNodesRequest(region=region)))
    found = [one for page in pages for one in page.nodes]
    where = f" in region {region}" if region else ""
    print_list(options, "nodes", found, node_json, _COLUMNS, _row, f"No node{where} is registered.")
    for failure in (one for page in pages for one in page.certificate_failures):
        print_text(f"portway-admin: {failure}", err=True)


@node.command()
@click.argument("name")
@json_option
@pass_options
def show(options: GlobalOptions, name: str) -> None:
    """Show one node."""
    with options.calls() as calls:
        found = calls.call(calls.stub.GetNode, GetNodeRequest(name=name)).node
    if options.json:
        print_json(node_json(found))
        return
    position = _position(found)
    located = f"{position[0]:.2f}, {position[1]:.2f}" if position else "unknown"
    lacking = {"lacks": f"the certificates of {found.lacking_regions} regions: its log names them"}
    way = "ahead of" if found.clock_ahead_s > 0 else "behind"
    clock = {"clock": f"{abs(found.clock_ahead_s)} s {way} the registry's: set it right"}
    print_fields(
        {
            "name": found.name,
            "region": found.region,
            "serves": f"*.{found.region}.{found.domain}",
            "address": str(Endpoint(found.host, found.port)),
            "server name": found.server_name,
            "state": state(found),
            "reached": reached(found),
            "sessions": f"{found.sessions} of {found.max_sessions or 'any number'}",
            "tunnels": str(found.tunnels),
            "visits": str(found.visits),
            "position": located,
            "version": found.version,
            "since": utc_time(found.started_at_ms),
            "certificate ends": _end(found),
            **(lacking if found.lacking_regions else {}),
            **(clock if found.clock_ahead_s else {}),
        }
    )


@node.command()
@click.option("--region", required=True, help="The region of the new node.")
@click.option(
    "--name",
    default="",
    help="Its name, also that of a node to replace; by default it chooses one.",
)
@click.option(
    "--ttl",
    default="1h",
    show_default=True,
    callback=parse_duration,
    help="How long the token is valid.",
)
@click.option(
    "--join-at",
    metavar="HOST[:PORT]",
    default="",
    callback=parse_address,
    help="The registry's public address, where the node joins; by default the one that this command calls, which must "
    "not be that of --admin-listen. Without a port it is 443: the node joins through another one.",
)
@json_option
@pass_options
def invite(options: GlobalOptions, region: str, name: str, ttl: int, join_at: str) -> None:
    """Print a token with which one new node joins.

    It is used once: write it to a file for `portway-relay serve --join-file FILE ...`.
    """
    request = InviteNodeRequest(region=region, node=name, ttl_seconds=ttl)
    with options.calls() as calls:
        answer = calls.call(calls.stub.InviteNode, request)
        # The node joins at the registry that created the invitation unless another is named: its address goes along.
        token = f"{answer.token}@{join_at or calls.address}"
    if options.json:
        print_json({"token": token, **invitation_json(answer.invitation)})
        return
    invited = f"node {answer.invitation.node}" if answer.invitation.node else "one node"
    print_text(
        f"Invitation {answer.invitation.id}: {invited} of region {region} may join with this token until "
        f"{utc_time(answer.invitation.expires_at_ms)}. Keep it now: it cannot be shown again.",
        err=True,
    )
    print_text(token)


@node.command()
@json_option
@pass_options
def watch(options: GlobalOptions) -> None:
    """Print the nodes, then each change.

    Changes are printed as they happen, until interrupted.
    """
    with options.calls() as calls:
        stream = calls.stream(calls.stub.WatchNodes, WatchNodesRequest())
        print_changes(options, ((change.kind, change.node) for change in stream), "node", node_json, _line)


@node.command()
@click.argument("name")
@json_option
@pass_options
def cordon(options: GlobalOptions, name: str) -> None:
    """Send no new clients to a node; its present clients stay."""
    _order(options, name, NODE_ORDER_CORDON, "takes no new clients")


@node.command()
@click.argument("name")
@json_option
@pass_options
def drain(options: GlobalOptions, name: str) -> None:
    """Move a node's clients to other nodes.

    Their URLs stay the same; visits in progress may finish.
    """
    _order(options, name, NODE_ORDER_DRAIN, "drains: its clients attach to other nodes")


@node.command()
@click.argument("name")
@json_option
@pass_options
def remove(options: GlobalOptions, name: str) -> None:
    """Refuse a node until it is invited again.

    It sends its clients to other nodes and stops. Registries and all other nodes refuse it.
    """
    _order(options, name, NODE_ORDER_REMOVE, "is removed: registries and nodes refuse it")


@node.command()
@click.argument("name")
@json_option
@pass_options
def serve(options: GlobalOptions, name: str) -> None:
    """Undo cordon and drain: the node serves as usual.

    Also undoes remove, of a node whose certificate was made with `pki node`.
    """
    _order(options, name, NODE_ORDER_SERVE, "serves as usual")


node.add_command(serve, "undrain")
node.add_command(serve, "uncordon")


def _order(options: GlobalOptions, name: str, order: "NodeOrder.ValueType", effect: str) -> None:
    with options.calls() as calls:
        request = OrderNodeRequest(name=name, order=order)
        calls.call(calls.stub.OrderNode, request)
    ordered = NodeOrder.Name(order).removeprefix("NODE_ORDER_").lower()
    print_result(options, {"node": name, "order": ordered}, f"{name} {effect}")


def node_json(found: NodeInfo) -> dict[str, object]:
    """A node for programs, with the names of the protocol's NodeInfo; None for what is not known or is no limit."""
    latitude, longitude = _position(found) or (None, None)
    return {
        "name": found.name,
        "region": found.region,
        "domain": found.domain,
        "host": found.host,
        "port": found.port,
        "server_name": found.server_name,
        "state": state(found),
        "reach": _REACH.get(found.reach, f"unknown ({found.reach})"),
        "reach_failure": found.reach_failure or None,
        "sessions": found.sessions,
        "max_sessions": found.max_sessions or None,
        "tunnels": found.tunnels,
        "visits": found.visits,
        "latitude": latitude,
        "longitude": longitude,
        "version": found.version,
        "started_at_ms": found.started_at_ms or None,
        "certificate_end_s": found.certificate_end_s or None,
        "lacking_regions": found.lacking_regions,
        "clock_ahead_s": found.clock_ahead_s,
        "addresses": list(found.addresses),
        "dns": found.dns,
        "dns_version": found.dns_version,
        "zones": list(found.zones),
    }


def _position(found: NodeInfo) -> tuple[float, float] | None:
    """Latitude and longitude in degrees, of which one may be 0; None when unknown: the protocol has 0 for both."""
    return (found.latitude, found.longitude) if found.latitude or found.longitude else None


def state(found: NodeInfo) -> str:
    """`ready`, `cordoned` or `draining`; `wrong clock` or `no certificate` for one that is ready otherwise, and gets no
    clients for it."""
    if waits_for_certificate(found):
        return "no certificate"
    if found.state == NODE_STATE_READY and not has_right_clock(found):
        return "wrong clock"
    try:
        return NodeState.Name(found.state).removeprefix("NODE_STATE_").lower()
    except ValueError:
        return f"unknown ({found.state})"


def reached(found: NodeInfo) -> str:
    """Whether its advertised address was reached, without which no clients are sent there; if not, why. And at which
    public address it was not, so that no DNS answer has it."""
    if found.reach == REACH_FAILED:
        return f"no: {found.reach_failure}"
    if found.reach == REACH_TRYING:
        return "not yet"
    return f"yes; {found.reach_failure}" if found.reach_failure else "yes"


def _end(found: NodeInfo) -> str:
    """When the first of its certificates ends that somebody has to replace."""
    return utc_time(found.certificate_end_s * 1000)


def _row(found: NodeInfo) -> list[str]:
    limit = f"/{found.max_sessions}" if found.max_sessions else ""
    return [
        found.name,
        found.region,
        str(Endpoint(found.host, found.port)),
        state(found),
        f"{found.sessions}{limit}",
        str(found.tunnels),
        str(found.visits),
        found.version,
        utc_time(found.started_at_ms),
        _end(found)[:_DAY],
        reached(found),
    ]


def _line(found: NodeInfo) -> str:
    counts = f"{found.sessions} sessions, {found.tunnels} tunnels, {found.visits} visits"
    not_reached = f"  reached: {reached(found)}" if found.reach in (REACH_TRYING, REACH_FAILED) else ""
    return f"{found.name}  {found.region}  {Endpoint(found.host, found.port)!s}  {state(found)}  {counts}{not_reached}"
