"""Whose turn it is in a queue that prefixes of addresses share."""

import pytest
from portway_runtime.shares import PrefixQueue


def drained(queue: PrefixQueue[str]) -> list[str]:
    return [queue.pop() for _ in range(len(queue))]


def test_one_address_is_served_in_order() -> None:
    """First come, first served."""
    queue: PrefixQueue[str] = PrefixQueue()
    for number in range(3):
        queue.push(f"{number}", "192.0.2.1")
    assert drained(queue) == ["0", "1", "2"]
    with pytest.raises(IndexError):
        queue.pop()


def test_prefixes_take_turns_and_so_do_the_addresses_in_them() -> None:
    """A /24 with many addresses waits behind itself, and so does one of these."""
    queue: PrefixQueue[str] = PrefixQueue()
    for number in range(3):
        queue.push(f"a1-{number}", "192.0.2.1")
    queue.push("a2", "192.0.2.2")
    queue.push("b", "198.51.100.1")
    assert drained(queue) == ["a1-0", "b", "a2", "a1-1", "a1-2"]


def test_ipv6_prefixes_nest() -> None:
    """Of a /48 with many /64 in one /56, another /56 has every second turn."""
    queue: PrefixQueue[str] = PrefixQueue()
    for number in range(4):
        queue.push(f"a{number}", f"2001:db8:0:{number:x}::1")
    queue.push("b", "2001:db8:0:ff00::1")
    queue.push("c", "2001:db8:1::1")
    assert drained(queue) == ["a0", "c", "b", "a1", "a2", "a3"]


def test_what_is_gone_has_no_turn() -> None:
    """And leaves nothing behind."""
    queue: PrefixQueue[str] = PrefixQueue()
    queue.push("a", "192.0.2.1")
    queue.push("b", "192.0.2.1")
    queue.push("c", "2001:db8::1")
    for gone in ("a", "c", "never there"):
        queue.discard(gone)
    assert len(queue) == 1
    assert drained(queue) == ["b"]
    assert not queue._root.longer
