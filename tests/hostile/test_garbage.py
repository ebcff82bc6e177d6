"""Bytes that mean nothing."""

import random

import pytest
from portway_relay.ingress.decision import Alert
from portway_testkit.visitors.attacker import Attack
from portway_testkit.visitors.hellos import real_hello
from portway_testkit.visitors.siege import MARKS, Besieged

pytestmark = MARKS

NOISE = random.Random(5)
GARBAGE = {
    "nothing but zeros": b"\x00" * 64,
    "random bytes": b"\x9d" + NOISE.randbytes(4_000),
    "another protocol": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "TLS's predecessor": b"\x80\x2e\x01\x00\x02" + NOISE.randbytes(43),
    "an alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "application data": b"\x17\x03\x03\x01\x00" + NOISE.randbytes(256),
    "an empty record": b"\x16\x03\x01\x00\x00",
    "a record of noise": b"\x16\x03\x01\x02\x00\x02" + NOISE.randbytes(511),
    "a ServerHello": b"\x16\x03\x03\x00\x04\x02\x00\x00\x00",
    "a hello whose fields are noise": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" + b"\xff" * 508,
}
# These are not decided: more may come, or none has a right to an answer.
UNFINISHED = [b"\x16", real_hello("a.example")[:-1], b"GE", b"\x16\x03\x01" + b"\x3f\xff\x01\x00\x3f\xfb"]
PLAIN_HTTP = b"GET / HTTP/1.1\r\nHost: " + b"x" * 2_000


def test_garbage_slows_nobody(besieged: Besieged) -> None:
    """Five hundred connections a second with random bytes, other protocols' first words, records that break off: the
    tunnel in use goes on, and each is told the same alert, or that this port speaks https."""
    says = [*GARBAGE.values(), *UNFINISHED, PLAIN_HTTP]
    attack = Attack(besieged.host, [besieged.port], 500, [piece.hex() for piece in says], addresses=20)
    figures, told = besieged.under(attack)
    print(figures)
    assert figures.ratio >= 0.8, figures
    assert figures.grown < 16, figures
    # Where the node gets little of a processor the attacker leaves before its answers, or is closed unread.
    answers = {bytes.fromhex(answer) for answer in told.answers}
    assert {answer for answer in answers if not answer.startswith(b"HTTP/1.1 400 ")} <= {b"", Alert.DECODE_ERROR.record}


@pytest.mark.parametrize("kind", GARBAGE)
def test_each_piece_of_garbage_gets_one_alert_and_the_end(besieged: Besieged, kind: str) -> None:
    """Seven bytes and the end, whatever it was."""
    assert besieged.answers(GARBAGE[kind]) == Alert.DECODE_ERROR.record
