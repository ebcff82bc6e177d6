"""Names that are guessed: nobody is slowed, and nothing is learned, neither by what comes back nor by when."""

import random
import socket
import statistics
import time
from collections.abc import Callable

import portway
from portway_relay.ingress.decision import Alert
from portway_testkit.fixtures import AsClient
from portway_testkit.visitors.attacker import Attack
from portway_testkit.visitors.hellos import message, records, server_name
from portway_testkit.visitors.siege import MARKS, Besieged
from portway_testkit.visitors.visiting import TIMEOUT, receive
from portway_testkit.waiting import eventually

pytestmark = MARKS

_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
# Two names look alike when the times of their answers are no further apart, in seconds; a guesser on the Internet sees
# differences of milliseconds at best. A name that is asked for takes one, and one that is remembered none.
ALIKE = 0.005
# MiB. Of guesses 128 at a time are asked for, at 40 KB each; connections that wait for a processor come on top of that.
MOST_MEMORY = 32


def guess(number: int) -> str:
    return "".join(random.Random(number).choices(_LETTERS, k=16))


def hello(name: str) -> bytes:
    return records(message([server_name(name.encode())]))


def test_a_scan_of_names_slows_nobody(besieged: Besieged) -> None:
    """Five hundred guesses a second: the tunnel in use goes on, and each guess gets the same alert."""
    says = [hello(f"{guess(number)}.fra.localhost").hex() for number in range(500)]
    figures, told = besieged.under(Attack(besieged.host, [besieged.port], 500, says, addresses=20))
    print(figures)
    assert figures.ratio >= 0.8, figures
    assert figures.grown < MOST_MEMORY, figures
    # Where the node gets little of a processor the attacker leaves before its answers, or is closed unread.
    assert {bytes.fromhex(answer) for answer in told.answers} <= {b"", Alert.UNRECOGNIZED_NAME.record}
    for number in range(20):
        assert besieged.answers(hello(f"{guess(number)}.fra.localhost")) == Alert.UNRECOGNIZED_NAME.record


def test_names_that_nobody_has_are_answered_alike_and_as_soon(unasked: Besieged) -> None:
    """A label that never was, one that was asked for a moment ago, one of no label's form, one of another region: the
    same seven bytes, in the same time within a few milliseconds."""
    kinds = {
        "never was": lambda number: f"{guess(1_000 + number)}.fra.localhost",
        "asked for before": lambda number: f"{guess(1)}.fra.localhost",
        "no label": lambda number: f"{guess(2_000 + number)[:15]}.fra.localhost",
        "another region": lambda number: f"{guess(3_000 + number)}.iad.localhost",
        "another domain": lambda number: f"{guess(4_000 + number)}.fra.example.com",
    }
    demand_alike(unasked, kinds, 40)


def test_names_of_tunnels_that_were_closed_are_answered_like_those_that_never_were(
    unasked: Besieged, as_client: AsClient
) -> None:
    """One that was closed a moment ago, and every moment since; one that is open, asked for in another region, where
    nobody has a certificate for it."""
    as_client(unasked.environment)
    closed: list[str] = []

    def closed_now(number: int) -> str:
        with portway.forward(1) as tunnel:
            tunnels = unasked.metrics()["tunnels"]
        eventually(lambda: unasked.metrics()["tunnels"] < tunnels)
        closed.append(tunnel.host)
        return tunnel.host

    open_elsewhere = unasked.tunnel.host.replace(".fra.", ".iad.")
    kinds = {
        "never was": lambda number: f"{guess(5_000 + number)}.fra.localhost",
        "just closed": closed_now,
        "closed before": lambda number: closed[number // 2],
        "open, in another region": lambda number: open_elsewhere,
    }
    demand_alike(unasked, kinds, 30)


def demand_alike(node: Besieged, kinds: dict[str, Callable[[int], str]], times: int) -> None:
    """Ask for a name of each kind in turn, so many times: one answer, and the times of the quickest tenth are close
    together. What the node does for a name it does each time; other work on the machine lengthens some."""
    took: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(times):
        # All names first, and each kind in each place: what it costs the machine to have a name is nobody's alone.
        asked = [(kind, place, hello(name(number))) for place, (kind, name) in enumerate(kinds.items())]
        turn = number % len(asked)
        for kind, place, sent in asked[turn:] + asked[:turn]:
            # Each address may guess so often: nobody here is to be refused for that.
            took[kind].append(answered_in(node, sent, f"127.8.{place}.{number + 1}"))
    quick = {kind: statistics.quantiles(seconds, n=10)[0] for kind, seconds in took.items()}
    for kind, seconds in took.items():
        median, most = statistics.median(seconds), max(seconds)
        print(f"{kind}: {quick[kind] * 1e3:.2f} ms, median {median * 1e3:.2f}, at the most {most * 1e3:.2f}")
    assert max(quick.values()) - min(quick.values()) < ALIKE, quick


def answered_in(node: Besieged, sent: bytes, source: str) -> float:
    """Seconds until the answer, which is the only one there is."""
    address = (node.host, node.port)
    with socket.create_connection(address, TIMEOUT, source_address=(source, 0)) as visitor:
        began = time.monotonic()
        visitor.sendall(sent)
        assert receive(visitor) == Alert.UNRECOGNIZED_NAME.record
        return time.monotonic() - began
