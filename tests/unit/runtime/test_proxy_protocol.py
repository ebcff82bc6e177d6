"""portway_runtime.proxy_protocol: headers of both versions, whole, cut at every place, too long, and broken."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from portway_runtime.endpoints import Endpoint
from portway_runtime.parse_results import Invalid, NeedMore
from portway_runtime.proxy_protocol import (
    MAX_V1,
    MAX_V2,
    Parsed,
    ProxyHeader,
    TlvType,
    encode_v1,
    encode_v2,
    parse,
    tls_tlvs,
)

V4 = ProxyHeader(Endpoint("192.0.2.1", 5000), Endpoint("198.51.100.2", 443))
V6 = ProxyHeader(Endpoint("2001:db8::1", 5000), Endpoint("2001:db8::2", 443))
MIXED = ProxyHeader(Endpoint("192.0.2.1", 5000), Endpoint("2001:db8::2", 443))
UNKNOWN = ProxyHeader(None, None)
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"

HOSTS = st.ip_addresses().map(
    lambda address: str(getattr(address, "ipv4_mapped", None) or address)  # never mapped into IPv6
)
ENDPOINTS = st.builds(Endpoint, HOSTS, st.integers(0, 65535))
TLVS = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=6).map(tuple)
HEADERS = st.builds(ProxyHeader, ENDPOINTS, ENDPOINTS, TLVS) | st.builds(ProxyHeader, st.none(), st.none(), TLVS)


def v2(command: int, kind: int, body: bytes) -> bytes:
    return SIGNATURE + bytes((command, kind)) + len(body).to_bytes(2) + body


def as_it_arrives(data: bytes) -> Parsed | Invalid:
    """What parsing comes to when bytes arrive as they are asked for."""
    size = 0
    while True:
        found = parse(data[:size])
        if not isinstance(found, NeedMore):
            return found
        assert size < found.size <= len(data), "it asks for bytes that never come"
        size = found.size


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (V4, b"PROXY TCP4 192.0.2.1 198.51.100.2 5000 443\r\n"),
        (V6, b"PROXY TCP6 2001:db8::1 2001:db8::2 5000 443\r\n"),
        (MIXED, b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 5000 443\r\n"),
        (UNKNOWN, b"PROXY UNKNOWN\r\n"),
    ],
)
def test_version_1_is_a_line(header: ProxyHeader, data: bytes) -> None:
    """IPv4 beside IPv6 is mapped into it, and comes back as IPv4."""
    assert encode_v1(header) == data
    assert parse(data) == Parsed(header, len(data))


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (V4, v2(0x21, 0x11, bytes.fromhex("c0000201 c6336402 1388 01bb"))),
        (V6, v2(0x21, 0x21, bytes.fromhex("20010db8" + "0" * 23 + "1" + "20010db8" + "0" * 23 + "2" + "138801bb"))),
        (UNKNOWN, v2(0x20, 0x00, b"")),
        (ProxyHeader(None, None, ((4, b"x"),)), v2(0x21, 0x00, b"\x04\x00\x01x")),
    ],
)
def test_version_2_is_binary(header: ProxyHeader, data: bytes) -> None:
    """With the addresses of one family, then TLVs."""
    assert encode_v2(header) == data
    assert parse(data) == Parsed(header, len(data))


def test_a_visitors_tls_is_told() -> None:
    """ALPN, server name, and the version inside of the TLV on TLS, which says that no certificate was shown."""
    tlvs = tls_tlvs(version="TLSv1.3", server_name="k5.fra.example.com", alpn="http/1.1")
    assert tlvs == (
        (TlvType.ALPN, b"http/1.1"),
        (TlvType.AUTHORITY, b"k5.fra.example.com"),
        (TlvType.SSL, b"\x01\x00\x00\x00\x01" + b"\x21\x00\x07TLSv1.3"),
    )
    assert [kind for kind, _ in tls_tlvs(version="TLSv1.2", server_name="", alpn="")] == [TlvType.SSL]
    assert tls_tlvs(version="", server_name="", alpn="") == ()


@settings(derandomize=True)
@given(HEADERS, st.binary(max_size=40))
def test_what_was_written_is_read(header: ProxyHeader, behind: bytes) -> None:
    """Of both versions, as it arrives, and with bytes of the connection behind it; version 1 has no TLVs."""
    for data, expected in (
        (encode_v2(header), header),
        (encode_v1(header), ProxyHeader(header.source, header.destination)),
    ):
        assert parse(data + behind) == Parsed(expected, len(data))
        assert as_it_arrives(data + behind) == Parsed(expected, len(data))
        assert all(isinstance(parse(data[:size]), NeedMore) for size in range(len(data)))


@settings(derandomize=True, max_examples=500)
@given(HEADERS, st.integers(0, 60), st.binary(min_size=1, max_size=3), st.binary(max_size=200))
def test_nothing_makes_it_raise_or_read_on(header: ProxyHeader, place: int, edit: bytes, behind: bytes) -> None:
    """A changed header is read, refused, or waits for no more than its version allows."""
    for data in (encode_v1(header), encode_v2(header)):
        changed = data[:place] + edit + data[place + len(edit) :] + behind
        found = parse(changed)
        if isinstance(found, NeedMore):
            assert len(changed) < found.size <= MAX_V2
        elif isinstance(found, Parsed):
            assert found.length <= len(changed)
            assert parse(encode_v2(found.header)) == Parsed(found.header, len(encode_v2(found.header)))


@pytest.mark.parametrize("data", [b"P", b"PROX", b"PROXY ", b"\r", b"\r\n\r\n", SIGNATURE, SIGNATURE + b"\x21\x11\x00"])
def test_a_beginning_waits(data: bytes) -> None:
    """For the shortest header of its version."""
    assert parse(data) == NeedMore(15 if data[:1] == b"P" else 16)


@pytest.mark.parametrize(
    "data",
    [
        b"G",
        b"\x16\x03\x01",
        b"PROXI",
        b"PRI * HTTP/2.0\r\n",
        b"PROXY / HTTP/1.1\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5000\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 443 \r\n",
        b"PROXY TCP4  192.0.2.1 192.0.2.2 5000 443\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 65536\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 05000 443\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 -1 443\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 443\n\r\n",
        b"PROXY TCP4 192.0.2.01 192.0.2.2 5000 443\r\n",
        b"PROXY TCP4 192.0.2 192.0.2.2 5000 443\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 5000 443\r\n",
        b"PROXY TCP6 192.0.2.1 192.0.2.2 5000 443\r\n",
        b"PROXY TCP6 fe80::1%eth0 2001:db8::2 5000 443\r\n",
        b"PROXY TCP6 \xff 2001:db8::2 5000 443\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY TCP4 " + b"1" * MAX_V1,
        b"PROXY UNKNOWN " + b" " * MAX_V1 + b"\r\n",
    ],
)
def test_a_line_of_another_form_is_refused(data: bytes) -> None:
    """Signs of a number, leading zeros, more blanks, families that do not fit, and no end."""
    assert isinstance(parse(data), Invalid)


@pytest.mark.parametrize(
    "data",
    [
        SIGNATURE + b"\x11\x11\x00\x0c" + bytes(12),
        SIGNATURE + b"\x22\x11\x00\x0c" + bytes(12),
        SIGNATURE + b"\x21\x41\x00\x0c" + bytes(12),
        SIGNATURE + b"\x21\x13\x00\x0c" + bytes(12),
        SIGNATURE + b"\x21\x11" + (MAX_V2 - 15).to_bytes(2),
        SIGNATURE + b"\x21\x11\xff\xff",
        v2(0x21, 0x11, bytes(11)),
        v2(0x21, 0x21, bytes(35)),
        v2(0x21, 0x31, bytes(215)),
        v2(0x21, 0x11, bytes(12) + b"\x04\x00"),
        v2(0x21, 0x11, bytes(12) + b"\x04\x00\x02x"),
        v2(0x21, 0x11, bytes(12) + b"\x04\xff\xff" + bytes(1000)),
    ],
)
def test_a_broken_header_is_refused(data: bytes) -> None:
    """Other versions, commands, families; more than MAX_V2 at once; addresses and TLVs beyond the end."""
    assert isinstance(parse(data), Invalid)


def test_a_health_check_has_no_addresses() -> None:
    """What stands behind the command LOCAL is skipped, whatever it is; UNKNOWN may be followed by anything."""
    for data in (v2(0x20, 0x99, b"\x04\xff\xff"), b"PROXY UNKNOWN ffff:f...f:ffff 65535 65535\r\n"):
        assert parse(data + b"GET") == Parsed(UNKNOWN, len(data))


def test_sockets_of_a_machine_have_no_address_of_a_network() -> None:
    """A connection that the proxy got over a Unix socket is one whose source is not known."""
    data = v2(0x21, 0x31, bytes(216) + b"\x04\x00\x00")
    assert parse(data) == Parsed(ProxyHeader(None, None, ((4, b""),)), len(data))


def test_datagrams_that_a_proxy_turned_into_a_connection_have_addresses() -> None:
    """As those of a proxy that speaks HTTP/3 to its visitors."""
    data = v2(0x21, 0x12, bytes.fromhex("c0000201 c6336402 1388 01bb"))
    assert parse(data) == Parsed(V4, len(data))


def test_no_longer_header_is_written_than_is_read() -> None:
    """Up to MAX_V2 bytes, of which the addresses take 12."""
    longest = ProxyHeader(V4.source, V4.destination, ((0xE0, bytes(MAX_V2 - 16 - 12 - 3)),))
    assert parse(encode_v2(longest)) == Parsed(longest, MAX_V2)
    with pytest.raises(ValueError, match="2049 bytes"):
        encode_v2(ProxyHeader(V4.source, V4.destination, ((0xE0, bytes(MAX_V2 - 16 - 12 - 2)),)))
    with pytest.raises(ValueError, match="TLV"):
        encode_v2(ProxyHeader(None, None, ((0xE0, bytes(65536)),)))


@pytest.mark.parametrize("host", ["", "localhost", "192.0.2", "192.0.2.1.5", "::g"])
def test_names_are_not_written(host: str) -> None:
    """An address is an IP address; the zone of a link-local one means nothing on another machine."""
    header = ProxyHeader(Endpoint(host, 1), Endpoint("192.0.2.1", 2))
    for encode in (encode_v1, encode_v2):
        with pytest.raises(ValueError, match="not an IP address"):
            encode(header)
    assert b" fe80::1 " in encode_v1(ProxyHeader(Endpoint("fe80::1%eth0", 1), Endpoint("fe80::2%eth0", 2)))
