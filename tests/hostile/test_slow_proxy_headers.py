"""Thousands of PROXY headers that do not end, that are too long, or that are forged."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from portway_relay.config import NodeLimits
from portway_runtime.endpoints import Endpoint
from portway_runtime.proxy_protocol import MAX_V2, ProxyHeader, encode_v1, encode_v2
from portway_testkit.visitors.attacker import Attack
from portway_testkit.visitors.siege import MARKS, Besieged
from portway_testkit.waiting import eventually

pytestmark = MARKS

LIMITS = NodeLimits()
# The socket and a small object each, in MiB; what the process has in memory besides grows and shrinks by more.
A_CONNECTION = 8 / 1024
SLACK = 16
# Where the attacks come from.
ATTACKERS = "127.9.0.0/16"
SOURCE = ProxyHeader(Endpoint("203.0.113.7", 5000), Endpoint("198.51.100.1", 443))
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

NodeWith = Callable[..., AbstractContextManager[Besieged]]


def test_headers_that_never_end_slow_nobody_and_shut_nobody_out(node_with: NodeWith) -> None:
    """From a balancer that is broken or taken over: those that wait are bounded, and so is their memory; the oldest
    make room, and visitors that come directly wait for none of them."""
    most = LIMITS.max_half_open
    longest = encode_v2(ProxyHeader(SOURCE.source, SOURCE.destination, ((0xE0, bytes(1900)),)))
    halves = [encode_v1(SOURCE)[:-1], longest[:-1], longest[:16]]
    seen = []
    with node_with("--proxy-protocol-from", ATTACKERS) as besieged:

        def waiting() -> float:
            return besieged.metrics()["half_open_connections"]

        def during() -> None:
            seen.append(waiting())
            besieged.served()

        says = [half.hex() for half in halves]
        attack = Attack(besieged.host, [besieged.port], 300, says, at_once=4_300, hold=6_000, addresses=3)
        figures, _ = besieged.under(attack, begun=lambda: eventually(lambda: waiting() >= most * 0.9), during=during)
    print(f"{figures}, {max(seen):.0f} half open")
    assert figures.ratio >= 0.8, figures
    assert most * 0.9 <= max(seen) <= most
    assert figures.grown < SLACK + most * A_CONNECTION, figures


TOO_LONG = SIGNATURE + b"\x21\x11" + (MAX_V2 - 15).to_bytes(2) + bytes(MAX_V2)
TLV_TOO_LONG = SIGNATURE + b"\x21\x11\0\x12" + bytes(12) + b"\x04\xff\xff" + bytes(3)
ENDLESS = (b"PROXY TCP4 " + b"1" * 2_000, b"PROXY UNKNOWN" + b" " * 2_000)
FORGED = (encode_v1(SOURCE) + b"\x16\x03\x01", encode_v2(SOURCE) + b"\x16\x03\x01")


@pytest.mark.parametrize(
    ("trusted", "says"),
    [(True, (TOO_LONG, TLV_TOO_LONG, *ENDLESS)), (False, FORGED)],
    ids=["broken", "forged"],
)
def test_broken_and_forged_headers_slow_nobody(node_with: NodeWith, trusted: bool, says: tuple[bytes, ...]) -> None:
    """Each is refused when it is seen, and counted."""
    reason = "no_proxy_header" if trusted else "proxy_header"
    with node_with(*(("--proxy-protocol-from", ATTACKERS) if trusted else ())) as besieged:
        attack = Attack(besieged.host, [besieged.port], 600, [each.hex() for each in says], addresses=4)
        figures, report = besieged.under(attack)
        refused = besieged.metrics()[f'turned_away_total{{reason="{reason}"}}']
    print(f"{figures}, {refused:.0f} refused, {report}")
    assert figures.ratio >= 0.8, figures
    assert refused >= 100
    assert figures.grown < SLACK, figures
