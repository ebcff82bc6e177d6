"""A zone of three nodes in two regions, and questions to it as dnspython writes them."""

from collections.abc import Sequence
from itertools import count
from typing import Any

import dns.message
import dns.rdatatype
from portway_geo.position import Position
from portway_proto.v1.mesh_pb2 import DnsRecords
from portway_proto.v1.types_pb2 import DnsRecord
from portway_relay.dns.answers import TCP_SIZE, UDP_SIZE, Answers, refuse
from portway_relay.dns.nodes import DnsNode, Health
from portway_relay.dns.query import Query, read_query
from portway_relay.dns.records import read_records
from portway_relay.dns.zone import Zone

DOMAIN = "tun.example.com"
FRANKFURT, ASHBURN, SINGAPORE = Position(50.1, 8.7), Position(39.0, -77.5), Position(1.35, 103.8)
PLACES = {"192.0.2.53": FRANKFURT, "198.51.100.53": ASHBURN, "203.0.113.0": SINGAPORE, "2001:db8:53::": ASHBURN}


def node(name: str, number: int, at: Position | None, *zones: str, health: Health = Health.READY) -> DnsNode:
    """A node of the region that its name begins with, at 10.0.0.<number> and 2001:db8::<number>, with certificates for
    these regions."""
    return DnsNode(
        name,
        name.partition("-")[0],
        health,
        frozenset(f"{zone}.{DOMAIN}" for zone in zones),
        (bytes([10, 0, 0, number]),),
        (bytes.fromhex("20010db8") + bytes(11) + bytes([number]),),
        at,
    )


NODES = (
    node("fra-1", 1, FRANKFURT, "fra", "iad"),
    node("iad-1", 2, ASHBURN, "fra", "iad"),
    node("sin-1", 3, SINGAPORE, "sin", "fra"),
)


class Asked:
    """Answers from a zone, asked in dnspython's terms."""

    def __init__(
        self,
        nodes: Sequence[DnsNode] = NODES,
        *records: tuple[str, str, str],
        registry_name: str = "",
        other_region: bool = True,
    ) -> None:
        """records: names below the domain (empty: the domain), types and data. other_region: as of NodeChoice."""
        listed = DnsRecords(version=7, registry_name=registry_name)
        for name, kind, data in records:
            full = f"{name}.{DOMAIN}" if name else DOMAIN
            listed.records.append(DnsRecord(name=full, type=kind, ttl=300, data=data))
        zone = Zone(DOMAIN, read_records(listed), nodes, nodes[0].name if nodes else "", other_region=other_region)
        self.answers = Answers(zone, PLACES.get, count())

    def message(
        self, query: dns.message.Message | bytes, *, source: str = "192.0.2.53", largest: int = UDP_SIZE
    ) -> dns.message.Message:
        """The answer to a query, read by dnspython."""
        wire = query if isinstance(query, bytes) else query.to_wire()
        read = read_query(wire)
        assert read is not None
        answer = self.answers.answer(read, source, largest=largest)[0] if isinstance(read, Query) else refuse(read)
        assert len(answer) <= largest
        return dns.message.from_wire(answer)

    def ask(self, name: str, kind: str = "A", *, source: str = "192.0.2.53", **edns: Any) -> dns.message.Message:
        return self.message(dns.message.make_query(name, kind, **edns), source=source, largest=TCP_SIZE)

    def addresses(self, name: str, kind: str = "A", *, source: str = "192.0.2.53", **edns: Any) -> list[str]:
        """The addresses in the answer, in its order."""
        found = self.ask(name, kind, source=source, **edns).answer
        return [one.address for rrset in found for one in rrset]
