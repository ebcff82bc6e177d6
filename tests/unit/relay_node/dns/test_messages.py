"""The form of answers: what they repeat of the query, sizes, and what is refused."""

import struct

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.tsig
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from portway_relay.dns.answers import TCP_SIZE, UDP_SIZE
from portway_relay.dns.query import Query, Refused, read_query
from portway_testkit.fakes.dns_zone import DOMAIN, NODES, Asked

NAME = f"abcdefgh12345678.fra.{DOMAIN}"


def query(name: str = NAME, kind: str = "A", **edns: object) -> bytes:
    return dns.message.make_query(name, kind, id=1, **edns).to_wire()  # type: ignore[arg-type]


def test_the_question_comes_back_as_it_was(asked: Asked) -> None:
    """Resolvers mix the case of letters, and drop answers in which it differs: an answer is harder to forge so."""
    mixed = dns.message.make_query(f"AbCdEfGh12345678.fRa.{DOMAIN.title()}", "A")
    answer = asked.message(mixed)
    assert answer.question[0].name.labels == mixed.question[0].name.labels
    assert answer.answer[0].name.labels == mixed.question[0].name.labels
    assert answer.id == mixed.id


def test_flags(asked: Asked) -> None:
    """Authoritative, no recursion; RD and CD are the query's, AD and Z are nobody's."""
    for flags in (0, dns.flags.RD, dns.flags.RD | dns.flags.CD | dns.flags.AD):
        asking = dns.message.make_query(NAME, "A")
        asking.flags = flags
        answer = asked.message(asking)
        assert answer.flags == (flags & (dns.flags.RD | dns.flags.CD)) | dns.flags.QR | dns.flags.AA


def test_edns_is_answered_by_edns(asked: Asked) -> None:
    assert asked.ask(NAME).edns == -1
    answer = asked.ask(NAME, use_edns=0, payload=4096, want_dnssec=True)
    assert (answer.edns, answer.payload, answer.ednsflags) == (0, 1232, dns.flags.DO)
    assert (
        asked.ask(NAME, use_edns=0, options=[dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"12345678")]).options
        == ()
    )


def test_edns_of_another_version_is_refused_with_ours(asked: Asked) -> None:
    answer = asked.ask(NAME, use_edns=1)
    assert (answer.rcode(), answer.edns, answer.answer) == (dns.rcode.BADVERS, 0, [])


MANY = tuple(("big", "TXT", '"' + f"{number:03d}" * 60 + '"') for number in range(20))


@pytest.mark.parametrize(
    ("edns", "limit"), [({}, 512), ({"use_edns": 0, "payload": 100}, 512), ({"use_edns": 0, "payload": 4096}, 1232)]
)
def test_an_answer_that_does_not_fit_is_cut_and_comes_over_tcp(edns: dict[str, int], limit: int) -> None:
    asked = Asked(NODES, *MANY)
    asking = dns.message.make_query(f"big.{DOMAIN}", "TXT", **edns)  # type: ignore[arg-type]
    cut = asked.message(asking, largest=UDP_SIZE)
    assert cut.flags & dns.flags.TC
    assert (cut.answer, cut.authority, cut.additional) == ([], [], [])
    assert len(cut.to_wire()) <= limit
    whole = asked.message(asking, largest=TCP_SIZE)
    assert not whole.flags & dns.flags.TC
    assert len(whole.answer[0]) == 20


def test_addresses_of_name_servers_are_left_out_before_an_answer_is_cut() -> None:
    records = [("", "NS", f"ns{number}.{DOMAIN}.") for number in range(1, 5)]
    records += [(f"ns{n}", "AAAA", f"2001:db8::{n}:{m}") for n in range(1, 5) for m in range(4)]
    asked = Asked(NODES, *records)
    answer = asked.message(dns.message.make_query(DOMAIN, "NS"), largest=UDP_SIZE)
    assert not answer.flags & dns.flags.TC
    assert (len(answer.answer[0]), answer.additional) == (4, [])
    assert len(asked.ask(DOMAIN, "NS").additional) == 4


def test_any_is_answered_by_one_record(asked: Asked) -> None:
    """RFC 8482: what a forged question of many records would be good for."""
    for name in (NAME, DOMAIN):
        (found,) = asked.ask(name, "ANY").answer
        assert found.to_text().endswith('HINFO "RFC8482" ""')
    assert asked.ask(f"nothing.{DOMAIN}", "ANY").rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize("kind", ["AXFR", "IXFR"])
def test_the_zone_is_not_handed_out(asked: Asked, kind: str) -> None:
    answer = asked.ask(DOMAIN, kind)
    assert (answer.rcode(), answer.answer) == (dns.rcode.REFUSED, [])


@pytest.mark.parametrize("kind", ["TKEY", "TSIG", "MAILA", "MAILB", "TYPE128", "TYPE0"])
def test_types_that_are_no_records_are_refused(asked: Asked, kind: str) -> None:
    asking = bytearray(query())
    end = len(asking) - 4
    asking[end : end + 2] = struct.pack("!H", int(dns.rdatatype.from_text(kind)))
    assert asked.message(bytes(asking)).rcode() in (dns.rcode.NOTIMP, dns.rcode.FORMERR)


@pytest.mark.parametrize("kind", ["TYPE65280", "HTTPS", "SVCB", "DNSKEY", "NSEC", "RRSIG", "WKS", "NULL"])
def test_types_that_nobody_has_are_not_there(asked: Asked, kind: str) -> None:
    for name in (NAME, DOMAIN):
        answer = asked.ask(name, kind)
        assert (answer.rcode(), answer.answer, len(answer.authority)) == (dns.rcode.NOERROR, [], 1)


@pytest.mark.parametrize("of_class", ["CH", "HS", "ANY", "NONE"])
def test_other_classes_are_refused(asked: Asked, of_class: str) -> None:
    asking = dns.message.make_query("version.bind" if of_class == "CH" else NAME, "TXT", of_class)
    assert asked.message(asking).rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize("opcode", [dns.opcode.IQUERY, dns.opcode.STATUS, dns.opcode.NOTIFY, dns.opcode.UPDATE])
def test_other_operations_are_not_implemented(asked: Asked, opcode: dns.opcode.Opcode) -> None:
    asking = bytearray(query())
    asking[2] |= opcode << 3
    answer = read_query(bytes(asking))
    assert isinstance(answer, Refused)
    assert asked.message(bytes(asking)).rcode() == dns.rcode.NOTIMP
    assert asked.message(bytes(asking)).opcode() == opcode


def test_what_is_signed_by_an_unknown_key_is_refused(asked: Asked) -> None:
    asking = dns.message.make_query(NAME, "A")
    asking.use_tsig({dns.name.from_text("key."): dns.tsig.Key("key.", b"secret")}, keyname=dns.name.from_text("key."))
    assert asked.message(asking.to_wire()).rcode() == dns.rcode.NOTAUTH


@pytest.mark.parametrize(
    "data",
    [
        query() + b"junk",
        query()[:-1],
        query()[:20],
        query(use_edns=0) + query(use_edns=0)[-11:],
        bytes(12),
        b"\x12\x34\x01\x00\x00\x02\x00\x00\x00\x00\x00\x00" + query()[12:] * 2,
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01",
        query(
            use_edns=0, options=[dns.edns.GenericOption(dns.edns.OptionType.ECS, b"\x00\x01\x18\x00\x01\x02\x03\x04")]
        ),
        query(use_edns=0, options=[dns.edns.GenericOption(dns.edns.OptionType.ECS, b"\x00\x01\x18\x08\x01\x02\x03")]),
        query(use_edns=0, options=[dns.edns.GenericOption(dns.edns.OptionType.ECS, b"\x00\x03\x08\x00\x01")]),
        query(
            use_edns=0,
            options=[dns.edns.GenericOption(dns.edns.OptionType.ECS, b"\x00\x01\x21\x00\x01\x02\x03\x04\x05")],
        ),
        query(use_edns=0, options=[dns.edns.GenericOption(dns.edns.OptionType.ECS, b"\x00\x01\x04\x00\xff")]),
        query(use_edns=0, options=[dns.edns.GenericOption(dns.edns.OptionType.ECS, b"\x00")]),
    ],
    ids=range(13),
)
def test_malformed_messages_are_called_so(asked: Asked, data: bytes) -> None:
    assert asked.message(data).rcode() == dns.rcode.FORMERR


def test_answers_and_fragments_are_not_answered() -> None:
    """Two servers would else answer each other for ever."""
    answer = bytearray(query())
    answer[2] |= 0x80
    assert read_query(bytes(answer)) is None
    assert [read_query(query()[:size]) for size in range(12)] == [None] * 12


@given(st.binary(max_size=100))
@settings(max_examples=300)
def test_whatever_comes_is_read(data: bytes) -> None:
    """Nothing raises, and nothing that is read has no answer of its id."""
    for message in (data, query()[:12] + data, query(use_edns=0)[:-5] + data, query(use_edns=0)[:40] + data):
        read = read_query(message)
        if read is not None:
            assert read.id.to_bytes(2) == message[:2]
            asked = ZONE.message(message, largest=TCP_SIZE)
            assert asked.flags & dns.flags.QR


@given(st.integers(0, 127), st.sampled_from(range(12, 60)))
@settings(max_examples=300)
def test_what_is_read_by_hand_is_what_dnspython_reads(change: int, at: int) -> None:
    """Of a query of which one byte is another, both see the same name, type and class, or one of them nothing."""
    data = bytearray(query(use_edns=0, options=[dns.edns.ECSOption("192.0.2.0", 24)]))
    data[at] ^= change
    read = read_query(bytes(data))
    try:
        known = dns.message.from_wire(bytes(data))
    except dns.exception.DNSException:
        assert isinstance(read, Refused)
        return
    if isinstance(read, Query):
        asked = known.question[0]
        assert read.name == (asked.name.to_wire() or b"").lower()
        assert (read.kind, read.of_class) == (asked.rdtype, asked.rdclass)


ZONE = Asked()
