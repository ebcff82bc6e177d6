"""The cluster's names as plain records, for a zone that another name server serves.

Here: which records those are, and as a zone file. Pure: a value in, values out. What nodes' own DNS servers can do and
these cannot: the nearest nodes for each asker, and nodes that go left out within seconds.
"""

import ipaddress
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from portway_proto.records import ip_addresses
from portway_proto.v1.admin_pb2 import DNS_RECORD_SOURCE_NAME_SERVER, ListDnsRecordsResponse
from portway_proto.v1.types_pb2 import DnsRecord, NodeInfo
from portway_runtime.printable import printable_line

from portway_registry.state.records import is_ready

_TTL: Final = 30
# Addresses of one family of a name: what fits into an answer that no path cuts, twice over.
_MOST: Final = 8


def exported(nodes: Iterable[NodeInfo], listed: ListDnsRecordsResponse) -> list[DnsRecord]:
    """The records, by name, type and data, names fully qualified.

    `<region>.<domain>` and `*.<region>.<domain>` are the region's nodes that are ready; where there are none, the
    wildcard is every node that is ready and holds the region's certificate, if most of those that are ready say so: one
    node cannot make a region up. The domain and the registry's name are all
    that are ready. Then come the records of operators and proofs for certificate authorities. An operator's addresses
    of a name come before those of nodes.
    """
    domain = listed.domain
    ready = sorted((node for node in nodes if is_ready(node) and node.addresses), key=lambda node: node.name)
    static = [one.record for one in listed.records if one.source != DNS_RECORD_SOURCE_NAME_SERVER]
    addressed = {one.name for one in static if one.type in ("A", "AAAA", "CNAME")}
    names = {name: ready for name in (domain, listed.registry_name) if name}
    holders = Counter(zone for node in ready for zone in node.zones if zone.endswith(f".{domain}"))
    zones = {zone for zone, count in holders.items() if 2 * count > len(ready)}
    for zone in zones | {f"{node.region}.{domain}" for node in ready}:
        of_region = [node for node in ready if f"{node.region}.{domain}" == zone]
        names[zone] = of_region
        certified = [node for node in of_region if zone in node.zones]
        names[f"*.{zone}"] = certified or [node for node in ready if zone in node.zones]
    of_nodes = (record for name, some in names.items() if name not in addressed for record in _addresses(name, some))
    return sorted([*of_nodes, *static], key=lambda one: (one.name, one.type, one.data))


def zone_file(records: Sequence[DnsRecord], domain: str, name_servers: Sequence[str], serial: int) -> str:
    """The records as a zone file (RFC 1035, section 5); with name servers a whole zone, with SOA and NS records."""
    lines = [f"$ORIGIN {domain}.", f"$TTL {_TTL}"]
    if name_servers:
        servers = [f"{name.rstrip('.')}." for name in name_servers]
        lines.append(f"@ SOA {servers[0]} hostmaster.{domain}. {serial} 3600 600 604800 {_TTL}")
        lines += [f"@ 3600 NS {server}" for server in servers]
    lines += [f"{_relative(one.name, domain)} {one.ttl} {one.type} {one.data}" for one in records]
    return "\n".join(map(printable_line, lines)) + "\n"


def _addresses(name: str, nodes: Iterable[NodeInfo]) -> Iterator[DnsRecord]:
    found = [ipaddress.ip_address(address) for node in nodes for address in ip_addresses(node.addresses)]
    for version, kind in ((4, "A"), (6, "AAAA")):
        for address in list(dict.fromkeys(one for one in found if one.version == version))[:_MOST]:
            yield DnsRecord(name=name, type=kind, ttl=_TTL, data=str(address))


def _relative(name: str, domain: str) -> str:
    if name == domain:
        return "@"
    return name.removesuffix(f".{domain}") if name.endswith(f".{domain}") else f"{name}."
