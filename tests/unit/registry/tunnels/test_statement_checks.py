"""The pace at which signatures are checked, and whose turn it is."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from portway_proto.wire.statements import Signed, SigningKey
from portway_registry.tunnels import statement_checks
from portway_registry.tunnels.statement_checks import TURN, NodeChecks, StatementChecks

KEY = SigningKey()


def signed(number: int, *, genuine: bool = True) -> Signed:
    message = b"%d" % number
    return Signed(KEY.public, message, KEY.sign(message if genuine else b"else"))


@pytest.fixture
async def checks() -> AsyncIterator[StatementChecks]:
    checks = StatementChecks()
    yield checks
    checks.close()


async def test_each_gets_its_own_answer(checks: StatementChecks) -> None:
    """In order, over several turns."""
    number = 2 * TURN + 1
    asked = [signed(one, genuine=one % 3 != 0) for one in range(number)]
    assert await checks.of_node().genuine(asked) == [one % 3 != 0 for one in range(number)]
    assert await checks.of_node().genuine([]) == []


async def test_what_was_genuine_is_not_checked_again(checks: StatementChecks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this node; what was forged is, and so is the same signature of something else."""
    asked: list[Signed] = []
    take_turn = checks.take_turn

    async def counted(turn: list[Signed]) -> list[bool]:
        asked.extend(turn)
        return await take_turn(turn)

    monkeypatch.setattr(checks, "take_turn", counted)
    node, other = checks.of_node(), checks.of_node()
    good, bad = signed(1), signed(2, genuine=False)
    moved = Signed(KEY.public, b"2", good.signature)
    assert await node.genuine([good, bad]) == [True, False]
    assert await node.genuine([good, bad, moved]) == [True, False, False]
    assert await other.genuine([good]) == [True]
    assert asked == [good, bad, bad, moved, good]


async def test_a_memory_of_one_node_is_its_own_to_fill(
    checks: StatementChecks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a node shows pushes out only what it showed itself."""
    monkeypatch.setattr(statement_checks, "_REMEMBERED", 2)
    node, other = checks.of_node(), checks.of_node()
    kept = signed(0)
    await other.genuine([kept])
    await node.genuine([signed(one) for one in range(5)])
    asked: list[int] = []
    take_turn = checks.take_turn

    async def counted(turn: list[Signed]) -> list[bool]:
        asked.append(len(turn))
        return await take_turn(turn)

    monkeypatch.setattr(checks, "take_turn", counted)
    await other.genuine([kept])
    assert asked == []
    await node.genuine([kept])
    assert asked == [1]


class Elapsed:
    """A clock that `asyncio.sleep` alone moves, and the pauses of each who slept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        monkeypatch.setattr("portway_registry.tunnels.statement_checks.asyncio.sleep", self._sleep)

    def __call__(self) -> float:
        return self.now

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
async def paced(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Elapsed, StatementChecks]]:
    """Checks that cost nothing, by a clock that moves only while somebody waits."""
    elapsed = Elapsed(monkeypatch)
    checks = StatementChecks(elapsed)
    monkeypatch.setattr(Signed, "is_genuine", lambda self: True)
    yield elapsed, checks
    checks.close()


async def test_a_node_has_a_pace(paced: tuple[Elapsed, StatementChecks]) -> None:
    """A thousand tunnels with a session each at once, then 2,000 signatures a second."""
    elapsed, checks = paced
    node = checks.of_node()
    await node.genuine([signed(one) for one in range(3_000)])
    assert elapsed.now == 0
    await node.genuine([signed(one) for one in range(3_000, 7_000)])
    assert elapsed.now == pytest.approx(2.0, abs=0.1)


async def test_all_nodes_together_take_a_third_of_a_core(
    paced: tuple[Elapsed, StatementChecks], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each turn there is a pause of twice its length, whoever comes next."""
    elapsed, checks = paced

    def slow(self: Signed) -> bool:
        elapsed.now += 0.001
        return True

    monkeypatch.setattr(Signed, "is_genuine", slow)
    for first in range(0, 4 * TURN, TURN):
        await checks.of_node().genuine([signed(first + one) for one in range(TURN)])
    took = TURN * 0.001
    assert [pause for pause in elapsed.pauses if pause > 0] == pytest.approx([2 * took] * 3)
    assert elapsed.now == pytest.approx(4 * took + 6 * took)


async def test_nodes_take_turns(checks: StatementChecks) -> None:
    """One with few signatures waits for one turn of a node with many, not for all of them."""
    done: list[str] = []

    async def ask(name: str, node: NodeChecks, number: int) -> None:
        await node.genuine([signed(one) for one in range(number)])
        done.append(name)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ask("many", checks.of_node(), 10 * TURN))
        await asyncio.sleep(0)
        tasks.create_task(ask("few", checks.of_node(), 3))
    assert done == ["few", "many"]
