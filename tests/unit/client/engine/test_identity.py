"""portway.engine.identity: labels and their proofs, used up in turn."""

import pytest
from portway.engine.identity import LabelChain, ReadyChains
from portway.errors import RemoteError
from portway_proto.wire.labels import CHAIN_LENGTH, Chain, is_label, verify_proof


def test_epochs_are_proved_in_turn() -> None:
    """From 1 on, each once."""
    identity = LabelChain(Chain())
    assert is_label(identity.label)
    assert identity.epoch == 0
    for expected in (1, 2, 3):
        epoch, proof = identity.next_proof()
        assert (epoch, identity.epoch) == (expected, expected)
        assert verify_proof(identity.label, epoch, proof)


def test_a_chain_that_is_used_up_says_so() -> None:
    """After epoch 4096 a new tunnel is needed."""
    identity = LabelChain(Chain())
    for _ in range(CHAIN_LENGTH):
        identity.next_proof()
    with pytest.raises(RemoteError, match="open a new tunnel"):
        identity.next_proof()
    assert identity.epoch == CHAIN_LENGTH


def test_no_two_identities_are_the_same() -> None:
    """Whether they were ready or not."""
    identities = ReadyChains()
    taken = [identities.take()]
    identities.prepare()
    taken += [identities.take(), identities.take()]
    assert len({identity.label for identity in taken}) == 3


def test_one_is_kept_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken without walking a chain, and made on a thread of its own."""
    identities = ReadyChains()
    identities.prepare()
    identities.prepare()  # is under way, or done
    making = identities._making
    assert making is not None
    making.join()
    monkeypatch.setattr("portway.engine.identity.Chain", lambda: pytest.fail("there was one ready"))
    assert is_label(identities.take().label)
