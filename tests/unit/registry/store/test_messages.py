"""How writes become etcd's transactions."""

import pytest
from portway_registry.store.contract import Delete, Put, Write
from portway_registry.store.etcd.messages import (
    BYTES_PER_TRANSACTION,
    WRITES_PER_TRANSACTION,
    prefix_end,
    prefix_range,
    transactions,
)


@pytest.mark.parametrize(("prefix", "end"), [(b"a", b"b"), (b"a\xff\xff", b"b"), (b"\xff", b"\0"), (b"", b"\0")])
def test_a_prefix_ends_before_the_next_one(prefix: bytes, end: bytes) -> None:
    """A range's end is the prefix with its last byte raised; one that cannot be raised has no end."""
    assert prefix_end(prefix) == end


def test_the_empty_prefix_is_every_key() -> None:
    """etcd calls the range of all keys by two zero bytes."""
    assert prefix_range("") == (b"\0", b"\0")


def test_few_writes_are_one_transaction() -> None:
    """Writes of different keys go together."""
    assert list(transactions([Put("a", b""), Delete("b"), Put("c", b"")])) == [[range(3)]]


def test_no_writes_are_no_transaction() -> None:
    """Nothing is sent for nothing."""
    assert list(transactions([])) == []


def test_many_writes_are_split_side_by_side() -> None:
    """A transaction takes so many writes; the next goes beside it."""
    writes = [Put(str(number), b"") for number in range(WRITES_PER_TRANSACTION + 1)]
    assert list(transactions(writes)) == [
        [range(WRITES_PER_TRANSACTION), range(WRITES_PER_TRANSACTION, WRITES_PER_TRANSACTION + 1)]
    ]


def test_large_values_are_split() -> None:
    """A transaction keeps below etcd's limit of bytes; a value that is too large alone goes alone."""
    half = bytes(BYTES_PER_TRANSACTION // 2)
    assert list(transactions([Put("a", half), Put("b", half), Put("c", b"")])) == [[range(1), range(1, 3)]]
    assert list(transactions([Put("a", half * 3), Put("b", b"")])) == [[range(1), range(1, 2)]]


def test_a_key_named_again_waits_for_the_first() -> None:
    """Two writes of a key never travel side by side."""
    writes: list[Write] = [Put("a", b"1"), Put("b", b""), Put("a", b"2"), Delete("a"), Put("b", b"")]
    assert list(transactions(writes)) == [[range(2)], [range(2, 3)], [range(3, 5)]]
