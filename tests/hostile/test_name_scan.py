"""Names that are guessed: nobody is slowed, and nothing is learned, neither by what comes back nor by when."""

import random
import socket
import statistics
import time

import pytest
from portway_relay.ingress.route import Alert
from portway_testkit.attacker import Attack
from portway_testkit.hellos import message, records, server_name
from portway_testkit.visitors import TIMEOUT, receive

# The node, its client and a process that attacks it start first, and rounds of half a second follow.
pytestmark = [pytest.mark.shares_sockets, pytest.mark.timeout(120)]

_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
# Two names look alike when the median times of their answers are no further apart, in seconds; a guesser on the
# Internet sees differences of milliseconds at best.
ALIKE = 0.005


def guess(number: int) -> str:
    return "".join(random.Random(number).choices(_LETTERS, k=16))


def hello(name: str) -> bytes:
    return records(message([server_name(name.encode())]))


def test_a_scan_of_names_slows_nobody(besieged) -> None:
    """Five hundred guesses a second: the tunnel in use goes on, and each guess gets the same alert."""
    says = [hello(f"{guess(number)}.fra.localhost").hex() for number in range(500)]
    figures, told = besieged.under(Attack(besieged.host, [besieged.port], 500, says, addresses=20))
    print(figures)
    assert figures.ratio >= 0.8, figures
    assert figures.grown < 16, figures
    assert {bytes.fromhex(answer) for answer in told.answers} <= {b"", Alert.UNRECOGNIZED_NAME.record}


def test_names_that_nobody_has_are_answered_alike_and_as_soon(besieged) -> None:
    """A label that never was, one that was asked for a moment ago, one of no label's form, one of another region: the
    same seven bytes, in the same time within a few milliseconds."""
    kinds = {
        "never was": lambda number: f"{guess(1_000 + number)}.fra.localhost",
        "asked for before": lambda number: f"{guess(1)}.fra.localhost",
        "no label": lambda number: f"{guess(2_000 + number)[:15]}.fra.localhost",
        "another region": lambda number: f"{guess(3_000 + number)}.iad.localhost",
        "another domain": lambda number: f"{guess(4_000 + number)}.fra.example.com",
    }
    took: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(40):
        for kind, name in kinds.items():
            took[kind].append(answered_in(besieged, hello(name(number))))
    medians = {kind: statistics.median(times) for kind, times in took.items()}
    print({kind: f"{median * 1e3:.2f} ms" for kind, median in medians.items()})
    assert max(medians.values()) - min(medians.values()) < ALIKE, medians


def answered_in(besieged, sent: bytes) -> float:
    """Seconds until the answer, which is the only one there is."""
    with socket.create_connection((besieged.host, besieged.port), TIMEOUT) as visitor:
        began = time.monotonic()
        visitor.sendall(sent)
        assert receive(visitor) == Alert.UNRECOGNIZED_NAME.record
        return time.monotonic() - began
