"""A program that `up` runs as a process of its own: its start, that it is ready, its log lines, its end.

The program tells that it is ready as it tells a service manager, by sd_notify(3). Its log lines are written as they
are, and the last ones are kept for the reason of its end. It gets SIGTERM when this process dies. Here: one process.
Not here: which there are, and in which order they start and stop (up.py).
"""

import asyncio
import contextlib
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from portway_runtime.tasks import Tasks

from portway_server.errors import ChildEnded, SetupRefused

_NOTIFY_SOCKET: Final = "NOTIFY_SOCKET"
_LARGEST: Final = 4096
_SO_PASSCRED: Final = 16
_SCM_CREDENTIALS: Final = 2
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid
_LINES_KEPT: Final = 20
_LONGEST_LINE: Final = 1 << 16
_LAST_LINES_WITHIN: Final = 2.0
_LAST_WORDS: Final = re.compile(r"\b(?:CRITICAL|ERROR) +[\w.]+: (.*)")  # in a log of text
_BAD: Final = ("critical", "error")  # levels in a log of JSON


def command_as(user: str | None, program: Sequence[str], capability: str | None = None) -> list[str]:
    """The command that runs a program as a user, with at most one capability; as this process's user if None. It gets
    SIGTERM when this process dies.

    Raises SetupRefused where the user cannot be changed.
    """
    setpriv = shutil.which("setpriv")
    if user is None:
        return [setpriv, "--pdeathsig", "TERM", *program] if setpriv else [*program]
    if os.geteuid() != 0:
        raise SetupRefused(f"not run as root: {program[0]} is to run as user {user} (registry_user, relay_user)")
    if setpriv is None:
        raise SetupRefused(f"{program[0]} cannot be run as user {user}: setpriv is missing (Debian: util-linux)")
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise SetupRefused(
            f"there is no user {user} (registry_user, relay_user) for {program[0]}: make it, or leave the setting out"
        ) from None
    allowed = f"-all,+{capability}" if capability else "-all"
    return [
        setpriv,
        *("--reuid", str(account.pw_uid), "--regid", str(account.pw_gid), "--init-groups"),
        *(f"--inh-caps={allowed}", f"--ambient-caps={allowed}", f"--bounding-set={allowed}"),
        *("--no-new-privs", "--pdeathsig", "TERM"),
        *program,
    ]


class Child:
    """One process. `start` it once."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        log: int,
        on_end: Callable[[ChildEnded], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """
        name: as the errors call it.
        log: the descriptor that its log lines are written to; the caller's.
        on_end: called when it ended and was not told to, once.
        """
        self.name = name
        self._command = command
        self._environment = environment
        self._log = log
        self._on_end = on_end
        self._tasks = Tasks(name, on_failure)
        self._ready = asyncio.Event()
        self._ended = asyncio.Event()
        self._stopping = False
        self._process: asyncio.subprocess.Process | None = None
        self._last: deque[str] = deque(maxlen=_LINES_KEPT)
        self._failure: ChildEnded | None = None

    @property
    def is_ready(self) -> bool:
        """It serves."""
        return self._ready.is_set() and not self._ended.is_set()

    async def start(self) -> None:
        """Start the process, and return. Raises SetupRefused if the program cannot be run."""
        told, address = _notify_socket()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env={**self._environment, _NOTIFY_SOCKET: address},
                limit=_LONGEST_LINE,
                start_new_session=True,  # Ctrl-C is for `up`, which stops it in order
            )
        except OSError as error:
            told.close()
            raise SetupRefused(f"{self._command[0]} cannot be run: {error.strerror}") from error
        loop = asyncio.get_running_loop()
        loop.add_reader(told, self._heard, told, self._process.pid)
        self._tasks.spawn(self._watch(told), name="watch it")

    async def serves(self) -> None:
        """Return once it is ready. Raises ChildEnded if it ends before."""
        waiting = [asyncio.ensure_future(event.wait()) for event in (self._ready, self._ended)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waiting:
                one.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        if self._ended.is_set():
            raise self._failure or ChildEnded(self.name, 0, "")

    def reload(self) -> None:
        """Have it read its files again; one that is not ready yet reads them anyway."""
        if self.is_ready:
            self._send(signal.SIGHUP)

    async def stop(self) -> None:
        """Have it stop in order, and wait for its end, which may take its grace period. May be called again."""
        self._stopping = True
        if self._process is not None:
            self._send(signal.SIGTERM)
            await self._ended.wait()
        await self._tasks.close()

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None and not self._ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _heard(self, told: socket.socket, pid: int) -> None:
        """Read what the process tells; others are not believed."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data, ancillary, _, _ = told.recvmsg(_LARGEST, socket.CMSG_SPACE(_CREDENTIALS.size))
                senders = [
                    _CREDENTIALS.unpack(content[: _CREDENTIALS.size])[0]
                    for level, kind, content in ancillary
                    if (level, kind) == (socket.SOL_SOCKET, _SCM_CREDENTIALS)
                ]
                if senders == [pid] and b"READY=1" in data.splitlines():
                    self._ready.set()

    async def _watch(self, told: socket.socket) -> None:
        """Write its log lines until it ends, then tell that."""
        assert self._process is not None
        assert self._process.stderr is not None
        passing = self._tasks.spawn(self._pass_on(self._process.stderr), name="pass its log lines on")
        try:
            code = await self._process.wait()
            # What it has started may hold its standard error for longer.
            await asyncio.wait([passing], timeout=_LAST_LINES_WITHIN)
        finally:
            asyncio.get_running_loop().remove_reader(told)
            told.close()
        if not self._stopping:
            self._failure = ChildEnded(self.name, code, self._reason())
        self._ended.set()
        if self._failure is not None:
            self._on_end(self._failure)

    async def _pass_on(self, lines: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await lines.readuntil(b"\n")
            except asyncio.IncompleteReadError as end:
                line = end.partial
            except asyncio.LimitOverrunError as error:
                line = await lines.readexactly(error.consumed)
            if not line:
                return
            self._last.append(line.decode(errors="replace").rstrip())
            with contextlib.suppress(OSError):  # a full disk, a pipe without a reader
                os.write(self._log, line)

    def _reason(self) -> str:
        """Its last words, if it has said why it ends."""
        for line in reversed(self._last):
            if words := _last_words(line):
                return words.removeprefix(f"{self.name}: ")
        return self._last[-1] if self._last else ""


def _last_words(line: str) -> str:
    """What a line of a log says, if it is an error."""
    if not line.startswith("{"):
        found = _LAST_WORDS.search(line)
        return found[1] if found else ""
    try:
        fields = json.loads(line)
    except ValueError:
        return ""
    return str(fields.get("event", "")) if fields.get("level") in _BAD else ""


def _notify_socket() -> tuple[socket.socket, str]:
    """A socket of an abstract name, which needs no file that another user could write, and its address. The kernel
    says which process sent what."""
    address = f"portway-server-{os.getpid()}-{secrets.token_hex(8)}"
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.setblocking(False)
    told.setsockopt(socket.SOL_SOCKET, _SO_PASSCRED, 1)
    told.bind(f"\0{address}")
    return told, f"@{address}"
