"""Answers as bytes: prepared once for each name, type and place of the asker, with what a query says copied in.

Pure: a query in, bytes out. An answer's records follow the question and name their owner by a pointer to it, so they
fit under each name, whatever its length and case. Not here: which names there are (zone.py), rates and budgets
(server.py).
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

import dns.rcode
import dns.rdataclass
import dns.rdatatype
from portway_geo.position import Position
from portway_runtime.bounded import BoundedMap

from portway_relay.dns.query import HEADER, REPEATED, RESPONSE, Edns, Query, Refused, Subnet
from portway_relay.dns.records import RecordSet
from portway_relay.dns.zone import CNAME, FAMILIES, NS, SOA, TTL, Name, Zone

# Bytes of an answer over UDP that crosses every path unfragmented, and of one to an asker without EDNS.
UDP_SIZE: Final = 1_232
_SIZE_WITHOUT_EDNS: Final = 512
TCP_SIZE: Final = 65_535
# Prepared answers that are kept: names by places of resolvers. With 16 turns each they take 11 MB.
_PREPARED: Final = 2_048
_LONGEST_CHAIN: Final = 8  # of CNAMEs
_AUTHORITATIVE: Final = 0x0400
_TRUNCATED: Final = 0x0200
_DNSSEC: Final = 0x8000
_OWNER: Final = b"\xc0\x0c"  # the name in the question
_RECORD: Final = struct.Struct("!HHIH")
_OPT: Final = struct.Struct("!xHHBBHH")
_SUBNET: Final = struct.Struct("!HHHBB")
_ANY: Final = int(dns.rdatatype.ANY)
_HINFO: Final = int(dns.rdatatype.HINFO)
_TRANSFERS: Final = frozenset({int(dns.rdatatype.AXFR), int(dns.rdatatype.IXFR)})
# Types that are no records: 0, OPT, and 128 to 254, which are questions that no zone answers (RFC 6895, section 3.1).
_META: Final = frozenset({0, 41, *range(128, 255)}) - _TRANSFERS
# RFC 8482, section 4.2.
_ANY_ANSWER: Final = RecordSet(3_600, (b"\x07RFC8482\x00",))

Locate = Callable[[str], Position | None]
# A set of records in an answer: its owner, its type, and what it has.
Placed = tuple[bytes, int, RecordSet]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What follows a question: a code, the numbers of records of each section, and these.

    by_place: it depends on where the asker is. `essential` is its length without the last section, 0 of 0 records.
    """

    code: int
    counts: tuple[int, int, int]
    body: bytes
    essential: int
    by_place: bool = False


class Answers:
    """Answers from one zone. `next_turn` counts on over its successors."""

    def __init__(self, zone: Zone, locate: Locate, turns: "count[int]") -> None:
        """locate: where an address is, None when that is unknown; asked for each query."""
        self._zone = zone
        self._locate = locate
        self._turns = turns
        self._prepared: BoundedMap[object, Sequence[_Prepared]] = BoundedMap(_PREPARED)

    @property
    def prepared(self) -> int:
        """How many answers are kept."""
        return len(self._prepared)

    def answer(self, query: Query, source: str, *, largest: int = TCP_SIZE) -> tuple[bytes, int]:
        """The answer, and its code.

        source: the address that the query came from. largest: UDP_SIZE or TCP_SIZE.
        """
        prepared = self._choose(query, source)
        limit = largest
        if largest < TCP_SIZE:
            limit = min(largest, max(_SIZE_WITHOUT_EDNS, query.edns.size)) if query.edns else _SIZE_WITHOUT_EDNS
        return _message(query, prepared, limit), prepared.code

    def _choose(self, query: Query, source: str) -> _Prepared:
        zone, kind = self._zone, query.kind
        if query.of_class != dns.rdataclass.IN or kind in _TRANSFERS:
            return _REFUSED
        if kind in _META:
            return _NOT_IMPLEMENTED
        name = zone.find(query.name)
        if name is None:
            if not zone.covers(query.name):
                return _REFUSED
            return self._once("no such name", lambda: self._negative(dns.rcode.NXDOMAIN))[0]
        if kind == _ANY:
            return self._once("any", lambda: _of_sets([(_OWNER, _HINFO, _ANY_ANSWER)]))[0]
        chain: Sequence[Placed] = ()
        last: Name | None = name
        if CNAME in name.sets and kind not in name.sets:
            chain, last = self._follow(name, kind)
        if last is not None and kind in FAMILIES and last.has_addresses_of_nodes():
            asker = self._asker(query, source)
            turns = self._prepared.get((name, kind, asker))
            if turns is None:
                turns = self._prepared[name, kind, asker] = self._of_nodes(chain, last, kind, asker)
            return turns[next(self._turns) % len(turns)]
        if chain or kind in name.sets:
            return self._once((name, kind), lambda: self._of_records(chain, last, kind))[0]
        return self._once("no data", lambda: self._negative(dns.rcode.NOERROR))[0]

    def _asker(self, query: Query, source: str) -> Position | None:
        """Where the asker is: by the network that its resolver names, else by the resolver's own address."""
        subnet = query.edns.subnet if query.edns else None
        if subnet is not None and subnet.bits:
            return self._locate(subnet.text) or self._locate(source)
        return self._locate(source)

    def _once(self, key: object, make: Callable[[], _Prepared]) -> Sequence[_Prepared]:
        found = self._prepared.get(key)
        if found is None:
            found = self._prepared[key] = [make()]
        return found

    def _follow(self, alias: Name, kind: int) -> tuple[Sequence[Placed], Name | None]:
        """The CNAMEs of an alias inside the zone, and the name that they end at: None when that is not in the zone."""
        chain: list[Placed] = []
        owner, current = _OWNER, alias
        while kind not in current.sets and CNAME in current.sets:
            if len(chain) == _LONGEST_CHAIN:
                return chain, None
            chain.append((owner, CNAME, current.sets[CNAME]))
            (owner,) = current.sets[CNAME].targets
            found = self._zone.find(owner) if self._zone.covers(owner) else None
            if found is None:
                return chain, None
            current = found
        return chain, current

    def _of_nodes(self, chain: Sequence[Placed], last: Name, kind: int, asker: Position | None) -> Sequence[_Prepared]:
        """The addresses of nodes at the end of a chain, or of the name itself; one answer for each turn."""
        turns = self._zone.turns(last, kind, asker)
        if not turns:
            return [self._negative(dns.rcode.NOERROR, chain, by_place=True)]
        owner = _end_of(chain)
        return [_of_sets([*chain, (owner, kind, RecordSet(TTL, tuple(turn)))], by_place=True) for turn in turns]

    def _of_records(self, chain: Sequence[Placed], last: Name | None, kind: int) -> _Prepared:
        """Records of the name itself, or what its CNAMEs lead to; of name servers their addresses.

        The code, and the SOA that says for how long there is nothing, are those of the chain's end (RFC 2308, section
        2; RFC 6604, section 3). What is outside of the zone the resolver has to ask others for.
        """
        owner = _end_of(chain)
        if last is None:
            exists = not self._zone.covers(owner) or self._zone.find(owner) is not None
            return _of_sets(chain) if exists else self._negative(dns.rcode.NXDOMAIN, chain)
        if kind not in last.sets:
            return self._negative(dns.rcode.NOERROR, chain)
        others: list[Placed] = []
        if kind == NS:
            for target in last.sets[NS].targets:
                found = self._zone.find(target)
                others += [
                    (target, one, found.sets[one]) for one in FAMILIES if found is not None and one in found.sets
                ]
        return _of_sets([*chain, (owner, kind, last.sets[kind])], others)

    def _negative(self, code: int, chain: Sequence[Placed] = (), *, by_place: bool = False) -> _Prepared:
        answer = _of_sets(chain)
        body = answer.body + _records(self._zone.apex, SOA, self._zone.soa)
        return _Prepared(code, (answer.counts[0], 1, 0), body, len(body), by_place)


def refuse(message: Refused) -> bytes:
    """The answer that is a code alone."""
    flags = RESPONSE | (message.flags & (REPEATED | 0x7800)) | (message.code & 0xF)
    opt = _OPT.pack(dns.rdatatype.OPT, UDP_SIZE, message.code >> 4, 0, 0, 0) if message.edns else b""
    head = HEADER.pack(message.id, flags, 1 if message.question else 0, 0, 0, 1 if opt else 0)
    return head + message.question + opt


def fail(query: Query) -> bytes:
    """The answer of a server that knows no zone yet: the resolver asks another one."""
    return _message(query, _FAILED, TCP_SIZE)


def truncate(query: Query) -> bytes:
    """The answer that asks for the same over TCP."""
    return _message(query, _Prepared(dns.rcode.NOERROR, (0, 0, 0), b"", 0), 0)


def _message(query: Query, prepared: _Prepared, limit: int) -> bytes:
    edns = query.edns
    opt = b"" if edns is None else _opt(edns, prepared)
    size = HEADER.size + len(query.question) + len(opt)
    flags = RESPONSE | _AUTHORITATIVE | (query.flags & REPEATED) | prepared.code
    if prepared.code in (dns.rcode.REFUSED, dns.rcode.NOTIMP, dns.rcode.SERVFAIL):
        flags &= ~_AUTHORITATIVE
    answers, authorities, others = prepared.counts
    body = prepared.body
    if size + len(body) > limit:
        if others and size + prepared.essential <= limit:
            body, others = body[: prepared.essential], 0
        else:
            body, answers, authorities, others = b"", 0, 0, 0
            flags |= _TRUNCATED
    head = HEADER.pack(query.id, flags, 1, answers, authorities, others + (edns is not None))
    return head + query.question + body + opt


def _opt(edns: Edns, prepared: _Prepared) -> bytes:
    """EDNS of an answer: with the asker's subnet, if it gave one, and whether the answer depends on it."""
    option = b"" if edns.subnet is None else _subnet(edns.subnet, by_place=prepared.by_place)
    flags = _DNSSEC if edns.dnssec else 0
    return _OPT.pack(dns.rdatatype.OPT, UDP_SIZE, 0, 0, flags, len(option)) + option


def _subnet(subnet: Subnet, *, by_place: bool) -> bytes:
    scope = subnet.bits if by_place else 0
    return _SUBNET.pack(8, 4 + len(subnet.address), subnet.family, subnet.bits, scope) + subnet.address


def _end_of(chain: Sequence[Placed]) -> bytes:
    """The name that a chain of CNAMEs ends at; without one that in the question."""
    return chain[-1][2].targets[0] if chain else _OWNER


def _of_sets(
    answer: Sequence[Placed],
    others: Sequence[Placed] = (),
    *,
    by_place: bool = False,
) -> _Prepared:
    sections = [b"".join(_records(*one) for one in section) for section in (answer, others)]
    counts = [sum(len(found.data) for _, _, found in section) for section in (answer, others)]
    return _Prepared(dns.rcode.NOERROR, (counts[0], 0, counts[1]), b"".join(sections), len(sections[0]), by_place)


def _records(owner: bytes, kind: int, found: RecordSet) -> bytes:
    return b"".join(owner + _RECORD.pack(kind, dns.rdataclass.IN, found.ttl, len(data)) + data for data in found.data)


_REFUSED: Final = _Prepared(dns.rcode.REFUSED, (0, 0, 0), b"", 0)
_NOT_IMPLEMENTED: Final = _Prepared(dns.rcode.NOTIMP, (0, 0, 0), b"", 0)
_FAILED: Final = _Prepared(dns.rcode.SERVFAIL, (0, 0, 0), b"", 0)
