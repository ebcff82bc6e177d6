"""The ClientHello parser as a fuzz target."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from portway_relay.ingress.client_hello import (
    MAX_GROUPS,
    MAX_HELLO,
    MAX_RECORDS,
    MAX_SHARES,
    Parsed,
    parse,
)
from portway_runtime.parse_results import Invalid, NeedMore

from portway_testkit.fuzzing.target import Target, cuts
from portway_testkit.visitors.hellos import alpn, canned, message, message_of, records, server_name

_RECORDED: Final = Path(__file__).with_name("hellos.json")
_NAME: Final = b"k5zq2w7b3xav6mdy.fra.example.com"
# The largest hello, with a last record whose length is the largest that a record may have.
_MOST_NEEDED: Final = MAX_HELLO + 5 * MAX_RECORDS + 16 * 1024


@dataclass(frozen=True, slots=True)
class RecordedHello:
    """The first bytes of a real client, and their meaning."""

    client: str
    server_name: str | None
    alpn: tuple[str, ...]
    data: bytes


@cache
def recorded_hellos() -> tuple[RecordedHello, ...]:
    """ClientHellos of browsers, libraries and commands."""
    return tuple(
        RecordedHello(row["client"], row["server_name"], tuple(row["alpn"]), bytes.fromhex(row["hex"]))
        for row in json.loads(_RECORDED.read_text())["hellos"]
    )


def _seeds() -> tuple[bytes, ...]:
    named = message([server_name(_NAME), alpn(b"h2", b"http/1.1")])
    return (
        *(hello.data for hello in recorded_hellos()),
        records(named),
        records(named, 40),
        records(named, 3),
        records(message(None)),
        records(message([server_name(b"a", b"b"), alpn(b"", b"\xff")])),
        records(message([server_name(_NAME), server_name(_NAME)])),
        canned("a.example", (29, 23), ((29, bytes(32)), (23, bytes(65)))),
        records(message_of(17 * 1024, server_name(_NAME))),
        records(message_of(2048, server_name(_NAME)), 512),
        records(message_of(600), 1),
        b"GET / HTTP/1.1\r\n\r\n",
        b"",
    )


def _check(data: bytes) -> None:
    answer = parse(data)
    _check_answer(answer, data)
    for pieces in cuts(data):
        arrived = b""
        for piece in pieces:
            arrived += piece
            earlier = parse(arrived)
            _check_answer(earlier, arrived)
            if not isinstance(earlier, NeedMore):
                assert earlier == answer, f"{earlier} of the first {len(arrived)} bytes, {answer} of all"
                break
    _check_arrival(data, answer)


def _check_answer(answer: Parsed | NeedMore | Invalid, data: bytes) -> None:
    if isinstance(answer, NeedMore):
        assert len(data) < answer.size <= _MOST_NEEDED, f"{answer} of {len(data)} bytes"
    elif isinstance(answer, Parsed):
        assert answer.sni is None or answer.sni.isascii()
        assert all(len(protocol) < 256 for protocol in answer.alpn)
        assert len(answer.groups) <= MAX_GROUPS
        assert len(answer.shares) <= MAX_SHARES
    else:
        assert isinstance(answer, Invalid)
        assert answer.reason


def _check_arrival(data: bytes, answer: Parsed | NeedMore | Invalid) -> None:
    """A reader that waits for the number of bytes that is asked for gets the same answer, in a bounded number of
    calls."""
    needed, looks = 1, 0
    while needed <= len(data):
        looks += 1
        seen = parse(data[:needed])
        if not isinstance(seen, NeedMore):
            assert seen == answer
            break
        assert seen.size > needed
        needed = seen.size
    assert looks <= 2 * MAX_RECORDS + 1, f"{looks} looks"


HELLO: Final = Target(
    "hello",
    "Whatever the bytes, parse answers Parsed, NeedMore (of more than there are, within a bound) or Invalid, never "
    "raises, and gives the same answer however the bytes are cut, after a bounded number of looks.",
    _seeds,
    _check,
)
