"""A program that `up` runs: when it is ready, its log lines, its end."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

import pytest
from portway_server.child import Child, command_as
from portway_server.errors import ChildEnded, SetupRefused

READY = """
import os, socket, sys
def tell(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(text.encode(), "\\0" + os.environ["NOTIFY_SOCKET"][1:])
"""
WAIT = "\nimport signal\nsignal.pause()\n"


class Stage:
    """A child and what was heard of it."""

    def __init__(self, log: IO[bytes]) -> None:
        self.log = log
        self.ends: list[ChildEnded] = []
        self._ended = asyncio.Event()
        self.made: list[Child] = []

    def child(self, program: str) -> Child:
        command = command_as(None, [sys.executable, "-c", program])
        made = Child(
            "portway-try",
            command,
            os.environ,
            log=self.log.fileno(),
            on_end=self._end,
            on_failure=lambda error: pytest.fail(repr(error)),
        )
        self.made.append(made)
        return made

    def _end(self, end: ChildEnded) -> None:
        self.ends.append(end)
        self._ended.set()

    async def end(self) -> ChildEnded:
        """What was told of its end, once it is."""
        async with asyncio.timeout(30):
            await self._ended.wait()
        return self.ends[0]

    def logged(self) -> str:
        return Path(self.log.name).read_text()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    with (tmp_path / "log").open("wb") as log:
        made = Stage(log)
        yield made
        for one in made.made:
            await one.stop()


async def test_it_is_ready_when_it_says_so(stage: Stage) -> None:
    """As it says it to systemd; what else it says is not that."""
    child = stage.child(f"{READY}tell('STATUS=begins'); tell('READY=1'){WAIT}")
    await child.start()
    await child.serves()
    assert child.is_ready
    await child.stop()
    assert not child.is_ready
    assert stage.ends == []


async def test_another_process_s_word_is_not_taken(stage: Stage) -> None:
    """The address is known to the child's own children, of another user perhaps."""
    child = stage.child(
        f"{READY}\nif os.fork() == 0:\n    tell('READY=1')\n    os._exit(0)\nos.wait()\nsys.stderr.write('forked\\n')"
        f"\nsys.stderr.flush()\nsys.exit(1)"
    )
    await child.start()
    with pytest.raises(ChildEnded):
        await child.serves()
    assert not child.is_ready


async def test_its_end_is_told_with_its_last_words(stage: Stage) -> None:
    """The last error of its log, without time, level and logger. All lines are in the log."""
    lines = [
        "2026-11-30 03:46:36,103 INFO    portway_relay.node: begins",
        "2026-11-30 03:46:36,104 CRITICAL portway_runtime.run: portway-try: cannot listen on [::]:443: address in use",
        "2026-11-30 03:46:36,105 INFO    portway_relay.node: stopped",
    ]
    child = stage.child(f"import sys\nfor line in {lines!r}: print(line, file=sys.stderr)\nsys.exit(2)")
    await child.start()
    with pytest.raises(ChildEnded, match=r"portway-try ended with exit code 2: cannot listen on \[::\]:443") as ended:
        await child.serves()
    assert ended.value.code == 2
    assert stage.logged().splitlines() == lines
    assert [one.code for one in stage.ends] == [2]


async def test_the_reason_is_found_in_a_log_of_json(stage: Stage) -> None:
    line = '{"time": "x", "level": "critical", "logger": "run", "event": "portway-try: no \\"file\\""}'
    child = stage.child(f"import sys\nprint({line!r}, file=sys.stderr)\nsys.exit(2)")
    await child.start()
    with pytest.raises(ChildEnded, match='exit code 2: no "file"'):
        await child.serves()


async def test_a_signal_that_ended_it_is_named(stage: Stage) -> None:
    child = stage.child(f"{READY}import signal; os.kill(os.getpid(), signal.SIGKILL)")
    await child.start()
    with pytest.raises(ChildEnded, match="ended by signal 9"):
        await child.serves()


async def test_it_is_reloaded_once_it_is_ready(stage: Stage) -> None:
    """Before, the signal would end it: it reads its files at its start anyway."""
    # It blocks the signal and waits for it: one that comes just before signal.pause() would not end the pause.
    child = stage.child(
        f"{READY}import signal\nhangup = [signal.SIGHUP]\nsignal.pthread_sigmask(signal.SIG_BLOCK, hangup)\n"
        "tell('READY=1')\nsignal.sigwait(hangup)\nsys.exit(7)"
    )
    await child.start()
    child.reload()
    await child.serves()
    child.reload()
    assert (await stage.end()).code == 7


async def test_a_line_without_an_end_and_one_that_is_too_long_are_passed_on(stage: Stage) -> None:
    child = stage.child("import sys\nsys.stderr.write('x' * 200_000 + '\\nlast')\nsys.exit(1)")
    await child.start()
    with pytest.raises(ChildEnded, match="last"):
        await child.serves()
    assert stage.logged() == "x" * 200_000 + "\nlast"


async def test_a_program_that_is_not_there(stage: Stage) -> None:
    child = Child("none", ["/nowhere"], {}, log=2, on_end=stage.ends.append, on_failure=lambda _: None)
    with pytest.raises(SetupRefused, match="/nowhere cannot be run"):
        await child.start()


def test_a_user_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(SetupRefused, match="no user portway-nobody"):
        command_as("portway-nobody", ["portway-relay"])


def test_users_of_their_own_need_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SetupRefused, match="not run as root"):
        command_as("daemon", ["portway-relay"])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_another_user_s_program_has_one_capability_and_no_other() -> None:
    """As /proc shows the process itself; also what it may get later."""
    program = ["grep", "-E", "^(Uid|NoNewPrivs|Cap)", "/proc/self/status"]
    for capability, mask in (("net_bind_service", 1 << 10), (None, 0)):
        done = subprocess.run(command_as("daemon", program, capability), capture_output=True, text=True, check=True)
        found = dict(line.split(":\t", 1) for line in done.stdout.splitlines())
        assert found["NoNewPrivs"] == "1"
        assert found["Uid"].split() == ["1"] * 4
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(found[name], 16) == mask, name
