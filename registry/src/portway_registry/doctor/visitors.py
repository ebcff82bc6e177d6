"""What visitors meet: each node's public port, in each address family, by the name of a tunnel of each region.

A node answers only names of tunnels that are open, so certificates are seen where there is one: it gets a connection
that is closed after the handshake. A node that refuses an unknown name has been reached.

Here: which handshakes are done, and what is wrong with what came of them.
"""

import asyncio
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from portway_proto.v1.types_pb2 import NodeInfo
from portway_runtime.endpoints import Endpoint

from portway_registry.doctor.certificates import ends, how_soon
from portway_registry.doctor.facts import ClusterFacts, unknown_label
from portway_registry.doctor.finding import Finding, Severity
from portway_registry.doctor.handshakes import AT_ONCE, Handshake, How, shake_hands, trusting
from portway_registry.doctor.resolver import Addresses, Resolver
from portway_registry.public_suffixes import can_be_public

_AGAIN_AFTER: Final = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class NodeVisit:
    """A handshake at a node for a name of a zone, `<region>.<domain>`: that of a tunnel, or one that nobody has."""

    node: str
    zone: str
    of_tunnel: bool
    handshake: Handshake


@dataclass(frozen=True, slots=True)
class VisitorFacts:
    """hosts: what nodes' addresses resolve to, by node. only_by_file: the zones whose certificates only the CA file of
    --ca trusts."""

    hosts: Mapping[str, Addresses]
    visits: Sequence[NodeVisit]
    only_by_file: frozenset[str]


async def meet(facts: ClusterFacts, resolver: Resolver, ca: bytes | None) -> VisitorFacts:
    """Do all handshakes. ca: PEM, trusted beside the system's."""
    slots = asyncio.Semaphore(AT_ONCE)
    both, by_system = trusting(ca, system=True), trusting(None, system=True)

    async def visit(node: NodeInfo, address: str, zone: str, host: str) -> NodeVisit:
        name, at = host or f"{unknown_label()}.{zone}", Endpoint(address, node.port)
        async with slots:
            made = await shake_hands(at, name, both)
        if host and made.how is How.NAME_REFUSED:  # the tunnel may be moving
            await asyncio.sleep(_AGAIN_AFTER)
            made = await shake_hands(at, name, both)
        return NodeVisit(node.name, zone, bool(host), made)

    async def is_trusted_by_system(at: Endpoint, name: str) -> bool:
        async with slots:
            return (await shake_hands(at, name, by_system)).how is not How.UNTRUSTED

    hosts = dict(
        zip(
            [node.name for node in facts.nodes],
            await asyncio.gather(*(resolver.of_node(node) for node in facts.nodes)),
            strict=True,
        )
    )
    visits = await asyncio.gather(
        *(
            visit(node, address, zone, host)
            for node in facts.nodes
            for address in hosts[node.name].all
            for zone, host in (facts.tunnels or {f"{node.region}.{facts.domain}": ""}).items()
        )
    )
    shown = {one.zone: one.handshake for one in visits if one.handshake.how is How.DONE} if ca is not None else {}
    trusted = await asyncio.gather(*(is_trusted_by_system(one.at, one.name) for one in shown.values()))
    only_by_file = frozenset(zone for zone, is_trusted in zip(shown, trusted, strict=True) if not is_trusted)
    return VisitorFacts(hosts, visits, only_by_file)


def judge_visitors(found: VisitorFacts, *, now_s: float) -> list[Finding]:
    """By node and by zone; ends of certificates by this machine's clock."""
    findings = [
        Finding(
            "node-name-unresolved",
            Severity.ERROR,
            node,
            f"The address {host.name} of node {node} does not resolve: {host.failure}.",
            "Neither clients nor visitors find it.",
            "Correct its --advertise, or the records of that name.",
        )
        for node, host in found.hosts.items()
        if not host.all
    ]
    served = {visit.zone for visit in found.visits if visit.handshake.how is How.DONE}
    by_node: dict[str, list[NodeVisit]] = {}
    for visit in found.visits:
        by_node.setdefault(visit.node, []).append(visit)
    for node, visits in by_node.items():
        findings += _judge_reach(node, [visit.handshake for visit in visits])
        findings += _judge_zones(node, [visit for visit in visits if visit.of_tunnel], served)
    findings += _judge_ends(found.visits, now_s)
    findings += [
        Finding(
            "zone-trusted-here-only",
            Severity.WARNING,
            zone,
            f"The certificate of *.{zone} is trusted by the file of --ca and by no CA of this system.",
            "Browsers show a warning in place of the page.",
            "Give the nodes a certificate of a public CA with --tls-cert and --tls-key.",
        )
        for zone in sorted(found.only_by_file)
        if can_be_public(zone)
    ]
    return findings + _judge_families(found.visits)


def _judge_families(visits: Iterable[NodeVisit]) -> list[Finding]:
    """Addresses of a family that this machine does not have."""
    untried = sorted({str(one.handshake.at) for one in visits if one.handshake.how is How.NO_FAMILY})
    if not untried:
        return []
    family = "IPv6" if untried[0].startswith("[") else "IPv4"
    return [
        Finding(
            "family-not-tried",
            Severity.NOTE,
            "this machine",
            f"This machine has no {family}: {len(untried)} addresses of nodes were not tried.",
            "Whether visitors with such an address get through is not known.",
            f"Repeat `portway-admin doctor` on a machine that has {family}.",
        )
    ]


def _judge_reach(node: str, handshakes: Sequence[Handshake]) -> list[Finding]:
    """Whether its port takes connections, by address."""
    tried = [one for one in handshakes if one.how is not How.NO_FAMILY]
    lost = {one.at: one for one in tried if one.how is How.UNREACHED}
    reached = {one.at for one in tried if one.how is not How.UNREACHED}
    return [
        Finding(
            "visitor-unreached",
            Severity.WARNING if reached else Severity.ERROR,
            node,
            f"Node {node} takes no connection at {at} from this machine: {one.reason}.",
            "Visitors with this address wait for nothing before they try another one."
            if reached
            else "Visitors who are sent there wait for nothing.",
            f"Open the port at its firewall for {'IPv6' if ':' in at.host else 'IPv4'}, or take the address out of the "
            "records of its name.",
        )
        for at, one in sorted(lost.items(), key=lambda item: str(item[0]))
        if at not in reached
    ]


def _judge_zones(node: str, visits: Sequence[NodeVisit], served: Container[str]) -> list[Finding]:
    """What it shows for each zone; an address that is not reached says nothing of it. A tunnel that no node serves has
    ended meanwhile. served: the zones of which some node showed a certificate."""
    found: dict[tuple[str, How], Finding] = {}
    for visit in visits:
        zone, one = visit.zone, visit.handshake
        if one.how is How.NAME_REFUSED and zone in served:
            found[zone, one.how] = Finding(
                "zone-not-served",
                Severity.ERROR,
                node,
                f"Node {node} refuses visitors of a tunnel of *.{zone} that is open, and that other nodes serve.",
                "Visitors who enter there are refused, whom the tunnel's names may lead there.",
                f"Its log says why: no certificate of *.{zone} (--tls-cert, --tls-key), or no link to its node.",
            )
        elif one.how is How.UNTRUSTED:
            found[zone, one.how] = Finding(
                "zone-untrusted",
                Severity.ERROR,
                node,
                f"What node {node} shows for *.{zone} is not trusted: {one.reason}.",
                "Browsers show a warning in place of the page.",
                f"Put a valid certificate of *.{zone}, with its intermediate ones, in the place of its --tls-cert; "
                "name a CA of your own with --ca.",
            )
        elif one.how is How.FAILED:
            found[zone, one.how] = Finding(
                "zone-handshake-failed",
                Severity.ERROR,
                node,
                f"The TLS handshake with node {node} at {one.at} for *.{zone} failed: {one.reason}.",
                "Visitors who enter there get no answer.",
                f"Look at its log, and for a proxy in front that ends TLS: `openssl s_client -connect {one.at}`.",
            )
    return list(found.values())


def _judge_ends(visits: Iterable[NodeVisit], now_s: float) -> list[Finding]:
    """A zone's certificate that ends soon, at the nodes that show it."""
    soon: dict[tuple[str, float], tuple[Severity, list[str]]] = {}
    for visit in visits:
        one = visit.handshake
        if one.how is not How.DONE:
            continue
        severity = how_soon(one.end_s, now_s, one.end_s - one.begins_s)
        if severity is not None:
            nodes = soon.setdefault((visit.zone, one.end_s), (severity, []))[1]
            if visit.node not in nodes:
                nodes.append(visit.node)
    return [
        Finding(
            "zone-ends",
            severity,
            zone,
            f"The certificate of *.{zone} at {', '.join(nodes)} {ends(end_s, now_s)}.",
            "Browsers show a warning in place of the page after that.",
            f"`portway-admin certificate renew {zone}` where registries obtain it; else put a new one in the place of "
            "--tls-cert of these nodes: it is loaded within seconds.",
        )
        for (zone, end_s), (severity, nodes) in soon.items()
    ]
