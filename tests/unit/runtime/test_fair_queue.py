"""Senders take turns."""

from portway_runtime.fair_queue import FairQueue


def test_senders_take_turns_and_keep_their_own_order() -> None:
    """Whoever comes last with one item is next but one."""
    queue: FairQueue[str] = FairQueue()
    for number in range(4):
        queue.put("many", f"many {number}")
    queue.put("one", "one 0")
    assert len(queue) == 5
    assert queue.take(3) == ["many 0", "one 0", "many 1"]
    queue.put("one", "one 1")
    assert queue.take(9) == ["many 2", "one 1", "many 3"]
    assert not queue
    assert queue.take(1) == []
