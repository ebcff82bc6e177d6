"""The mesh: whether each node reaches each other one, and whether the round trips fit their places."""

from typing import Final

from portway_geo.position import Position, distance_km, fibre_round_trip_ms, light_round_trip_ms
from portway_proto.v1.types_pb2 import MeshLink, NodeInfo

from portway_registry.doctor.facts import ClusterFacts
from portway_registry.doctor.finding import Finding, Severity

# A route that takes so many times as long as is to be expected of the distance, and so many milliseconds more, is a
# detour.
_DETOUR: Final = 2.0
_DETOUR_MS: Final = 60.0
# Milliseconds by which light may be missed: positions are in whole degrees, 111 km at most of each.
_ROUNDING_MS: Final = 2.5


def judge_links(facts: ClusterFacts) -> list[Finding]:
    """Every link that nodes report, of those to nodes that are registered. How long two nodes need is told once."""
    nodes = {node.name: node for node in facts.nodes}
    found: dict[tuple[str, frozenset[str] | str], Finding] = {}
    for node in facts.nodes:
        for link in node.links:
            finding = _judge(node, link, nodes[link.node]) if link.node in nodes else None
            if finding is not None:
                pair = finding.subject if link.failure else frozenset((node.name, link.node))
                found.setdefault((finding.kind, pair), finding)
    return list(found.values())


def _judge(node: NodeInfo, link: MeshLink, other: NodeInfo) -> Finding | None:
    between = f"{node.name} -> {other.name}"
    if link.failure:
        return Finding(
            "link-down",
            Severity.ERROR,
            between,
            f"Node {node.name} does not reach node {other.name}: {link.failure}.",
            f"Visitors who enter at {node.name} are not led to tunnels at {other.name}.",
            f"On the machine of {node.name}: `openssl s_client -connect {other.host}:{other.port}`. Open port "
            f"{other.port} between the two.",
        )
    here, there = _position(node), _position(other)
    if not link.round_trip_us or here is None or there is None:
        return None
    took = link.round_trip_us / 1000
    km = distance_km(here, there)
    if took + _ROUNDING_MS < light_round_trip_ms(km):
        return Finding(
            "link-too-fast",
            Severity.WARNING,
            between,
            f"The round trip from {node.name} to {other.name} takes {took:.2f} ms, and light takes "
            f"{light_round_trip_ms(km):.0f} ms between their places.",
            "One of the two is not where its settings say, so that clients are sent to the wrong one.",
            f"Correct --latitude and --longitude of {node.name} or {other.name}.",
        )
    if took > _DETOUR * fibre_round_trip_ms(km) + _DETOUR_MS:
        return Finding(
            "link-slow",
            Severity.WARNING,
            between,
            f"The round trip from {node.name} to {other.name} takes {took:.0f} ms, over a distance of {km:.0f} km.",
            "Visitors of the one region's names at the other wait as long, and more than the distance explains.",
            f"On the machine of {node.name}: `mtr {other.host}`; ask the provider about the route.",
        )
    return None


def _position(node: NodeInfo) -> Position | None:
    """None when it is not known: the protocol has 0 for both then."""
    return Position(node.latitude, node.longitude) if node.latitude or node.longitude else None
