"""Nodes that answer DNS, each with an address of its own in the answers, and questions to them.

Nobody is reached at these addresses: they tell which nodes an answer names.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
from portway_runtime.endpoints import Endpoint

from portway_testkit.clusters.cluster import DOMAIN, LOOPBACK, Cluster, NodePlan
from portway_testkit.clusters.mesh import connected
from portway_testkit.waiting import PATIENCE, eventually

NAMES = ("fra-1", "fra-2", "iad-1")
ADDRESSES = {name: f"192.0.2.{number}" for number, name in enumerate(NAMES, 1)}
PLACES = {"fra": {"latitude": 50.1, "longitude": 8.7}, "iad": {"latitude": 39.0, "longitude": -77.5}}
# How many addresses a tunnel's name has where all nodes are fit: of the two nearest, and of one of another region where
# these are of one.
ADDRESSES_AT = {"fra-1": 3, "fra-2": 3, "iad-1": 2}
LABEL = "abcdefgh12345678"
# Of the registry: it does not look whether a node is at its public addresses.
BELIEVED = {"check_addresses": "no"}
_NODES = {address: name for name, address in ADDRESSES.items()}


def dns_plans(names: Sequence[str] = NAMES, **settings: Any) -> tuple[NodePlan, ...]:
    """Plans of nodes of the regions that their names begin with."""
    return tuple(NodePlan(name, name.partition("-")[0], settings=dns_settings(name) | settings) for name in names)


def dns_settings(name: str) -> dict[str, Any]:
    """Fields of NodeConfig: it answers DNS, and has an address and a place."""
    return {
        "dns_listen": (Endpoint(LOOPBACK, 0),),
        "public_address": (ADDRESSES[name], f"2001:db8::{ADDRESSES[name].rpartition('.')[2]}"),
        **PLACES[name.partition("-")[0]],
    }


def ask(cluster: Cluster, at: str, name: str, kind: str = "A", *, over_tcp: bool = False) -> dns.message.Message:
    """What a node answers. `name` is below the domain, or empty for the domain itself."""
    query = dns.message.make_query(f"{name}.{DOMAIN}" if name else DOMAIN, kind, use_edns=0)
    by = dns.query.tcp if over_tcp else dns.query.udp
    server = cluster.nodes[at].dns
    return by(query, server.host, timeout=PATIENCE, port=server.port)


def data(cluster: Cluster, at: str, name: str, kind: str) -> set[str]:
    """The data of the records of this type in an answer."""
    kind_number = dns.rdatatype.from_text(kind)
    return {
        one.to_text() for found in ask(cluster, at, name, kind).answer if found.rdtype == kind_number for one in found
    }


def named(cluster: Cluster, at: str, region: str = "fra") -> set[str]:
    """The nodes that a tunnel's name in this region leads to, by one node's answer; none when it fails."""
    return {_NODES[address] for address in data(cluster, at, f"{LABEL}.{region}", "A")}


def named_at_all(cluster: Cluster, at: str) -> set[str]:
    """All nodes that one node's answers name at all: those of each region's own name."""
    return {_NODES[address] for region in PLACES for address in data(cluster, at, region, "A")}


@contextmanager
def dns_mesh(folder: Path) -> Iterator[Cluster]:
    """Three nodes in two regions that answer DNS, and name each other."""
    with Cluster(folder, dns_plans(), settings=BELIEVED) as cluster:
        named_everywhere(cluster)
        yield cluster


def named_everywhere(cluster: Cluster) -> None:
    """Wait until every node names every other."""
    eventually(lambda: connected(cluster))
    for at in cluster.nodes:
        eventually(lambda at=at: named_at_all(cluster, at) == set(cluster.nodes))  # type: ignore[misc]
