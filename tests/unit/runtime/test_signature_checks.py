"""Signatures are checked off the loop, in order, and nothing is left of those that nobody waits for."""

import asyncio
import threading

import pytest
from portway_runtime.errors import NoThread
from portway_runtime.signature_checks import SignatureChecks
from portway_testkit.processes.threads import no_more_threads


class Fake:
    """A statement that is genuine or not, and notes the thread that checked it."""

    def __init__(self, genuine: bool = True) -> None:
        self.genuine = genuine
        self.checked_on = ""

    def is_genuine(self) -> bool:
        self.checked_on = threading.current_thread().name
        return self.genuine


async def test_each_gets_its_own_answer_off_the_loop() -> None:
    """Several hundred at once, in more than one turn of the thread."""
    checks = SignatureChecks()
    asked = [Fake(number % 3 > 0) for number in range(300)]
    answers = await asyncio.gather(*map(checks.check, asked))
    assert answers == [one.genuine for one in asked]
    assert {one.checked_on for one in asked} == {"portway signatures_0"}
    assert not len(checks)
    checks.close()


async def test_one_that_cannot_be_checked_keeps_no_other_waiting(caplog: pytest.LogCaptureFixture) -> None:
    """It counts as forged; those of the same turn and of later ones are checked."""

    class Broken(Fake):
        def is_genuine(self) -> bool:
            raise OverflowError("a number that nobody thought of")

    checks = SignatureChecks()
    answers = await asyncio.gather(*map(checks.check, [Fake(), Broken(), Fake()]))
    assert answers == [True, False, True]
    assert "a number that nobody thought of" in caplog.text
    assert await checks.check(Fake())
    checks.close()


async def test_one_that_is_cancelled_keeps_no_other_waiting() -> None:
    """Also when all of a turn are cancelled."""
    checks = SignatureChecks()
    given_up = [checks.check(Fake()) for _ in range(200)]
    for one in given_up:
        one.cancel()
    assert await checks.check(Fake())
    checks.close()


async def test_many_of_one_sender_keep_no_other_waiting() -> None:
    """Whoever comes later with one has its answer after one turn of the thread; each sender's own are in order."""
    checks, answered = SignatureChecks(), list[asyncio.Future[bool]]()
    many = [checks.check(Fake(), "many") for _ in range(1_000)]
    one = checks.check(Fake(), "one")
    for each in (*many, one):
        each.add_done_callback(answered.append)
    await asyncio.gather(*many, one)
    assert answered.index(one) <= 1
    answered.remove(one)
    assert answered == many
    assert not len(checks)
    checks.close()


async def test_close_cancels_what_waits() -> None:
    """A check that has not begun is cancelled, and nothing keeps the process from ending."""
    checks = SignatureChecks()
    waiting = checks.check(Fake())
    checks.close()
    assert waiting.cancelled()


async def test_its_thread_is_there_from_the_start() -> None:
    """So that checks go on when the process can start no other; without it there are none."""
    checks = SignatureChecks()
    with no_more_threads():
        assert await checks.check(Fake())
        with pytest.raises(NoThread):
            SignatureChecks()
    checks.close()
