"""ClientHellos: whole, cut at every place, over many records, too long, and broken in every field."""

import pytest
from portway_relay.ingress.client_hello import (
    MAX_EXTENSIONS,
    MAX_GROUPS,
    MAX_HELLO,
    MAX_PROTOCOLS,
    MAX_RECORDS,
    MAX_SHARES,
    Parsed,
    parse,
)
from portway_runtime.parse_results import Invalid, NeedMore
from portway_testkit.visitors.hellos import (
    alpn,
    extension,
    groups,
    message,
    message_of,
    padding,
    real_hello,
    records,
    server_name,
    shares,
    vector,
)

NAME = "k5zq2w7b3xav6mdy.fra.example.com"


def hello(*extensions: bytes) -> Parsed | NeedMore | Invalid:
    return parse(records(message(extensions)))


def parsed_as_it_arrives(data: bytes) -> tuple[Parsed | Invalid, int]:
    """What peeking comes to when bytes arrive as they are asked for, and after how many looks."""
    size, looks = 1, 0
    while True:
        answer = parse(data[:size])
        looks += 1
        if not isinstance(answer, NeedMore):
            return answer, looks
        assert size < answer.size <= len(data), "it asks for bytes that never come"
        size = answer.size


@pytest.mark.parametrize("protocols", [(), ("http/1.1",), ("h2", "http/1.1"), ("portway-link/1",)])
@pytest.mark.parametrize("name", [NAME, "localhost", "a" * 63 + ".example.com", None])
def test_openssl_is_understood(name: str | None, protocols: tuple[str, ...]) -> None:
    """What OpenSSL sends is parsed whole, byte by byte, and with more bytes behind it."""
    data = real_hello(name, protocols)
    parsed = parse(data)
    assert isinstance(parsed, Parsed)
    assert (parsed.sni, parsed.alpn, parsed.shares) == (name, protocols, (29,))
    assert {23, 29} <= set(parsed.groups)
    assert parse(data + b"\x14\x03\x03\x00\x01\x01") == parsed
    assert parsed_as_it_arrives(data)[0] == parsed
    assert all(isinstance(parse(data[:size]), NeedMore) for size in range(len(data)))


def test_nothing_is_known_of_nothing() -> None:
    """Without a byte a record's header is asked for."""
    assert parse(b"") == NeedMore(5)


@pytest.mark.parametrize("size", [3, 7, 100])
def test_a_message_is_put_together_from_its_records(size: int) -> None:
    """A hello cut into records, a header of its own included, is the same hello."""
    content = message([server_name(NAME.encode())])
    assert parse(records(content, size)) == Parsed(NAME)
    assert parsed_as_it_arrives(records(content, size))[0] == Parsed(NAME)


def test_records_of_512_bytes_are_honest() -> None:
    """The longest hello in the smallest records that TLS libraries make is understood, in few looks."""
    content = message_of(MAX_HELLO, server_name(NAME.encode()))
    data = records(content, 512)
    assert parse(data) == Parsed(NAME)
    assert parsed_as_it_arrives(data) == (Parsed(NAME), 2 * MAX_RECORDS + 1)


def test_a_hello_in_tiny_records_is_refused() -> None:
    """One record more than honest ones have is one too many: each is a parse of all before it."""
    data = records(message_of(MAX_HELLO), 1)
    answer, looks = parsed_as_it_arrives(data)
    assert isinstance(answer, Invalid)
    assert "records" in answer.reason
    assert looks <= 2 * MAX_RECORDS + 1


def test_a_hello_of_17_kilobytes_is_understood() -> None:
    """The largest hellos that were seen, in two records, are parsed, and asked for in three looks."""
    data = records(message_of(17 * 1024, server_name(NAME.encode())))
    assert parse(data) == Parsed(NAME)
    assert parse(data[:4096]) == NeedMore(5 + 16 * 1024)
    assert parsed_as_it_arrives(data)[1] <= 5


def test_a_hello_over_the_limit_is_refused_by_its_first_bytes() -> None:
    """A length above MAX_HELLO is not waited for."""
    assert parse(records(message_of(MAX_HELLO))[: 5 + 4]) == NeedMore(5 + 16 * 1024)
    answer = parse(records(b"\x01" + (MAX_HELLO + 1 - 4).to_bytes(3) + bytes(100))[: 5 + 4])
    assert isinstance(answer, Invalid)
    assert str(MAX_HELLO + 1) in answer.reason


@pytest.mark.parametrize(
    "data",
    [
        b"G",
        b"GET / HTTP/1.1\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        bytes.fromhex("80 2e 01 00 02 00 15 00 00 00 10"),  # SSLv2
        b"\x15\x03\x01\x00\x02\x02\x28",  # an alert
        b"\x17\x03\x03\x00\x05hello",
        b"\x16\x02",
        b"\x16\x04\x01\x00\x10",
        b"\x16\x03\x01\x00\x00",  # an empty record
        b"\x16\x03\x01\x40\x01",  # a record over 16 KiB
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\x00\x04\x02",  # a ServerHello
    ],
    ids=lambda data: data[:12].hex(),
)
def test_what_is_not_tls_is_told_at_once(data: bytes) -> None:
    """The byte that cannot be a ClientHello's decides; bytes behind it change nothing."""
    assert isinstance(parse(data), Invalid)
    assert isinstance(parse(data + bytes(100)), Invalid)


def test_a_second_record_must_be_a_handshake_too() -> None:
    """What follows an unfinished message is looked at like its beginning."""
    data = records(message([server_name(NAME.encode())]), 40)
    assert isinstance(parse(data[:45] + b"\x17\x03\x03\x00\x10"), Invalid)
    assert isinstance(parse(data[:45] + b"\x16\x02"), Invalid)


def test_a_hello_without_extensions_has_no_name() -> None:
    """Extensions may be missing altogether, be empty, or not name a server."""
    assert parse(records(message(None))) == Parsed(None)
    assert hello() == Parsed(None)
    assert hello(alpn(b"http/1.1")) == Parsed(None, ("http/1.1",))


def test_an_empty_message_is_malformed() -> None:
    """A ClientHello of no bytes lacks every field."""
    assert isinstance(parse(records(b"\x01\x00\x00\x00")), Invalid)


@pytest.mark.parametrize("name", [b"192.0.2.7", b"[2001:db8::1]", b"", b"*.example.com", b"a" * 300, b"x\x00y"])
def test_names_are_not_judged_here(name: bytes) -> None:
    """An IP address, an empty or an impossible name is passed on as it was sent: the route answers all alike."""
    assert hello(server_name(name)) == Parsed(name.decode())


def test_a_name_of_another_kind_is_no_server_name() -> None:
    """Only host names are read; the first one counts."""
    assert hello(server_name(b"thing", kind=7)) == Parsed(None)
    assert hello(server_name(b"first", b"second")) == Parsed("first")


def test_a_name_that_is_not_ascii_is_refused() -> None:
    """Internationalised names travel in their ASCII form."""
    assert isinstance(hello(server_name("bücher.example.com".encode())), Invalid)


@pytest.mark.parametrize("twice", [server_name(b"a"), alpn(b"h2"), groups(29), shares((29, b"x"))])
def test_an_extension_that_decides_may_come_once(twice: bytes) -> None:
    """Two server names or two ALPN lists could be read differently by whoever terminates TLS."""
    assert isinstance(hello(twice, twice), Invalid)
    assert isinstance(hello(padding(8), padding(8)), Parsed)


def test_protocols_keep_their_order_and_bytes() -> None:
    """Every protocol offered is told, in order, whatever its bytes (RFC 8701 reserves some that are no text)."""
    assert hello(alpn(b"\x0a\x0a", b"h2", b"", b"http/1.1")) == Parsed(None, ("\n\n", "h2", "", "http/1.1"))
    assert hello(alpn(b"\xda\xda")) == Parsed(None, ("\xda\xda",))
    assert hello(alpn()) == Parsed(None, ())


def test_groups_and_key_shares_are_read_in_order() -> None:
    """Those that TLS reserves for nobody (RFC 8701) are told like all others."""
    answer = hello(groups(0x0A0A, 29, 0x0104), shares((0x0A0A, b"\x00"), (0x0104, bytes(1024))))
    assert answer == Parsed(None, (), (0x0A0A, 29, 0x0104), (0x0A0A, 0x0104))


def test_lists_are_bounded() -> None:
    """OpenSSL compares each key share with each group, and each entry takes time to read."""
    assert hello(groups(*range(MAX_GROUPS))) == Parsed(None, (), tuple(range(MAX_GROUPS)))
    assert isinstance(hello(groups(*range(MAX_GROUPS + 1))), Invalid)
    most = [(group, b"x") for group in range(MAX_SHARES)]
    assert hello(shares(*most)) == Parsed(None, shares=tuple(range(MAX_SHARES)))
    assert isinstance(hello(shares(*most, (99, b"x"))), Invalid)
    assert hello(alpn(*[b"x"] * MAX_PROTOCOLS)) == Parsed(None, ("x",) * MAX_PROTOCOLS)
    assert isinstance(hello(alpn(*[b"x"] * (MAX_PROTOCOLS + 1))), Invalid)
    assert hello(*[padding(4)] * MAX_EXTENSIONS) == Parsed(None)
    assert isinstance(hello(*[padding(4)] * (MAX_EXTENSIONS + 1)), Invalid)


BEFORE_EXTENSIONS = 2 + 32 + (1 + 32) + (2 + 2) + (1 + 1)
BODY = message([server_name(NAME.encode()), alpn(b"h2")])[4:]


def test_a_body_that_is_cut_off_is_never_taken_for_whole() -> None:
    """Wherever the message ends too early, it is malformed, but for the one place where extensions may be missing."""
    answers = {size: parse(records(b"\x01" + vector(BODY[:size], 3))) for size in range(len(BODY))}
    assert [size for size, answer in answers.items() if not isinstance(answer, Invalid)] == [BEFORE_EXTENSIONS]
    assert answers[BEFORE_EXTENSIONS] == Parsed(None)


@pytest.mark.parametrize(
    "broken",
    [
        extension(0, b""),
        extension(0, b"\x00"),
        extension(0, b"\x00\x09\x00\x00\x01a"),  # a list longer than the extension
        extension(0, b"\x00\x04\x00\x00\x09a"),  # a name longer than its list
        extension(16, b""),
        extension(16, b"\x00\x05\x02h2"),
        extension(16, b"\x00\x03\x09h2"),
        extension(10, b"\x00\x04\x00\x1d"),  # a list longer than the extension
        extension(10, b"\x00\x03\x00\x1d\x00"),  # half a group
        extension(51, b"\x00\x05\x00\x1d\x00\x09x"),  # a share longer than its list
        extension(51, b"\x00\x03\x00\x1d\x00"),
        b"\x00",
        b"\x00\x00\x00\x09a",
        b"\x00\x10\xff",
    ],
    ids=lambda broken: broken.hex(),
)
def test_a_length_that_leads_outside_is_malformed(broken: bytes) -> None:
    """A list, a name or an extension may not go beyond what holds it, whatever follows."""
    assert isinstance(hello(broken), Invalid)
    assert isinstance(parse(records(message([broken], tail=bytes(20)))), Invalid)


def test_bytes_behind_the_last_field_are_not_judged() -> None:
    """What follows a known field inside its frame is for TLS to refuse."""
    assert parse(records(message([server_name(b"a")], tail=b"more"))) == Parsed("a")
    assert hello(extension(16, b"\x00\x03\x02h2rest")) == Parsed(None, ("h2",))
