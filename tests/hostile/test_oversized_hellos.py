"""ClientHellos that are as large as they may be, in as many records as they may, and larger."""

import pytest
from portway_relay.ingress.client_hello import MAX_HELLO, MAX_RECORDS
from portway_relay.ingress.decision import Alert
from portway_testkit.visitors.attacker import Attack
from portway_testkit.visitors.hellos import message_of, records, server_name
from portway_testkit.visitors.siege import MARKS, Besieged

pytestmark = MARKS

NAME = server_name(b"a" * 16 + b".fra.localhost")
SMALLEST = MAX_HELLO // MAX_RECORDS  # the smallest records that such a hello may come in
LARGEST = {
    "in few records": records(message_of(MAX_HELLO, NAME)),
    "in as many records as it may": records(message_of(MAX_HELLO, NAME), SMALLEST),
}
OVERSIZED = {
    "a byte too long": records(message_of(MAX_HELLO + 1, NAME)),
    "in a record too many": records(message_of(MAX_HELLO, NAME), SMALLEST - 8),
    "in records of one byte": b"".join(b"\x16\x03\x01\x00\x01" + bytes((byte,)) for byte in message_of(4_000, NAME)),
    "said to have 16 MiB": b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(16_000),
    "in a record that is too long": b"\x16\x03\x01\xff\xff\x01\x00\xff\xff" + bytes(60_000),
}


def test_oversized_hellos_slow_nobody(besieged: Besieged) -> None:
    """Three hundred a second, 9 MB: each costs a parse and is refused, the tunnel in use goes on, and nothing of them
    stays in memory."""
    says = [piece.hex() for piece in (*LARGEST.values(), *OVERSIZED.values())]
    figures, told = besieged.under(Attack(besieged.host, [besieged.port], 300, says, addresses=20))
    print(figures)
    assert figures.ratio >= 0.8, figures
    assert figures.grown < 16, figures
    answers = {bytes.fromhex(answer) for answer in told.answers}
    assert answers <= {b"", Alert.DECODE_ERROR.record, Alert.UNRECOGNIZED_NAME.record}


@pytest.mark.parametrize("kind", LARGEST)
def test_the_largest_hello_that_may_be_is_read(besieged: Besieged, kind: str) -> None:
    """Its name is refused, not itself."""
    assert besieged.answers(LARGEST[kind]) == Alert.UNRECOGNIZED_NAME.record


@pytest.mark.parametrize("kind", OVERSIZED)
def test_a_larger_one_gets_one_alert_and_the_end(besieged: Besieged, kind: str) -> None:
    """Whatever is too large about it."""
    assert besieged.answers(OVERSIZED[kind]) == Alert.DECODE_ERROR.record
