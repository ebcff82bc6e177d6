"""Canned ClientHellos that ask for costly cryptography: whoever sends them computes nothing."""

import itertools
import os
import socket
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from portway_proto.wire.limits import LINK_ALPN, MESH_ALPN
from portway_relay.ingress.client_hello import MAX_GROUPS, MAX_HELLO, MAX_SHARES
from portway_relay.ingress.decision import Alert
from portway_testkit.visitors.attacker import Attack
from portway_testkit.visitors.hellos import alpn, canned, padding
from portway_testkit.visitors.siege import MARKS, Besieged
from portway_testkit.visitors.visiting import TIMEOUT

pytestmark = MARKS


def point(curve: ec.EllipticCurve) -> bytes:
    public = ec.generate_private_key(curve).public_key()
    return public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


X25519 = (29, b"\x09" + bytes(31))
P256 = (23, point(ec.SECP256R1()))
COSTLY = {
    "ffdhe8192": (0x0104, bytes(1023) + b"\x04"),
    "ffdhe4096": (0x0102, bytes(511) + b"\x04"),
    "ffdhe2048": (0x0100, bytes(255) + b"\x04"),
    "P-521": (25, point(ec.SECP521R1())),
    "P-384": (24, point(ec.SECP384R1())),
    "X448": (30, b"\x05" + bytes(55)),
}
HELLOS = 100
ROUNDS = 5
MOST_COST = 3.0  # times that of a handshake with X25519


def hellos_of(besieged: Besieged, group: str) -> dict[str, bytes]:
    """Hellos that offer this group alone: of a visitor of a tunnel, and of lanes to the node's own name."""
    share = COSTLY[group]
    names = {"visitor": (besieged.tunnel.host, "http/1.1"), "stranger": ("a" * 16 + ".fra.localhost", "http/1.1")}
    names |= {protocol: (besieged.server_name, protocol) for protocol in (LINK_ALPN, MESH_ALPN)}
    return {
        whose: canned(name, [share[0]], [share], alpn(protocol.encode())) for whose, (name, protocol) in names.items()
    }


@pytest.mark.parametrize("group", COSTLY)
def test_a_costly_group_is_refused(besieged: Besieged, group: str) -> None:
    """By an alert, whether the hello names a tunnel, nothing known, or the node itself."""
    for whose, hello in hellos_of(besieged, group).items():
        assert besieged.answers(hello) == Alert.HANDSHAKE_FAILURE.record, whose


def test_costly_groups_slow_nobody(besieged: Besieged) -> None:
    """A hundred hellos a second, each for 8,192 bits: the tunnel in use goes on, and new visitors are served. Eleven a
    second took nineteen parts of twenty from it when OpenSSL answered them."""
    says = [hello.hex() for group in ("ffdhe8192", "P-384") for hello in hellos_of(besieged, group).values()]
    figures, told = besieged.under(Attack(besieged.host, [besieged.port], 100, says, addresses=20))
    print(figures)
    assert figures.ratio >= 0.8, figures
    assert {bytes.fromhex(answer) for answer in told.answers} <= {b"", Alert.HANDSHAKE_FAILURE.record}


@pytest.fixture
def patient(node_with: Callable[..., AbstractContextManager[Besieged]]) -> Iterator[Besieged]:
    """A node that begins any number of handshakes which nobody completes."""
    with node_with("--unfinished-handshakes-per-second", "1000000") as node:
        yield node


def test_no_hello_costs_much_more_than_x25519(patient: Besieged) -> None:
    """The node's processor time for each, in turn: with P-256, with shares for nothing that is served, with lists as
    long as they may be, as large as it may be, and with groups that are refused."""
    host = patient.tunnel.host
    unknown = [(group, b"x") for group in range(0x4000, 0x4000 + MAX_SHARES)]
    many = [*range(0x4000, 0x4000 + MAX_GROUPS - 1), 23]
    largest = canned(host, many, unknown)
    hellos = {
        "X25519": canned(host, [29], [X25519]),
        "P-256": canned(host, [23], [P256]),
        "X25519 without a share": canned(host, [0x0104, 29], []),
        "X25519 before a costly share": canned(host, [29, 0x0104], [X25519, COSTLY["ffdhe8192"]]),
        "X25519 behind a costly share": canned(host, [0x0104, 29], [COSTLY["ffdhe8192"], X25519]),
        "P-256 behind a costly share": canned(host, [0x0104, 29, 23], [COSTLY["ffdhe8192"], X25519, P256]),
        "lists as long as they may be": largest,
        "as large as it may be": canned(host, many, unknown, padding(MAX_HELLO - len(largest))),
        "thousands of protocols": canned(host, [29], [X25519], alpn(*[b"x"] * 15_000)),
        "thousands of extensions": canned(host, [29], [X25519], *[padding(4)] * 7_500),
        **{group: canned(host, [share[0]], [share]) for group, share in COSTLY.items()},
    }
    sources = (f"127.8.{number // 250}.{number % 250 + 1}" for number in itertools.count())
    costs: dict[str, list[float]] = {kind: [] for kind in hellos}
    for _ in range(ROUNDS):
        for kind, hello in hellos.items():
            before = busy(patient.pid)
            for _ in range(HELLOS):
                answered(patient, hello, next(sources))
            costs[kind].append((busy(patient.pid) - before) / HELLOS)
    usual = statistics.median(costs["X25519"])
    ratios = {kind: statistics.median(seconds) / usual for kind, seconds in costs.items()}
    print(f"X25519 {usual * 1e3:.2f} ms", {kind: round(ratio, 2) for kind, ratio in ratios.items()})
    assert max(ratios.values()) <= MOST_COST, ratios


def busy(process: int) -> float:
    """Seconds that the process's first thread, which its loop runs on, has been on a processor."""
    return int(Path(f"/proc/{process}/task/{process}/schedstat").read_text().split()[0]) / 1e9


def answered(besieged: Besieged, hello: bytes, source: str) -> None:
    """Send a hello, wait for the first bytes of the answer, and leave."""
    with socket.create_connection((besieged.host, besieged.port), TIMEOUT, (source, 0)) as visitor:
        visitor.sendall(hello)
        assert visitor.recv(1 << 16)


def test_protocols_that_are_not_served_are_refused(besieged: Besieged) -> None:
    """By an alert of their own, whichever name is asked for."""
    for name in (besieged.tunnel.host, "a" * 16 + ".fra.localhost", besieged.server_name, "example.com"):
        hello = canned(name, [29], [X25519], alpn(b"imap", os.urandom(8)))
        assert besieged.answers(hello) == Alert.NO_APPLICATION_PROTOCOL.record, name
