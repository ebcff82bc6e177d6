"""What checking proofs may cost, for each who asks for it."""

import pytest
from portway_proto.wire.labels import Chain
from portway_relay.routing.proofs import Proofs, is_proof
from portway_testkit.fakes.clock import ManualClock

CHAIN = Chain(b"\x07" * 32)


def test_hashes_are_counted_for_each_who_asks(clock: ManualClock) -> None:
    """A proof costs its epoch; one node that tells too much does not use up another's, nor a token's."""
    proofs = Proofs(100, 1_000, clock)
    assert proofs.wait("node", "a", 600) == 0
    assert proofs.wait("node", "a", 600) == 2
    assert proofs.wait("node", "a", 400) == 0
    assert proofs.wait("node", "b", 1_000) == 0
    assert proofs.wait("token", "a", 1_000) == 0
    assert proofs.unchecked == {"node": 1}


def test_an_account_fills_with_time(clock: ManualClock) -> None:
    """At its rate, as far as its burst."""
    proofs = Proofs(100, 1_000, clock)
    proofs.wait("node", "a", 1_000)
    clock.now += 5
    assert proofs.wait("node", "a", 501) > 0
    assert proofs.wait("node", "a", 500) == 0
    clock.now += 1_000
    assert proofs.wait("node", "a", 1_000) == 0
    assert proofs.wait("node", "a", 1) > 0


def test_the_dearest_proof_can_be_afforded(clock: ManualClock) -> None:
    """However small the limit, every proof is checked some time."""
    proofs = Proofs(10, 100, clock)
    assert proofs.wait("token", "t", 4_096) == 0
    assert proofs.wait("token", "t", 4_096) == 10


@pytest.mark.parametrize(
    ("label", "epoch", "proof", "has"),
    [
        (CHAIN.label, 1, CHAIN.proof(1), True),
        (CHAIN.label, 1, bytes(32), True),
        (CHAIN.label, 0, CHAIN.proof(1), False),
        (CHAIN.label, 4_097, CHAIN.proof(1), False),
        (CHAIN.label, 1, CHAIN.proof(1)[1:], False),
        ("no label", 1, CHAIN.proof(1), False),
    ],
)
def test_what_has_not_the_form_costs_nothing(label: str, epoch: int, proof: bytes, has: bool) -> None:
    """It is seen without hashing."""
    assert is_proof(label, epoch, proof) is has
