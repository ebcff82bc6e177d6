"""How many data lanes one token may have."""

from portway_relay.sessions.token_lanes import TokenLanes
from portway_testkit.fakes.clock import ManualClock


def test_a_token_gets_so_many_lanes(clock: ManualClock) -> None:
    """Those of another token do not count; lanes that have closed are noticed within a second."""
    open_lanes = {"t1": 0, "t2": 5}
    counted: list[str] = []

    def count(token_id: str) -> int:
        counted.append(token_id)
        return open_lanes[token_id]

    lanes = TokenLanes(10, clock, count)

    def park(token_id: str) -> bool:
        taken = lanes.take(token_id)
        open_lanes[token_id] += taken
        return taken

    assert [park("t1") for _ in range(12)] == [True] * 10 + [False] * 2
    assert [park("t2") for _ in range(6)] == [True] * 5 + [False]
    assert counted == ["t1", "t2"]
    open_lanes["t1"] = 3
    assert not park("t1")
    clock.now += 1
    assert [park("t1") for _ in range(8)] == [True] * 7 + [False]
    assert counted == ["t1", "t2", "t1"]
