"""Records that are the same for everybody, as a registry lists them: read once, kept in the form that is sent.

Here: reading DnsRecords messages. Not here: names whose addresses are nodes' (zone.py).
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
from portway_proto.v1.mesh_pb2 import DnsRecords

logger = logging.getLogger(__name__)

# Records that are kept. Operators have tens; each takes 300 bytes here.
_MOST_RECORDS: Final = 10_000
_MOST_TTL: Final = 86_400


@dataclass(frozen=True, slots=True)
class RecordSet:
    """The records of one name and type: a TTL, and the data of each in wire form, without compression.

    targets: the names, in wire form and lower case, that a resolver will ask for next.
    """

    ttl: int
    data: tuple[bytes, ...]
    targets: tuple[bytes, ...] = ()


# By name (wire form, lower case), then by type.
Records = Mapping[bytes, Mapping[int, RecordSet]]


@dataclass(frozen=True, slots=True)
class RecordList:
    """A whole list of a registry. `registry_name` is in wire form, empty for the domain itself."""

    version: int
    records: Records = field(default_factory=dict)
    registry_name: bytes = b""


class RecordLists:
    """The messages of a list, gathered until it is whole."""

    def __init__(self) -> None:
        self._parts = DnsRecords()

    def hear(self, part: DnsRecords) -> RecordList | None:
        """The list, when this message completes it. One that a stream did not end is begun anew by the next one."""
        if part.part == 0:
            self._parts = DnsRecords()
        self._parts.MergeFrom(part)
        return None if part.more else read_records(self._parts)


def read_records(message: DnsRecords) -> RecordList:
    """A whole list. A record that cannot be read is left out, with a warning: it is of a later release, or damaged."""
    found: dict[bytes, dict[int, list[tuple[int, dns.rdata.Rdata]]]] = {}
    unread = 0
    for record in message.records[:_MOST_RECORDS]:
        try:
            name = wire_name(record.name)
            kind = dns.rdatatype.from_text(record.type)
            data = dns.rdata.from_text(dns.rdataclass.IN, kind, record.data, relativize=False)
        except (dns.exception.DNSException, ValueError) as error:
            unread += 1
            reason = str(error) or type(error).__name__
            continue
        found.setdefault(name, {}).setdefault(int(kind), []).append((min(record.ttl, _MOST_TTL), data))
    if unread or len(message.records) > _MOST_RECORDS:
        unread += max(0, len(message.records) - _MOST_RECORDS)
        extra = {"records": unread, "reason": reason if unread else "too many"}
        logger.warning("DNS records of the registry are left out", extra=extra)
    records = {name: {kind: _set(some) for kind, some in kinds.items()} for name, kinds in found.items()}
    try:
        registry_name = wire_name(message.registry_name) if message.registry_name else b""
    except (dns.exception.DNSException, ValueError):
        registry_name = b""
    return RecordList(message.version, records, registry_name)


def wire_name(text: str) -> bytes:
    """A fully qualified name in wire form and lower case. Raises DNSException or ValueError."""
    return dns.name.from_text(text).canonicalize().to_wire() or b""


def _set(some: list[tuple[int, dns.rdata.Rdata]]) -> RecordSet:
    """As one set, without duplicates; the lowest TTL holds for all (RFC 2181, section 5.2)."""
    data = dict.fromkeys(one.to_wire() or b"" for _, one in some)
    targets = dict.fromkeys(
        target.canonicalize().to_wire() or b""
        for _, one in some
        for target in (getattr(one, "target", None), getattr(one, "exchange", None))
        if isinstance(target, dns.name.Name)
    )
    return RecordSet(min(ttl for ttl, _ in some), tuple(data), tuple(targets))
