"""Headers of the PROXY protocol as a fuzz target."""

from typing import Final

from portway_runtime.endpoints import Endpoint
from portway_runtime.parse_results import Invalid, NeedMore
from portway_runtime.proxy_protocol import (
    MAX_V1,
    MAX_V2,
    Parsed,
    ProxyHeader,
    encode_v1,
    encode_v2,
    parse,
    tls_tlvs,
)

from portway_testkit.fuzzing.target import Target, cuts

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_V4: Final = (Endpoint("192.0.2.1", 5000), Endpoint("198.51.100.2", 443))
_V6: Final = (Endpoint("2001:db8::1", 5000), Endpoint("::", 443))


def _seeds() -> tuple[bytes, ...]:
    tls = tls_tlvs(version="TLSv1.3", server_name="k5zq2w7b3xav6mdy.fra.example.com", alpn="http/1.1")
    headers = (
        ProxyHeader(*_V4),
        ProxyHeader(*_V6),
        ProxyHeader(_V4[0], _V6[1]),
        ProxyHeader(*_V4, tls),
        ProxyHeader(None, None),
        ProxyHeader(None, None, ((4, b""),)),
        ProxyHeader(*_V6, ((0xE0, bytes(1900)),)),
    )
    return (
        *(encode(header) for header in headers for encode in (encode_v1, encode_v2)),
        encode_v2(headers[3]) + b"\x16\x03\x01",
        b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
        _SIGNATURE + b"\x21\x31\0\xd8" + bytes(216),
        _SIGNATURE + b"\x21\x11\xff\xff",
        b"PROXY " + b" " * MAX_V1 + b"\r\n",
        b"PROXY / HTTP/1.1\r\n",
        b"\x16\x03\x01",
    )


def _check(data: bytes) -> None:
    found = parse(data)
    _check_found(found, data)
    for pieces in cuts(data):
        arrived = b""
        for piece in pieces:
            arrived += piece
            earlier = parse(arrived)
            _check_found(earlier, arrived)
            if not isinstance(earlier, NeedMore):
                assert type(earlier) is type(found), f"{earlier} of the first {len(arrived)} bytes, {found} of all"
                assert isinstance(earlier, Invalid) or earlier == found
                break


def _check_found(found: Parsed | NeedMore | Invalid, data: bytes) -> None:
    if isinstance(found, NeedMore):
        assert len(data) < found.size <= (MAX_V2 if data[:1] == b"\r" else MAX_V1), f"{found} of {len(data)} bytes"
    elif isinstance(found, Parsed):
        assert found.length <= min(len(data), MAX_V2)
        assert (found.header.source is None) is (found.header.destination is None)
        again = encode_v2(found.header)
        assert parse(again) == Parsed(found.header, len(again))


PROXY_HEADER: Final = Target(
    "proxy_header",
    "Whatever the bytes, parse answers Parsed, NeedMore within the bound of its version, or Invalid, never raises, "
    "answers the same however the bytes are cut, and what it has read can be written and is read as the same.",
    _seeds,
    _check,
)
