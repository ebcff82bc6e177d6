"""The cluster's zone at one time: which names there are, and what each has.

    <domain>                   SOA, NS; the nearest nodes
    <registry name>            the nearest nodes
    <region>.<domain>          nodes of the region, where its raw TCP ports are
    <label>.<region>.<domain>  the two nearest nodes that hold the region's certificate, and where these are of one
                               region a third one of another; any label, known or not
    ns1.<domain>, …            as a registry lists them, like all that operators have added

Pure: a value in, values out. Names are in wire form and lower case. Not here: messages (query.py, answers.py).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Final

import dns.rdatatype
from portway_geo.position import Position

from portway_relay.dns.nodes import CHOSEN, DnsNode, NodeChoice
from portway_relay.dns.records import RecordList, Records, RecordSet, wire_name

A: Final = int(dns.rdatatype.A)
AAAA: Final = int(dns.rdatatype.AAAA)
CNAME: Final = int(dns.rdatatype.CNAME)
NS: Final = int(dns.rdatatype.NS)
SOA: Final = int(dns.rdatatype.SOA)
FAMILIES: Final = {A: 4, AAAA: 6}
# Seconds for which resolvers keep where a name leads, and that it does not exist: how long a visitor may be sent to a
# node that has gone, beside what it takes to notice.
TTL: Final = 30
_NS_TTL: Final = 3_600
# Of the zone's SOA, for secondary servers, of which there are none: refresh, retry, expire.
_SOA_TIMES: Final = (3_600, 600, 604_800)
# Nodes of a region that its own name leads to: as many IPv6 addresses as fit beside each other into 512 bytes.
_NODES_OF_REGION: Final = 8


class Leads(Enum):
    """Where a name leads to, beside what it has of its own."""

    NOWHERE = "nowhere"
    NEAREST = "nearest"  # the nearest nodes of all
    REGION = "region"  # the nodes of a region
    TUNNEL = "tunnel"  # the nearest nodes that hold the region's certificate


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """A name that exists; all labels of a region are one. Without anything it is an empty non-terminal."""

    leads: Leads = Leads.NOWHERE
    region: str = ""
    sets: Mapping[int, RecordSet] = field(default_factory=lambda: MappingProxyType({}))

    def has_addresses_of_nodes(self) -> bool:
        """Whether its addresses depend on who asks; addresses of its own come first."""
        return self.leads is not Leads.NOWHERE and not self.sets.keys() & {A, AAAA, CNAME}


class Zone:
    """All names, and the nodes that they lead to."""

    def __init__(
        self, domain: str, listed: RecordList, nodes: Iterable[DnsNode], own: str, *, other_region: bool = True
    ) -> None:
        """own: the name of the node that answers. other_region: as of NodeChoice."""
        self.domain = domain
        self.apex = wire_name(domain)
        self.choice = NodeChoice(tuple(nodes), own, other_region=other_region)
        self.version = listed.version
        regions = {node.region for node in self.choice.nodes}
        regions |= {zone.removesuffix(f".{domain}") for zone in self._held_zones() if zone.endswith(f".{domain}")}
        self._names: dict[bytes, Name] = {}
        self._below: dict[bytes, Name] = {}  # any name of one label more than these
        for region in sorted(regions):
            if "." not in region:
                zone = _label(region) + self.apex
                self._names[zone] = Name(Leads.REGION, region)
                self._below[zone] = Name(Leads.TUNNEL, region)
        if listed.registry_name and self.covers(listed.registry_name):
            self._names[listed.registry_name] = Name(Leads.NEAREST)
        self._names[self.apex] = Name(Leads.NEAREST)
        self._add(self._own_records(listed))
        self._add(listed.records)
        for name in list(self._names):
            for above in _above(name, self.apex):
                if self._find(above) is None:
                    self._names[above] = Name()

    def find(self, name: bytes) -> Name | None:
        """What a name below the domain, or the domain itself, has; None when it does not exist."""
        return self._find(name)

    def covers(self, name: bytes) -> bool:
        """Whether the name is the domain or below it."""
        if not name.endswith(self.apex):
            return False
        at, end = 0, len(name) - len(self.apex)
        while at < end:
            at += name[at] + 1
        return at == end

    def turns(self, name: Name, kind: int, asker: Position | None) -> list[list[bytes]]:
        """The addresses of nodes that the name has for this asker, of type A or AAAA: a list for each turn."""
        family, region = FAMILIES[kind], name.region
        if name.leads is Leads.NEAREST:
            return self.choice.turns(lambda node: True, family, asker, most=CHOSEN)
        if name.leads is Leads.REGION:
            return self.choice.turns(
                lambda node: node.region == region, family, asker, region=region, most=_NODES_OF_REGION
            )
        zone = f"{region}.{self.domain}"
        return self.choice.turns(lambda node: zone in node.zones, family, asker, region=region, most=CHOSEN)

    def _held_zones(self) -> Iterable[str]:
        """The zones that exist also without a node of their region: this node holds their certificate, or most nodes
        say that they do. One node cannot make a region up."""
        nodes = self.choice.nodes
        holders = Counter(zone for node in nodes for zone in node.zones)
        own = next((node.zones for node in nodes if node.name == self.choice.own), frozenset[str]())
        return own | {zone for zone, count in holders.items() if 2 * count > len(nodes)}

    @property
    def soa(self) -> RecordSet:
        """The zone's SOA."""
        return self._names[self.apex].sets[SOA]

    def _find(self, name: bytes) -> Name | None:
        found = self._names.get(name)
        if found is None and name:
            return self._below.get(name[1 + name[0] :])
        return found

    def _add(self, records: Records) -> None:
        for name, sets in records.items():
            if self.covers(name):
                before = self._find(name) or Name()
                self._names[name] = Name(before.leads, before.region, {**before.sets, **sets})

    def _own_records(self, listed: RecordList) -> Records:
        """What the zone has without anybody adding it: SOA, and a name server where the registry lists none."""
        first = _label("ns1") + self.apex
        serial = (listed.version & 0xFFFFFFFF).to_bytes(4)
        times = b"".join(time.to_bytes(4) for time in (*_SOA_TIMES, TTL))
        soa = first + _label("hostmaster") + self.apex + serial + times
        own: dict[bytes, dict[int, RecordSet]] = {self.apex: {SOA: RecordSet(TTL, (soa,))}}
        if NS not in listed.records.get(self.apex, {}):
            own[self.apex][NS] = RecordSet(_NS_TTL, (first,), (first,))
            node = next((node for node in self.choice.nodes if node.name == self.choice.own), None)
            if node is not None:
                kinds = {A: node.ipv4, AAAA: node.ipv6}
                own[first] = {kind: RecordSet(TTL, found) for kind, found in kinds.items() if found}
        return own


def _label(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def _above(name: bytes, apex: bytes) -> Iterable[bytes]:
    """The names between a name and the apex."""
    while len(name) > len(apex):
        name = name[1 + name[0] :]
        if len(name) > len(apex):
            yield name
