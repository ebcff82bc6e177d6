"""Nodes as the registry knows them: reached, ready, with certificates for every region, with room."""

from collections import Counter
from datetime import UTC, datetime
from typing import Final

from portway_proto.v1.admin_pb2 import AbsentNode
from portway_proto.v1.types_pb2 import NODE_STATE_READY, REACH_FAILED, REACH_TRYING, NodeInfo
from portway_runtime.endpoints import Endpoint

from portway_registry.doctor.facts import ClusterFacts
from portway_registry.doctor.finding import Finding, Severity
from portway_registry.doctor.units import at_either, set_limit
from portway_registry.state.records import is_ready, waits_for_certificate

# A session has a control lane and eight lanes for visits.
_DESCRIPTORS_A_SESSION: Final = 9
# What a node keeps for its own work, and for visitors' connections at least.
_OTHER_DESCRIPTORS: Final = 256
_NEARLY_FULL: Final = 0.9
_MANY_OPEN: Final = 0.8
_ALL_OPEN: Final = 0.95


def judge_nodes(facts: ClusterFacts) -> list[Finding]:
    """All nodes, and each region."""
    if not facts.nodes:
        return [
            Finding(
                "no-nodes",
                Severity.ERROR,
                "cluster",
                "No node is registered.",
                "Clients cannot open a tunnel, and nobody answers visitors.",
                "`portway-admin node invite --region REGION`, then `portway-server join` there; on a machine that has "
                f"one: {at_either('journalctl -u', 'portway-relay')}.",
            )
        ]
    zones = frozenset(f"{region}.{facts.domain}" for region in facts.regions)
    found = [finding for node in facts.nodes for finding in _judge_node(node, zones)]
    found += [] if facts.health is None else map(_absent, facts.health.absent_nodes)
    ready = Counter(node.region for node in facts.nodes if is_ready(node))
    for region in facts.regions:
        if not ready[region]:
            found.append(
                Finding(
                    "region-without-node",
                    Severity.ERROR,
                    region,
                    f"No node of region {region} is ready.",
                    "New clients go to other regions, and visitors find this region's names by them alone.",
                    "`portway-admin node list` says why of each; `portway-admin node serve NAME` ends an order.",
                )
            )
        elif ready[region] == 1:
            found.append(
                Finding(
                    "region-with-one-node",
                    Severity.NOTE,
                    region,
                    f"Region {region} has one node that is ready.",
                    "While it restarts, its clients go to another region.",
                    f"`portway-admin node invite --region {region}` for a second one.",
                )
            )
    return found


def _absent(node: AbsentNode) -> Finding:
    end = datetime.fromtimestamp(node.certificate_end_s, UTC)
    return Finding(
        "node-absent",
        Severity.WARNING,
        node.name,
        f"Node {node.name} of region {node.region} has joined the cluster, and no registry hears of it.",
        f"Others do its work. After {end:%Y-%m-%d %H:%M} UTC, when its certificate ends, it is let in no more.",
        f"Start its machine; there, {at_either('journalctl -u', 'portway-relay')} says what it waits for. If it is "
        f"gone for good: `portway-admin node remove {node.name}`.",
    )


def _judge_node(node: NodeInfo, zones: frozenset[str]) -> list[Finding]:
    return [*_reach(node), *_service(node, zones), *_room(node)]


def _reach(node: NodeInfo) -> list[Finding]:
    address = str(Endpoint(node.host, node.port))
    if node.reach == REACH_FAILED:
        return [
            Finding(
                "node-unreached",
                Severity.ERROR,
                node.name,
                f"Node {node.name} is not reached at {address}: {node.reach_failure}.",
                "No client is sent there.",
                f"Open port {node.port} for TCP at its firewall, or correct its --advertise; from another machine: "
                f"`openssl s_client -connect {address}`.",
            )
        ]
    if node.reach == REACH_TRYING:
        return [
            Finding(
                "node-being-reached",
                Severity.NOTE,
                node.name,
                f"Node {node.name} is being dialled at {address} for the first time.",
                "Clients are sent there once it is reached.",
                "Repeat `portway-admin doctor` in half a minute.",
            )
        ]
    if node.reach_failure:  # of a public address
        return [
            Finding(
                "public-address-unreached",
                Severity.WARNING,
                node.name,
                f"Node {node.name} is reached at {address}, not at all of its public addresses: {node.reach_failure}.",
                "No visitor is sent to that address.",
                f"Open port {node.port} for TCP there, at its firewall too, or correct its --public-address. Where a "
                "balancer has the address for several nodes: --check-addresses no, at the registry.",
            )
        ]
    return []


def _service(node: NodeInfo, zones: frozenset[str]) -> list[Finding]:
    found = []
    if node.state != NODE_STATE_READY and not waits_for_certificate(node):
        found.append(
            Finding(
                "node-ordered",
                Severity.NOTE,
                node.name,
                f"Node {node.name} is cordoned or drains.",
                "It gets no new clients.",
                f"`portway-admin node serve {node.name}` when the work on it is done.",
            )
        )
    if node.lacking_regions:
        found.append(
            Finding(
                "node-lacks-regions",
                Severity.ERROR,
                node.name,
                f"Node {node.name} has no certificate for {_lacking(node, zones)}.",
                "It refuses visitors of their names, though they are sent there.",
                "`portway-admin certificate list` where registries obtain them; else its --tls-cert and --tls-key.",
            )
        )
    if node.max_sessions and node.sessions >= _NEARLY_FULL * node.max_sessions:
        found.append(
            Finding(
                "node-full",
                Severity.WARNING,
                node.name,
                f"Node {node.name} has {node.sessions} of {node.max_sessions} sessions.",
                "When it is full, clients go to nodes that are farther away.",
                f"`portway-admin node invite --region {node.region}` for one more node, or raise its --max-sessions.",
            )
        )
    return found


def _lacking(node: NodeInfo, zones: frozenset[str]) -> str:
    """By name, of a node that says which zones it has."""
    if node.zones and (lacking := zones - set(node.zones)):
        return ", ".join(f"*.{zone}" for zone in sorted(lacking))
    return f"{node.lacking_regions} of the cluster's regions"


def _room(node: NodeInfo) -> list[Finding]:
    limit, used = node.descriptors, node.descriptors_used
    if not limit:
        return []
    found = []
    if used >= _MANY_OPEN * limit:
        found.append(
            Finding(
                "descriptors-used",
                Severity.ERROR if used >= _ALL_OPEN * limit else Severity.WARNING,
                node.name,
                f"Node {node.name} has {used} of {limit} file descriptors in use.",
                "Without one it accepts no connection.",
                f"{set_limit(node.unit, 'Raise LimitNOFILE')}; or add a node.",
            )
        )
    wanted = node.max_sessions * _DESCRIPTORS_A_SESSION + _OTHER_DESCRIPTORS
    if node.max_sessions and limit < wanted:
        room = max(0, limit - _OTHER_DESCRIPTORS) // _DESCRIPTORS_A_SESSION
        found.append(
            Finding(
                "descriptors-few",
                Severity.WARNING,
                node.name,
                f"Node {node.name} may have {limit} file descriptors, which {room} sessions with their lanes use up, "
                f"and takes {node.max_sessions}.",
                "Its visitors wait for connections before it says that it is full.",
                f"{set_limit(node.unit, f'Set LimitNOFILE={wanted}')}; or --max-sessions {room}.",
            )
        )
    return found
