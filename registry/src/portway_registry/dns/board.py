"""The records of the cluster's zone that are the same for everybody, as nodes are sent them.

Here: the list, and which version it has. Not here: names that lead to nodes, which nodes answer by themselves; when the
list is sent (nodes/hub.py).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from portway_proto.v1.admin_pb2 import (
    DNS_RECORD_SOURCE_CHALLENGE,
    DNS_RECORD_SOURCE_NAME_SERVER,
    DNS_RECORD_SOURCE_OPERATOR,
    DnsRecordSource,
)
from portway_proto.v1.mesh_pb2 import DnsRecords
from portway_proto.v1.types_pb2 import DnsRecord

from portway_registry.state.domain_records import ChallengeRecord, NameServerRecord, StaticRecord
from portway_registry.state.views import Views

_LARGEST_PART: Final = 3_500_000  # bytes; nodes accept messages of 4 MiB
_FRAMING: Final = 6  # bytes: the tag and length of an entry, at most
# Seconds. Name servers stay; their addresses may be mended. A proof is looked at once, and the next one is another.
NS_TTL: Final = 3_600
_ADDRESS_TTL: Final = 300
_CHALLENGE_TTL: Final = 5


@dataclass(frozen=True, slots=True)
class Listed:
    """A record and who set it."""

    record: DnsRecord
    source: "DnsRecordSource.ValueType"


class DnsBoard:
    """The records as this replica's view has them."""

    def __init__(self, views: Views, *, domain: str | None, registry_name: str) -> None:
        """domain: of the settings; without one the nodes' own word counts. registry_name: "" for the domain."""
        self._views = views
        self._domain = domain
        self._registry_name = registry_name

    @property
    def domain(self) -> str:
        """The cluster's domain; "" while neither the settings nor a node say it."""
        return self._domain or min((node.domain for node in self._views.nodes.values()), default="")

    @property
    def registry_name(self) -> str:
        """The registry's own name."""
        return self._registry_name or self.domain

    def listed(self) -> list[Listed]:
        """All records, by name and type."""
        return sorted(self._all(), key=lambda one: (one.record.name, one.record.type, one.record.data))

    def messages(self) -> tuple[DnsRecords, ...]:
        """The list as nodes are sent it, in as many messages as it needs."""
        return in_parts(
            (one.record for one in self.listed()),
            version=self._views.dns.mirror.revision,
            registry_name=self.registry_name,
        )

    def _all(self) -> Iterator[Listed]:
        domain = self.domain
        for item in self._views.dns.values():
            if isinstance(item, StaticRecord):
                record = DnsRecord(name=item.name, type=item.type, ttl=item.ttl, data=item.data)
                yield Listed(record, DNS_RECORD_SOURCE_OPERATOR)
            elif isinstance(item, ChallengeRecord):
                record = DnsRecord(name=item.name, type="TXT", ttl=_CHALLENGE_TTL, data=f'"{item.value}"')
                yield Listed(record, DNS_RECORD_SOURCE_CHALLENGE)
            elif domain:
                for record in _of_name_server(item, domain):
                    yield Listed(record, DNS_RECORD_SOURCE_NAME_SERVER)


def in_parts(records: Iterable[DnsRecord], *, version: int, registry_name: str) -> tuple[DnsRecords, ...]:
    """The messages of one list, in the order in which they are to be sent; at least one."""
    parts, size = [DnsRecords(version=version, registry_name=registry_name)], 0
    for record in records:
        length = _FRAMING + record.ByteSize()
        if size and size + length > _LARGEST_PART:
            parts[-1].more = True
            parts.append(DnsRecords(version=version, registry_name=registry_name, part=len(parts)))
            size = 0
        parts[-1].records.append(record)
        size += length
    return tuple(parts)


def server_name(number: int, domain: str) -> str:
    """The name of a name server."""
    return f"ns{number}.{domain}"


def _of_name_server(server: NameServerRecord, domain: str) -> Iterator[DnsRecord]:
    name = server_name(server.number, domain)
    yield DnsRecord(name=domain, type="NS", ttl=NS_TTL, data=f"{name}.")
    for address in server.addresses:
        yield DnsRecord(name=name, type="AAAA" if ":" in address else "A", ttl=_ADDRESS_TTL, data=address)
