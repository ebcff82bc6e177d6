"""Records that operators add to the cluster's zone.

Here: which ones the zone can have; adding, listing and removing them. Not here: answering by them.
"""

import hashlib
import logging
from collections.abc import Callable
from typing import Final

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
from portway_proto.v1.types_pb2 import DnsRecord

from portway_registry.dns.board import DnsBoard
from portway_registry.dns.upkeep import MOST_NAME_SERVERS
from portway_registry.errors import InvalidRequest, NotFound
from portway_registry.state import keys
from portway_registry.state.audit import Audit
from portway_registry.state.domain_records import StaticRecord
from portway_registry.state.records import encode
from portway_registry.state.views import Views
from portway_registry.store.contract import Delete, Store

logger = logging.getLogger(__name__)

MOST_RECORDS: Final = 1_000
_LARGEST_DATA: Final = 4_096  # characters; over UDP a set has 1,232 bytes
_TTLS: Final = range(5, 86_401)
DEFAULT_TTL: Final = 300
# What the registry sets, what belongs to signed zones, which this is not, and what are no records.
_REFUSED: Final = {
    "SOA": "the registry sets it",
    "NS": "the registry sets the name servers, and nothing below the domain can be delegated",
    **dict.fromkeys(("DS", "DNSKEY", "RRSIG", "NSEC", "NSEC3", "NSEC3PARAM", "CDS", "CDNSKEY"), "the zone is unsigned"),
    **dict.fromkeys(("DNAME",), "names below it are tunnels'"),
}


class StaticRecords:
    """The records of operators."""

    def __init__(self, store: Store, views: Views, board: DnsBoard, audit: Audit, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._views = views
        self.board = board
        self._audit = audit
        self._now_ms = now_ms

    async def add(self, record: DnsRecord, *, by: str) -> StaticRecord:
        """Add a record, or give one that is there another TTL; `by` is an operator's token.

        The name may be relative to the domain, and "@" is the domain. Raises InvalidRequest, StoreUnavailable.
        """
        found = self._checked(record)
        self._demand_fitting(found)
        await self._store.put(keys.dns_record(_id_of(found)), encode(found))
        logger.info("DNS record added", extra={"record": _text(found)})
        if await self._audit.add_done(by, "dns.record.add", _text(found)):
            await self._views.dns.caught_up_if_possible(f"records/{_id_of(found)}")
        return found

    async def remove(self, name: str, kind: str, data: str, *, by: str) -> list[StaticRecord]:
        """Remove the records of a name and type, or the one with this data. Raises InvalidRequest, NotFound,
        StoreUnavailable."""
        name, kind = self._full_name(name), _kind(kind)[1]
        wanted = _data(kind, data) if data else None
        going = [
            one
            for one in self._all()
            if (one.name, one.type) == (name, kind) and (wanted is None or one.data == wanted)
        ]
        if not going:
            raise NotFound(f"{name} has no such {kind} record of an operator: see `portway-admin dns record list`")
        await self._store.write([Delete(keys.dns_record(_id_of(one))) for one in going])
        for one in going:
            logger.info("DNS record removed", extra={"record": _text(one)})
            if await self._audit.add_done(by, "dns.record.remove", _text(one)):
                await self._views.dns.caught_up_if_possible(f"records/{_id_of(one)}")
        return going

    def _all(self) -> list[StaticRecord]:
        return [one for one in self._views.dns.values() if isinstance(one, StaticRecord)]

    def _checked(self, record: DnsRecord) -> StaticRecord:
        name = self._full_name(record.name)
        _, kind = _kind(record.type)
        if kind in _REFUSED:
            raise InvalidRequest(f"a {kind} record cannot be added: {_REFUSED[kind]}")
        ttl = record.ttl or DEFAULT_TTL
        if ttl not in _TTLS:
            raise InvalidRequest(f"a TTL is {_TTLS.start} to {_TTLS.stop - 1} seconds")
        return StaticRecord(name, kind, ttl, _data(kind, record.data), self._now_ms())

    def _demand_fitting(self, record: StaticRecord) -> None:
        """Raise InvalidRequest for a record that contradicts others."""
        domain, others = self.board.domain, self._all()
        if len(others) >= MOST_RECORDS:
            raise InvalidRequest(f"the zone has {MOST_RECORDS} records of operators already: remove some")
        servers = {f"ns{number}.{domain}" for number in range(1, MOST_NAME_SERVERS + 1)}
        if record.name in servers:
            raise InvalidRequest(f"{record.name} is a name server's, which the registry sets")
        beside = [one for one in others if one.name == record.name and _id_of(one) != _id_of(record)]
        if record.type == "CNAME" and record.name == domain:
            raise InvalidRequest("the domain itself cannot be an alias (RFC 1912, section 2.4)")
        if beside and "CNAME" in {record.type, *(one.type for one in beside)}:
            raise InvalidRequest(f"{record.name}: an alias (CNAME) has no records beside it (RFC 1034, section 3.6.2)")

    def _full_name(self, text: str) -> str:
        """A name below the domain, or the domain itself, fully qualified. Raises InvalidRequest."""
        domain = self.board.domain
        if not domain:
            raise InvalidRequest("the domain is not known yet: give the registry --domain, or start a node")
        zone = dns.name.from_text(domain)
        try:
            name = dns.name.from_text(text or "@", origin=zone).canonicalize()
            if not name.is_subdomain(zone) and not text.endswith("."):
                name = dns.name.from_text(text, origin=zone).canonicalize()
            elif text.rstrip(".").lower().endswith(domain) and dns.name.from_text(text).is_subdomain(zone):
                name = dns.name.from_text(text).canonicalize()
        except (dns.exception.DNSException, ValueError):
            raise InvalidRequest(f"{text!r} is not a DNS name") from None
        if not name.is_subdomain(zone):
            raise InvalidRequest(f"{text} is not below {domain}")
        if any(b"*" in label for label in name.labels):
            raise InvalidRequest(f"{text}: names with * are not supported, write each name")
        return name.to_text(omit_final_dot=True)


def _kind(text: str) -> tuple[dns.rdatatype.RdataType, str]:
    try:
        kind = dns.rdatatype.from_text(text.upper())
    except (dns.exception.DNSException, ValueError):
        raise InvalidRequest(f"{text!r} is not a type of DNS records, such as TXT or CAA") from None
    if dns.rdatatype.is_metatype(kind) or kind == 0:
        raise InvalidRequest(f"{text} is not a type of records")
    return kind, dns.rdatatype.to_text(kind)


def _data(kind: str, text: str) -> str:
    """The data in the form in which it is stored. Raises InvalidRequest."""
    if len(text) > _LARGEST_DATA:
        raise InvalidRequest(f"the data has {len(text)} characters; at most {_LARGEST_DATA} are allowed")
    try:
        read = dns.rdata.from_text(dns.rdataclass.IN, kind, text, relativize=False)
        read.to_wire()
    except (dns.exception.DNSException, ValueError) as error:
        why = str(error) or type(error).__name__
        raise InvalidRequest(
            f"{text!r} is not the data of a {kind} record ({why}); names in it end with a dot"
        ) from None
    return read.to_text()


def _id_of(record: StaticRecord) -> str:
    return hashlib.sha256(f"{record.name} {record.type} {record.data}".encode()).hexdigest()[:32]


def _text(record: StaticRecord) -> str:
    return f"{record.name} {record.type} {record.data}"[:200]
