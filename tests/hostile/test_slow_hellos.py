"""Thousands of half-sent ClientHellos, of many addresses and of one."""

import pytest
from portway_relay.config import NodeLimits
from portway_testkit.visitors.attacker import Attack
from portway_testkit.visitors.hellos import real_hello
from portway_testkit.visitors.siege import MARKS, Besieged
from portway_testkit.waiting import eventually

pytestmark = MARKS

LIMITS = NodeLimits()
# The socket and a small object each, in MiB; what the process has in memory besides grows and shrinks by more.
A_CONNECTION = 8 / 1024
SLACK = 16


@pytest.mark.parametrize(
    ("addresses", "at_once", "most"),
    [(40, 4_300, LIMITS.max_half_open), (1, 1_000, LIMITS.max_half_open_per_address)],
    ids=["many addresses", "one address"],
)
def test_hellos_that_never_end_slow_nobody_and_shut_nobody_out(
    besieged: Besieged, addresses: int, at_once: int, most: int
) -> None:
    """The tunnel in use goes on; new visitors are served while every place is taken; those that wait are no more than
    they may be, and nor is the memory that they take."""
    half = real_hello(besieged.tunnel.host)[:200].hex()
    seen = []

    def waiting() -> float:
        return besieged.metrics()["half_open_connections"]

    def during() -> None:
        seen.append(waiting())
        besieged.served()

    attack = Attack(besieged.host, [besieged.port], 300, [half], at_once=at_once, hold=6_000, addresses=addresses)
    figures, _ = besieged.under(attack, begun=lambda: eventually(lambda: waiting() >= most * 0.9), during=during)
    print(f"{figures}, {max(seen):.0f} half open")
    assert figures.ratio >= 0.8, figures
    assert most * 0.9 <= max(seen) <= most
    assert figures.grown < SLACK + most * A_CONNECTION, figures
