"""DNS queries as a node's servers read and answer them, as a fuzz target."""

from typing import Final

import dns.edns
import dns.exception
import dns.flags
import dns.message
from portway_relay.dns.answers import TCP_SIZE, UDP_SIZE, refuse
from portway_relay.dns.query import Query, Refused, read_query

from portway_testkit.fakes.dns_zone import DOMAIN, NODES, Asked
from portway_testkit.fuzzing.target import Target

_SIZE_WITHOUT_EDNS: Final = 512
_HEADER: Final = 12
_ZONE: Final = Asked(NODES, ("alias", "CNAME", f"fra.{DOMAIN}."), ("loop", "CNAME", f"loop.{DOMAIN}."))


def _seeds() -> tuple[bytes, ...]:
    def query(name: str, kind: str = "A", **more: object) -> bytes:
        return dns.message.make_query(name, kind, id=7, **more).to_wire()  # type: ignore[arg-type]

    label = f"AbCdEfGh12345678.fra.{DOMAIN}"
    subnets = [dns.edns.ECSOption("192.0.2.0", 24), dns.edns.ECSOption("2001:db8::", 56)]
    cookie = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"12345678")
    too_long = dns.edns.GenericOption(dns.edns.OptionType.ECS, b"\x00\x01\x18\x00\x01\x02\x03\x04")
    whole = query(label, use_edns=0)
    return (
        query(label),
        whole,
        query(label, "AAAA", use_edns=0, payload=4096, want_dnssec=True),
        *(query(label, use_edns=0, options=[subnet, cookie]) for subnet in subnets),
        query(label, use_edns=0, options=[too_long]),
        query(DOMAIN, "NS"),
        query(DOMAIN, "ANY"),
        query(DOMAIN, "AXFR"),
        query(f"alias.{DOMAIN}", "NS"),
        query(f"loop.{DOMAIN}", "MX"),
        query(f"nothing.{DOMAIN}", "TXT", use_edns=0),
        query("example.com", use_edns=1),
        query("version.bind", "TXT", rdclass="CH"),
        whole + whole[-11:],
        whole[:10] + b"\x00\x02" + whole[12:] + whole[-11:],
        b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01",
        b"",
    )


def _check(data: bytes) -> None:
    read = read_query(data)
    if read is None:
        assert len(data) < _HEADER or data[2] & 0x80, "a query is left unanswered"
        return
    assert not data[2] & 0x80, "an answer is answered"
    if isinstance(read, Refused):
        answers = [(refuse(read), UDP_SIZE)]
    else:
        _demand_what_dnspython_reads(read, data)
        limit = UDP_SIZE if read.edns else _SIZE_WITHOUT_EDNS
        answers = [
            (_ZONE.answers.answer(read, "192.0.2.53", largest=UDP_SIZE)[0], limit),
            (_ZONE.answers.answer(read, "192.0.2.53", largest=TCP_SIZE)[0], TCP_SIZE),
        ]
    for answer, limit in answers:
        assert len(answer) <= limit, f"{len(answer)} bytes where {limit} are allowed"
        known = dns.message.from_wire(answer)
        assert known.id.to_bytes(2) == data[:2]
        assert known.flags & dns.flags.QR
        assert not known.flags & dns.flags.RA


def _demand_what_dnspython_reads(read: Query, data: bytes) -> None:
    try:
        known = dns.message.from_wire(data)
    except dns.exception.DNSException as error:
        raise AssertionError(f"read, though it is malformed: {error!r}") from error
    (asked,) = known.question
    assert read.name == (asked.name.to_wire() or b"").lower()
    assert (read.kind, read.of_class) == (asked.rdtype, asked.rdclass)
    assert (read.edns is not None) == (known.edns == 0)


DNS: Final = Target(
    "dns",
    "Whatever datagram comes, an answer or a fragment is left unanswered, and anything else gets one answer with its "
    "identifier, within the size that its sender takes, to the question that dnspython reads in it.",
    _seeds,
    _check,
)
