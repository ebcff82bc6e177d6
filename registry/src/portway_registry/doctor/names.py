"""Names as strangers find them: the domain's delegation, its servers, the registry's name, a name of each region.

Here: which names are asked for, and what is wrong with the answers. Not here: the questions (resolver.py,
delegation.py, name_servers.py).
"""

import asyncio
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from portway_registry.doctor.check import Skipped
from portway_registry.doctor.delegation import PORT
from portway_registry.doctor.facts import ClusterFacts, unknown_label
from portway_registry.doctor.finding import Finding, Severity
from portway_registry.doctor.name_servers import Delegation, NameServer, look_at_delegation, refused_by
from portway_registry.doctor.resolver import Addresses, Resolver
from portway_registry.public_suffixes import can_be_public


@dataclass(frozen=True, slots=True)
class NameFacts:
    """servers: the nodes that answer DNS, each with the version of the zone's records that it answers from. regions: by
    region, what two names that no tunnel has resolve to: labels must not be told apart. nodes: the
    addresses of each node's host."""

    domain: str
    delegation: Delegation
    regions: Mapping[str, tuple[Addresses, Addresses]]
    nodes: Mapping[str, frozenset[str]]
    registry: Addresses | None
    servers: Mapping[str, int] = field(default_factory=dict)


async def look_up(facts: ClusterFacts, resolver: Resolver, registry: str, *, port: int = PORT) -> NameFacts:
    """registry: the name by which clients find it, "" for an IP address. port: of all name servers. Raises Skipped for
    a domain that no resolver knows."""
    domain = facts.domain
    if not domain:
        raise Skipped("no domain is known: the registry's settings name none, and no node is registered")
    if not resolver.is_given and not can_be_public(domain):
        raise Skipped(f"{domain} is no name of the Internet: give --resolver to ask one that knows it")
    labels = [unknown_label(), unknown_label()]
    delegation, regions, nodes, found = await asyncio.gather(
        look_at_delegation(domain, resolver, port=port),
        asyncio.gather(
            *(
                asyncio.gather(*(resolver.addresses(f"{label}.{region}.{domain}") for label in labels))
                for region in facts.regions
            )
        ),
        asyncio.gather(*(resolver.of_node(node) for node in facts.nodes)),
        _nothing() if not registry else resolver.addresses(registry),
    )
    return NameFacts(
        domain,
        delegation,
        {region: (one[0], one[1]) for region, one in zip(facts.regions, regions, strict=True)},
        {node.name: _addresses(one.all) for node, one in zip(facts.nodes, nodes, strict=True)},
        found,
        {node.name: node.dns_version for node in facts.nodes if node.dns},
    )


def judge_names(found: NameFacts) -> list[Finding]:
    """The delegation first: with it gone, names are."""
    return [*_judge_delegation(found), *_judge_versions(found), *_judge_regions(found), *_judge_registry(found)]


def _judge_delegation(found: NameFacts) -> list[Finding]:
    delegation, domain = found.delegation, found.domain
    if delegation.failure:
        return [
            Finding(
                "delegation-unknown",
                Severity.ERROR,
                domain,
                f"The zone of {domain} is not found: {delegation.failure}.",
                "No name of the cluster resolves.",
                f"At the parent zone: NS records of {domain} and the addresses of these names; or a wildcard record "
                "for each region.",
            )
        ]
    if delegation.cut != domain:
        return _judge_undelegated(found)
    findings = []
    if delegation.at_parent is None:
        findings.append(
            Finding(
                "parent-silent",
                Severity.WARNING,
                domain,
                f"No server of the zone above {domain} was asked with success.",
                "Whether its delegation is right is not known.",
                f"`dig +trace {domain} NS` from here; open port 53 outwards.",
            )
        )
    elif delegation.own and delegation.at_parent != delegation.own:
        findings.append(
            Finding(
                "name-servers-differ",
                Severity.WARNING,
                domain,
                f"The parent zone names {_list(delegation.at_parent)} as servers of {domain}, the zone itself "
                f"{_list(delegation.own)}.",
                "Some resolvers ask servers that others do not; one that is gone costs them seconds.",
                f"Make the NS records at the parent those of the zone: `dig {domain} NS`.",
            )
        )
    for server in delegation.servers:
        findings += _judge_server(domain, server)
    reached = [one for one in delegation.servers if any(answer.authoritative for answer in one.answers)]
    if not reached:
        findings.append(
            Finding(
                "name-servers-silent",
                Severity.ERROR,
                domain,
                f"None of the name servers of {domain} answers for it.",
                "No name of the cluster resolves once resolvers have forgotten it.",
                "Start the nodes that are named by NS records, with --dns-listen, and open port 53 for UDP and TCP.",
            )
        )
    elif len({address for one in delegation.servers for address in one.addresses}) == 1:
        findings.append(
            Finding(
                "one-name-server",
                Severity.NOTE,
                domain,
                f"{domain} has one name server.",
                "While its machine is away no name resolves that resolvers have not kept.",
                "A second node that answers DNS, and its NS record and address at the parent.",
            )
        )
    return findings


def _judge_undelegated(found: NameFacts) -> list[Finding]:
    """A domain in the zone above it is right where no node answers DNS."""
    if not found.servers:
        return []
    domain = found.domain
    addresses = _list(address for node in found.servers for address in found.nodes.get(node, ()))
    return [
        Finding(
            "not-delegated",
            Severity.WARNING,
            domain,
            f"{_list(found.servers)} answer DNS for {domain}, and nobody asks them: the domain is in the zone "
            f"{found.delegation.cut}.",
            "Names do not follow the nodes: one that drains or dies stays in the answers.",
            f"In the zone {found.delegation.cut}: NS records of {domain} with ns1.{domain} and so on, and these "
            f"addresses of the names: {addresses}.",
        )
    ]


def _judge_versions(found: NameFacts) -> list[Finding]:
    """A node that answers from older records than another one."""
    newest = max(found.servers.values(), default=0)
    return [
        Finding(
            "name-server-behind",
            Severity.WARNING,
            node,
            f"Node {node} answers DNS from records of version {version}, others from version {newest}.",
            "Certificate authorities that ask it do not find proofs, and records that operators added are missing.",
            f"Repeat in some seconds; then look at its link to the registry: the log of {node}.",
        )
        for node, version in sorted(found.servers.items())
        if version < newest
    ]


def _judge_server(domain: str, server: NameServer) -> list[Finding]:
    findings = []
    glue, addresses = server.glue, frozenset(server.addresses)
    there = _list(addresses) or "those of its node"
    if glue is not None and not glue:
        findings.append(
            Finding(
                "glue-missing",
                Severity.ERROR,
                server.name,
                f"The parent zone has no address of {server.name}, a server of {domain}.",
                "Its name is in the zone that it serves: resolvers cannot find it.",
                f"Add its address records at the parent zone, beside the NS record: {there}.",
            )
        )
    elif glue is not None and addresses and glue != addresses:
        findings.append(
            Finding(
                "glue-differs",
                Severity.WARNING,
                server.name,
                f"The parent zone says that {server.name} is at {_list(glue)}, the zone itself that it is at "
                f"{_list(addresses)}.",
                "Resolvers that begin at an old address wait before they try another one.",
                f"Make the addresses of {server.name} at the parent zone {_list(addresses)}.",
            )
        )
    if not addresses and not glue:
        findings.append(
            Finding(
                "name-server-unresolved",
                Severity.ERROR,
                server.name,
                f"The name server {server.name} of {domain} has no address: {server.failure}.",
                "Resolvers wait for it in vain.",
                "Add its addresses, or take it out of the NS records.",
            )
        )
    for transport in ("udp", "tcp"):
        for answer in refused_by(server.answers, transport):
            findings.append(
                Finding(
                    "name-server-silent",
                    Severity.WARNING if any(one.authoritative for one in server.answers) else Severity.ERROR,
                    server.name,
                    f"The name server {server.name} fails at {answer.at} over {transport.upper()}: {answer.failure}.",
                    "Resolvers wait, and answers that need TCP fail."
                    if transport == "tcp"
                    else "Resolvers wait for seconds before they ask another one.",
                    f"Open port {answer.at.port} for {transport.upper()} there: `dig @{answer.at.host} {domain} SOA"
                    f"{' +tcp' if transport == 'tcp' else ''}`.",
                )
            )
    lame = [one for one in server.answers if not one.failure and not one.authoritative]
    if lame:
        findings.append(
            Finding(
                "name-server-lame",
                Severity.ERROR,
                server.name,
                f"The name server {server.name} answers at {lame[0].at} and does not serve {domain}.",
                "Resolvers that ask it get no answer.",
                "Let the node there answer DNS (--dns-listen), or take it out of the NS records.",
            )
        )
    return findings


def _judge_regions(found: NameFacts) -> list[Finding]:
    findings = []
    known = frozenset(address for addresses in found.nodes.values() for address in addresses)
    for region, (one, other) in found.regions.items():
        zone = f"{region}.{found.domain}"
        failed = next((each for each in (one, other) if not each.all), None)
        if failed is not None:
            findings.append(
                Finding(
                    "region-unresolved",
                    Severity.ERROR,
                    region,
                    f"Names below {zone} do not resolve: {failed.failure}.",
                    f"Visitors do not reach the tunnels of region {region}.",
                    f"A wildcard record *.{zone} with the addresses of the nodes, or a delegation of {found.domain} to "
                    f"nodes that answer DNS: `dig anything.{zone}`.",
                )
            )
            continue
        strangers = sorted(_addresses((*one.all, *other.all)) - known)
        if strangers and known:
            findings.append(
                Finding(
                    "region-led-astray",
                    Severity.ERROR,
                    region,
                    f"Names below {zone} lead to {_list(strangers)}, where no registered node is.",
                    "Visitors who are sent there do not reach any tunnel.",
                    f"Take these addresses out of the records of *.{zone}; or start the node there.",
                )
            )
    return findings


def _judge_registry(found: NameFacts) -> list[Finding]:
    if found.registry is None or found.registry.all:
        return []
    return [
        Finding(
            "registry-name-unresolved",
            Severity.ERROR,
            found.registry.name,
            f"Strangers' resolvers do not find the registry's name {found.registry.name}: {found.registry.failure}.",
            "Clients that do not know a node yet find none.",
            f"Add its address records: `dig {found.registry.name}`.",
        )
    ]


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _addresses(texts: Iterable[str]) -> frozenset[str]:
    return frozenset(str(ipaddress.ip_address(text)) for text in texts)


async def _nothing() -> None:
    return None
