"""portway.fork_guard: what a fork waits for."""

import threading

import pytest
from portway import fork_guard as module
from portway.fork_guard import ForkGuard
from portway_testkit.waiting import PATIENCE

NEVER = 3600.0


@pytest.fixture(autouse=True)
def no_end_of_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork waits for who is inside, however long that takes here."""
    monkeypatch.setattr(module, "MAX_WAIT", NEVER)


def test_a_fork_waits_until_nobody_is_inside() -> None:
    """Two inside at once: both must have left."""
    fork_guard = ForkGuard()
    inside = threading.Barrier(3)
    may_leave = [threading.Event(), threading.Event()]
    left: list[int] = []

    def be_inside(number: int) -> None:
        with fork_guard:
            inside.wait()
            may_leave[number].wait()
            left.append(number)

    threads = [threading.Thread(target=be_inside, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    inside.wait()
    forks: list[list[int]] = []

    def fork() -> None:
        fork_guard.before_fork()
        forks.append(list(left))
        fork_guard.after_fork()

    forking = threading.Thread(target=fork)
    forking.start()
    may_leave[0].set()
    threads[0].join()
    assert forks == []
    may_leave[1].set()
    threads[1].join()
    forking.join()
    assert forks == [[0, 1]]


def test_nobody_gets_in_while_a_fork_goes_on() -> None:
    """Who comes waits for its end."""
    fork_guard = ForkGuard()
    fork_guard.before_fork()
    came = threading.Event()

    def come() -> None:
        with fork_guard:
            came.set()

    coming = threading.Thread(target=come)
    coming.start()
    assert not came.is_set()
    fork_guard.after_fork()
    assert came.wait(PATIENCE)
    coming.join()


def test_a_child_begins_as_new() -> None:
    """Who was inside in the parent, when the fork would wait no longer, is not there."""
    fork_guard = ForkGuard()
    with fork_guard:
        pass
    fork_guard.__enter__()
    fork_guard.after_fork_in_child()
    fork_guard.before_fork()  # would wait
    fork_guard.after_fork()


def test_hooks_run_around_a_fork() -> None:
    """The first one when no thread is inside any more, the others after the fork, in the parent or in the child."""
    fork_guard = ForkGuard()
    calls: list[str] = []
    fork_guard.register(
        before=lambda: calls.append("before"),
        after_in_parent=lambda: calls.append("parent"),
        after_in_child=lambda: calls.append("child"),
    )
    with fork_guard:
        forking = threading.Thread(target=fork_guard.before_fork)
        forking.start()
        calls.append("inside")
    forking.join()
    fork_guard.after_fork()
    assert calls == ["inside", "before", "parent"]
    fork_guard.after_fork_in_child()
    assert calls == ["inside", "before", "parent", "child"]
