"""portway.engine.engine_thread: an engine's start, its end, and what is submitted around them."""

import asyncio
import sys
from collections.abc import Iterator

import pytest
from portway.engine import engine_thread as module
from portway.engine.engine import Engine
from portway.engine.engine_thread import EngineThread, running_engine, stop_engine
from portway.engine.held_tunnel import HeldTunnel
from portway.engine.tunnel_handle import TunnelHandle
from portway.errors import RemoteError
from portway.forwarding import Arguments
from portway.tunnel import TunnelRequest
from portway_testkit.processes.descriptors import no_more_descriptors
from portway_testkit.processes.threads import no_more_threads
from portway_testkit.waiting import PATIENCE

pytestmark = pytest.mark.shares_sockets  # a loop's own pair of sockets


async def nothing(tunnels: Engine) -> int:
    return tunnels.status().tunnels


@pytest.fixture(autouse=True)
def whole_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """An end is waited for as long as it takes."""
    monkeypatch.setattr(module, "EXIT_TIMEOUT", PATIENCE)
    monkeypatch.setattr(module, "STATUS_TIMEOUT", PATIENCE)


@pytest.fixture
def engine() -> Iterator[EngineThread]:
    engine = EngineThread()
    yield engine
    engine.stop()


@pytest.fixture
def request_of_8000() -> TunnelRequest:
    return Arguments(
        8000, False, False, None, 10, "127.0.0.1:1", "pw_id_secret", "", None, "latency", None, "", None, None
    ).checked()


def test_calls_run_on_its_loop(engine: EngineThread) -> None:
    """Their results come back."""
    assert engine.alive
    assert engine.submit(nothing).result(PATIENCE) == 0
    status = engine.status()
    assert (status.tunnels, status.attached, status.trouble) == (0, True, "")


def test_after_its_end_it_takes_no_calls(engine: EngineThread) -> None:
    """The error says what to do, and stopping again does nothing."""
    engine.stop()
    engine.stop()
    assert not engine.alive
    with pytest.raises(RemoteError, match="open the tunnel again"):
        engine.submit(nothing)


def test_an_engine_that_has_ended_has_no_tunnel_to_close(engine: EngineThread, request_of_8000: TunnelRequest) -> None:
    """Closing one, and giving one up, do nothing."""
    engine.stop()
    assert engine.release(HeldTunnel(request_of_8000, lambda _: None)) is None
    engine.withdraw(request_of_8000)


def test_what_was_submitted_before_the_end_never_waits_for_ever(engine: EngineThread) -> None:
    """It is cancelled, and who waits is told."""

    async def wait(tunnels: Engine) -> None:
        await asyncio.Event().wait()

    waiting = [engine.submit(wait) for _ in range(20)]
    engine.stop()
    assert all(future.cancelled() for future in waiting)


def test_an_engine_that_cannot_start_says_why(
    monkeypatch: pytest.MonkeyPatch, request_of_8000: TunnelRequest, caplog: pytest.LogCaptureFixture
) -> None:
    """And is no longer the process's engine."""
    monkeypatch.setenv("PORTWAY_CARRIER", "steam")
    engine = EngineThread()
    assert not engine.alive
    with pytest.raises(RemoteError, match=r"could not start: .*steam"):
        TunnelHandle(engine, request_of_8000)
    assert "ended early" in caplog.text


def test_no_engine_is_started_without_descriptors(request_of_8000: TunnelRequest) -> None:
    """Its loop would end the process."""
    with no_more_descriptors():
        engine = EngineThread()
    with pytest.raises(RemoteError, match=r"could not start: .*Too many open files"):
        TunnelHandle(engine, request_of_8000)


def test_no_engine_without_a_thread() -> None:
    """The error says what to raise; one that runs is not affected, and a later call starts one."""
    with no_more_threads(), pytest.raises(RemoteError, match=r"could not start: can't start new thread: raise the"):
        running_engine()
    engine = running_engine()
    with no_more_threads():
        assert running_engine() is engine
        assert engine.submit(nothing).result(PATIENCE) == 0
    stop_engine()


def test_no_engine_while_the_program_ends() -> None:
    """The interpreter starts no thread any more then."""
    with no_more_threads("can't create new thread at interpreter shutdown"):
        with pytest.raises(RemoteError, match="could not start: this program is ending"):
            running_engine()


def test_a_process_has_one_and_another_after_its_end() -> None:
    """Asked for again and again."""
    first = running_engine()
    assert running_engine() is first
    stop_engine()
    second = running_engine()
    assert second is not first
    assert second.alive
    stop_engine()


def test_an_internal_failure_ends_it(engine: EngineThread) -> None:
    """Nothing dies silently: a background task that ends early ends the engine, and the next tunnel gets another."""

    async def fail() -> None:
        raise ZeroDivisionError

    async def begin(tunnels: Engine) -> None:
        tunnels._tasks.spawn(fail(), name="fails")

    engine.submit(begin).result(PATIENCE)
    assert engine._ended.wait(PATIENCE)
    assert not engine.alive
    with pytest.raises(RemoteError):
        engine.submit(nothing)


class RefusingPolicy(asyncio.DefaultEventLoopPolicy):
    """A graphical toolkit's: it gives no loop to a thread, in any way."""

    def get_event_loop(self) -> asyncio.AbstractEventLoop:
        raise RuntimeError("the loop is the main thread's alone")

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        raise RuntimeError("the loop is the main thread's alone")

    def set_event_loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        raise RuntimeError("the loop is the main thread's alone")


@pytest.mark.parametrize("uvloop_installed", [True, False])
def test_it_owes_nothing_to_the_program_s_policy(monkeypatch: pytest.MonkeyPatch, uvloop_installed: bool) -> None:
    """On either loop: it is made directly."""
    if not uvloop_installed:
        monkeypatch.setitem(sys.modules, "uvloop", None)
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(RefusingPolicy())
    try:
        engine = EngineThread()
        assert engine.submit(nothing).result(PATIENCE) == 0
        engine.stop()
    finally:
        asyncio.set_event_loop_policy(before)
