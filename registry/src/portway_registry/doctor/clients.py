"""What clients meet: the registry's port, which operators use too, and each node by its cluster certificate.

Not here: what visitors of tunnels meet (visitors.py).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from portway_proto.v1.types_pb2 import NodeInfo
from portway_proto.wire.limits import LINK_ALPN
from portway_runtime.endpoints import Endpoint

from portway_registry.doctor.certificates import ends, how_soon
from portway_registry.doctor.check import Skipped
from portway_registry.doctor.facts import ClusterFacts
from portway_registry.doctor.finding import Finding, Severity
from portway_registry.doctor.handshakes import AT_ONCE, Handshake, How, shake_hands, trusting
from portway_registry.doctor.resolver import Addresses, Resolver
from portway_registry.doctor.units import at_either


@dataclass(frozen=True, slots=True)
class ClientFacts:
    """registry_hosts: what the registry's names resolve to; registry: a handshake at each of these addresses. nodes: a
    handshake at each address of each node, by the node's name."""

    registry_hosts: Sequence[Addresses]
    registry: Sequence[Handshake]
    nodes: Sequence[tuple[str, Handshake]]


async def attach(
    facts: ClusterFacts, resolver: Resolver, registries: Sequence[Endpoint], ca: bytes | None
) -> ClientFacts:
    """Do all handshakes. registries: as this command names them; empty to leave them out. ca: PEM, trusted beside the
    system's at the registry; nodes are verified by the cluster's own CAs. Raises Skipped when there is nothing to dial.
    """
    authorities = b"".join(one.certificate for one in facts.authorities)
    nodes = facts.nodes if authorities else ()
    if not registries and not nodes:
        raise Skipped("there is nothing to connect to")
    slots = asyncio.Semaphore(AT_ONCE)
    as_operator = trusting(ca, system=True)
    as_client = trusting(authorities or None, system=False, alpn=(LINK_ALPN,))

    async def reach(endpoint: Endpoint, address: str) -> Handshake:
        async with slots:
            return await shake_hands(Endpoint(address, endpoint.port), endpoint.host.strip("[]"), as_operator)

    async def dial(node: NodeInfo, address: str) -> tuple[str, Handshake]:
        async with slots:
            return node.name, await shake_hands(Endpoint(address, node.port), node.server_name, as_client)

    registry_hosts, node_hosts = await asyncio.gather(
        asyncio.gather(*(resolver.addresses(one.host) for one in registries)),
        asyncio.gather(*(resolver.of_node(node) for node in nodes)),
    )
    at_registries = (
        reach(endpoint, address)
        for endpoint, found in zip(registries, registry_hosts, strict=True)
        for address in found.all
    )
    at_nodes = (dial(node, address) for node, found in zip(nodes, node_hosts, strict=True) for address in found.all)
    registry, dialled = await asyncio.gather(asyncio.gather(*at_registries), asyncio.gather(*at_nodes))
    return ClientFacts(registry_hosts, registry, dialled)


def judge_clients(found: ClientFacts, *, now_s: float) -> list[Finding]:
    """The registry, then nodes; ends of certificates by this machine's clock."""
    return [*_judge_registry(found, now_s), *_judge_nodes(found.nodes, now_s)]


def _judge_nodes(dialled: Sequence[tuple[str, Handshake]], now_s: float) -> list[Finding]:
    """An address that takes no connection is told of visitors too."""
    found: dict[str, Finding] = {}
    for node, one in dialled:
        if one.how in (How.NAME_REFUSED, How.UNTRUSTED, How.FAILED):
            found[node] = Finding(
                "node-untrusted",
                Severity.ERROR,
                node,
                f"What is at {one.at} does not show the cluster's certificate of node {node}: {one.reason}.",
                "Clients do not attach there, and other nodes do not reach it.",
                f"Look at what listens there, and at the log of {node}; a node whose certificate has ended is invited "
                f"anew (`portway-admin node invite --name {node} --region ...`).",
            )
        elif one.how is How.DONE and node not in found:
            severity = how_soon(one.end_s, now_s, one.end_s - one.begins_s)
            if severity is not None:
                found[node] = Finding(
                    "node-not-renewed",
                    severity,
                    node,
                    f"The cluster's certificate of node {node} {ends(one.end_s, now_s)}, and was not renewed.",
                    "Clients and other nodes refuse it after that.",
                    f"The log of {node} says why; it renews through the registry's port for nodes. One from files "
                    "(--cert) is replaced there.",
                )
    return list(found.values())


def _judge_registry(found: ClientFacts, now_s: float) -> list[Finding]:
    findings = [
        Finding(
            "registry-unresolved",
            Severity.ERROR,
            host.name,
            f"The registry's name {host.name} does not resolve: {host.failure}.",
            "Clients that do not know a node yet find none.",
            "Correct the records of that name.",
        )
        for host in found.registry_hosts
        if not host.all
    ]
    tried = [one for one in found.registry if one.how is not How.NO_FAMILY]
    works = any(one.how is How.DONE for one in tried)
    for one in tried:
        if one.how is How.DONE:
            severity = how_soon(one.end_s, now_s, one.end_s - one.begins_s)
            if severity is not None:
                findings.append(
                    Finding(
                        "registry-ends",
                        severity,
                        str(one.at),
                        f"The certificate that the registry shows at {one.at} {ends(one.end_s, now_s)}.",
                        "Clients and operators refuse it after that.",
                        "Put a new certificate in the place of its --tls-cert: it is loaded within seconds.",
                    )
                )
        elif one.how is How.UNREACHED:
            findings.append(
                Finding(
                    "registry-unreached",
                    Severity.WARNING if works else Severity.ERROR,
                    str(one.at),
                    f"The registry takes no connection at {one.at}: {one.reason}.",
                    "Clients try its next address, and lose time."
                    if works
                    else "Clients find no node, unless they know one.",
                    f"Start it there ({at_either('systemctl status', 'portway-registry')}), open the port, or take the "
                    "address out of the records of its name.",
                )
            )
        else:
            findings.append(
                Finding(
                    "registry-untrusted",
                    Severity.ERROR,
                    str(one.at),
                    f"What the registry shows at {one.at} for {one.name} is refused: {one.reason}.",
                    "Clients and operators do not talk to it.",
                    f"Put a certificate for {one.name} in the place of its --tls-cert, or name its CA with --ca.",
                )
            )
    return findings
