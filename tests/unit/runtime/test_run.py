"""A server's life as a process: started, ready, stopped by a signal or by a part that failed."""

import asyncio
import gc
import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from portway_runtime.run import FAILED, STOPPED, OnFailure, serve
from portway_testkit.links.carrier_link import until
from portway_testkit.processes.service_manager import FakeServiceManager


class FakeServer:
    """Starts when the test lets it."""

    def __init__(self, on_failure: OnFailure) -> None:
        self.fail = on_failure
        self.calls: list[str] = []
        self.may_start = asyncio.Event()
        self.start_error: Exception | None = None
        self.unwilling = False  # its start ends with another error when it is cancelled

    async def start(self) -> None:
        self.calls.append("start")
        try:
            await self.may_start.wait()
        except asyncio.CancelledError:
            self.calls.append("start cancelled")
            if self.unwilling:
                raise OSError("it broke while it was given up") from None
            raise
        if self.start_error is not None:
            raise self.start_error
        self.calls.append("started")

    async def stop(self) -> None:
        self.calls.append("stop")


class Served:
    """A server that is being run."""

    def __init__(self, ready_file: Path | None, on_hangup: Callable[[], None]) -> None:
        self.made: list[FakeServer] = []
        self.code = asyncio.ensure_future(
            serve(
                self._make,
                ready_file=ready_file,
                addresses=lambda server: {"listen": "127.0.0.1:1", "admin_listen": None},
                on_hangup=lambda server: on_hangup(),
                exit_codes={KeyError: 7},
            )
        )

    def _make(self, on_failure: OnFailure) -> FakeServer:
        self.made.append(FakeServer(on_failure))
        return self.made[-1]

    async def server(self) -> FakeServer:
        await until(lambda: bool(self.made and self.made[0].calls))
        return self.made[0]

    async def started(self) -> FakeServer:
        server = await self.server()
        server.may_start.set()
        await until(lambda: "started" in server.calls)
        return server


@pytest.fixture
async def run() -> Callable[..., Served]:
    def run(ready_file: Path | None = None, on_hangup: Callable[[], None] = lambda: None) -> Served:
        return Served(ready_file, on_hangup)

    return run


Run = Callable[..., Served]


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_it_in_order(run: Run, number: int) -> None:
    """With the code of a server that was asked to stop; a second signal is none too many."""
    served = run()
    server = await served.started()
    os.kill(os.getpid(), number)
    os.kill(os.getpid(), number)
    assert await served.code == STOPPED
    assert server.calls == ["start", "started", "stop"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


async def test_while_it_serves_the_collector_runs_rarely(run: Run) -> None:
    """What it is made of is not looked at; afterwards the process has its own thresholds again."""
    before, set_apart = gc.get_threshold(), gc.get_freeze_count()
    served = run()
    server = await served.started()
    await until(lambda: gc.get_threshold() != before)
    assert gc.get_threshold()[0] >= 10_000
    assert gc.get_freeze_count() >= set_apart
    server.fail(RuntimeError("a part"))
    await served.code
    assert gc.get_threshold() == before


async def test_a_part_that_fails_stops_it(run: Run) -> None:
    """With another code, so that whoever supervises it starts it again."""
    served = run()
    server = await served.started()
    server.fail(RuntimeError("a part"))
    assert await served.code == FAILED
    assert server.calls[-1] == "stop"


@pytest.mark.parametrize("starts", [False, True])
async def test_a_failure_of_a_named_type_has_a_code_of_its_own(run: Run, starts: bool) -> None:
    """For those that are not to be started again, also while it starts."""
    served = run()
    server = await (served.started() if starts else served.server())
    server.fail(KeyError("removed"))
    server.fail(RuntimeError("a later one"))
    assert await served.code == 7
    assert server.calls[-1] == "stop"


async def test_a_signal_while_it_starts_gives_the_start_up(run: Run, tmp_path: Path) -> None:
    """Nothing was ready, and nothing is left."""
    served = run(tmp_path / "ready")
    server = await served.server()
    os.kill(os.getpid(), signal.SIGTERM)
    assert await served.code == STOPPED
    assert server.calls == ["start", "start cancelled", "stop"]
    assert not (tmp_path / "ready").exists()


async def test_a_start_that_breaks_while_it_is_given_up_is_no_other_end(run: Run) -> None:
    """What was asked for is what is told."""
    served = run()
    server = await served.server()
    server.unwilling = True
    os.kill(os.getpid(), signal.SIGTERM)
    assert await served.code == STOPPED
    assert server.calls[-1] == "stop"


async def test_a_part_that_fails_while_it_starts_gives_the_start_up(run: Run) -> None:
    """It does not wait for a registry with half of itself gone."""
    served = run()
    server = await served.server()
    server.fail(RuntimeError("a part"))
    assert await served.code == FAILED
    assert server.calls == ["start", "start cancelled", "stop"]


async def test_a_start_that_fails_says_why(run: Run, tmp_path: Path) -> None:
    """The error is the caller's to tell; no ready file lies about it."""
    served = run(tmp_path / "ready")
    server = await served.server()
    server.start_error = ValueError("no port")
    server.may_start.set()
    with pytest.raises(ValueError, match="no port"):
        await served.code
    assert not (tmp_path / "ready").exists()


async def test_the_ready_file_is_there_while_it_serves(run: Run, tmp_path: Path) -> None:
    """With the addresses that there are; nothing else is left in its folder, neither then nor later."""
    ready = tmp_path / "ready"
    served = run(ready)
    await served.started()
    await until(ready.exists)
    assert json.loads(ready.read_text()) == {"listen": "127.0.0.1:1"}
    assert names_in(tmp_path) == ["ready"]
    os.kill(os.getpid(), signal.SIGTERM)
    assert await served.code == STOPPED
    assert not names_in(tmp_path)


async def test_a_ready_file_that_cannot_be_written_fails_it(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever waits for it would wait for ever: the log names the file, and everything is stopped again."""
    served = run(tmp_path / "absent" / "ready")
    with caplog.at_level(logging.ERROR):
        server = await served.started()
        assert await served.code == FAILED
    assert server.calls[-1] == "stop"
    assert "absent" in caplog.text


async def test_a_ready_file_that_is_gone_already_is_no_failure(run: Run, tmp_path: Path) -> None:
    """Somebody tidied up."""
    ready = tmp_path / "ready"
    served = run(ready)
    await served.started()
    await until(ready.exists)
    ready.unlink()
    os.kill(os.getpid(), signal.SIGTERM)
    assert await served.code == STOPPED


async def test_a_ready_file_that_cannot_be_removed_is_logged(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server stops all the same, with the code it would have had."""
    ready = tmp_path / "ready"
    served = run(ready)
    server = await served.started()
    await until(ready.exists)
    ready.unlink()
    ready.mkdir()
    os.kill(os.getpid(), signal.SIGTERM)
    assert await served.code == STOPPED
    assert server.calls[-1] == "stop"
    assert f"cannot remove the ready file {ready}" in caplog.text


async def test_hangup_is_its_own_call(run: Run) -> None:
    """SIGHUP does not end it."""
    hangups: list[None] = []
    served = run(on_hangup=lambda: hangups.append(None))
    await served.started()
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: bool(hangups))
    assert not served.code.done()
    os.kill(os.getpid(), signal.SIGTERM)
    assert await served.code == STOPPED


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServiceManager]:
    with FakeServiceManager() as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
        yield manager


async def test_the_service_manager_follows_its_life(run: Run, manager: FakeServiceManager, tmp_path: Path) -> None:
    """It is told of readiness with the ready file and no sooner, of a reload from its beginning to its end, and of the
    stop before that begins."""
    told_at_reload: list[list[str]] = []
    told_at_stop: list[str] = []
    served = run(tmp_path / "ready", on_hangup=lambda: told_at_reload.append(manager.states()))
    server = await served.server()
    await asyncio.sleep(0)
    assert manager.states() == []
    server.may_start.set()
    await until((tmp_path / "ready").exists)
    await until(lambda: manager.states() == ["READY=1"])
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: manager.states() == ["READY=1", "RELOADING=1", "READY=1"])
    assert told_at_reload == [["READY=1", "RELOADING=1"]]
    stop = server.stop

    async def watched_stop() -> None:
        told_at_stop.extend(manager.states())
        await stop()

    server.stop = watched_stop  # type: ignore[method-assign]
    os.kill(os.getpid(), signal.SIGTERM)
    assert await served.code == STOPPED
    assert told_at_stop == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"] == manager.states()


async def test_a_reload_while_it_starts_is_no_readiness(run: Run, manager: FakeServiceManager) -> None:
    """Files are read, and the manager still waits; a stop before it was ready is told."""
    hangups: list[None] = []
    served = run(on_hangup=lambda: hangups.append(None))
    await served.server()
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: bool(hangups))
    assert manager.states() == []
    os.kill(os.getpid(), signal.SIGTERM)
    assert await served.code == STOPPED
    assert manager.states() == ["STOPPING=1"]


async def test_a_part_that_fails_is_told_as_a_stop(run: Run, manager: FakeServiceManager) -> None:
    """Its exit code says the rest."""
    served = run()
    server = await served.started()
    await until(lambda: manager.states() == ["READY=1"])
    server.fail(RuntimeError("a part"))
    assert await served.code == FAILED
    assert manager.states() == ["READY=1", "STOPPING=1"]
