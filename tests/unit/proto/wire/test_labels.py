"""Labels: the hash chain, the proofs, and what they keep from others."""

import hashlib
from typing import Any

import pytest
from portway_proto.wire.labels import CHAIN_LENGTH, LABEL_LENGTH, Chain, is_label, label_of, verify_proof
from portway_testkit.wire_spec import vectors

LABELS = vectors("labels")["labels"]
CHAIN = Chain(bytes(range(32)))


@pytest.mark.parametrize("vector", LABELS, ids=[vector["label"] for vector in LABELS])
def test_vector(vector: dict[str, Any]) -> None:
    """A seed gives the vectors' anchor, label and proofs, and each proof verifies for its own epoch only."""
    seed, anchor = bytes.fromhex(vector["seed"]), bytes.fromhex(vector["anchor"])
    value = seed
    for _ in range(4096):
        value = hashlib.sha256(value).digest()
    assert value == anchor
    chain = Chain(seed)
    assert chain.label == label_of(anchor) == vector["label"]
    for text, proof in vector["proofs"].items():
        epoch = int(text)
        assert chain.proof(epoch).hex() == proof
        assert verify_proof(vector["label"], epoch, bytes.fromhex(proof))
        assert not verify_proof(vector["label"], epoch - 1, bytes.fromhex(proof))
        assert not verify_proof(vector["label"], epoch + 1, bytes.fromhex(proof))


def test_any_epoch_is_proved_by_one_hash_less_than_the_one_before() -> None:
    """The proof of epoch k is the hash of that of k + 1, across all of the chain."""
    later = CHAIN.proof(CHAIN_LENGTH)
    for epoch in range(CHAIN_LENGTH - 1, 0, -1):
        proof = CHAIN.proof(epoch)
        assert proof == hashlib.sha256(later).digest()
        later = proof


def test_whoever_saw_an_epoch_cannot_prove_the_next() -> None:
    """A proof seen, hashed any number of times, proves lower epochs and never a higher one."""
    value = CHAIN.proof(5)
    for lower in (5, 4, 3, 2, 1):
        assert verify_proof(CHAIN.label, lower, value)
        assert not any(verify_proof(CHAIN.label, higher, value) for higher in range(6, 20))
        value = hashlib.sha256(value).digest()


@pytest.mark.parametrize("epoch", [0, -1, CHAIN_LENGTH + 1, 2**32])
def test_epochs_outside_the_chain(epoch: int) -> None:
    """There is no proof of them, and nothing proves them."""
    with pytest.raises(ValueError, match="outside 1 to 4096"):
        CHAIN.proof(epoch)
    assert not verify_proof(CHAIN.label, epoch, CHAIN.proof(1))


@pytest.mark.parametrize("spoiled", [b"", b"x", CHAIN.proof(7)[:-1], CHAIN.proof(7) + b"\0", bytes(32)])
def test_a_spoiled_proof_proves_nothing(spoiled: bytes) -> None:
    """A proof of another length, or another value, is refused."""
    assert verify_proof(CHAIN.label, 7, CHAIN.proof(7))
    assert not verify_proof(CHAIN.label, 7, spoiled)


def test_a_proof_is_for_one_label() -> None:
    """Another label, or the same in capitals, is not proved."""
    other = Chain(bytes(32))
    assert not verify_proof(other.label, 1, CHAIN.proof(1))
    assert not verify_proof(CHAIN.label.upper(), 1, CHAIN.proof(1))


def test_chains_are_random_by_default() -> None:
    """Two chains have nothing in common."""
    first, second = Chain(), Chain()
    assert first.label != second.label
    assert is_label(first.label)
    assert len(first.label) == LABEL_LENGTH


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_seed_has_32_bytes(size: int) -> None:
    """A seed of another size is refused."""
    with pytest.raises(ValueError, match="a seed has 32 bytes"):
        Chain(bytes(size))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("k5zq2w7b3xav6mdy", True),
        ("a" * 15, False),
        ("a" * 17, False),
        ("A" * 16, False),
        ("a" * 15 + "1", False),
        ("a" * 15 + "8", False),
        ("a" * 16 + "\n", False),
        ("", False),
        ("ａ" * 16, False),
    ],
)
def test_a_labels_form(text: str, expected: bool) -> None:
    """16 characters of lower-case base32 and nothing else."""
    assert is_label(text) is expected
