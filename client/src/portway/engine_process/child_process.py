"""ChildProcess: a fresh interpreter with an engine, and the channel to it. Its start, its end, and why it ended.

It is started by posix_spawn: nothing of this process runs in it, neither the program's main module nor a copy of its
memory, and no fork has to wait for other threads. It finds modules where this program does. It gets no descriptor but
the channel's, and no signal of a terminal. It ends when the channel does, however this process ends.

PR_SET_PDEATHSIG is not used: it counts the end of the thread that started the child, which may be long before.
"""

import _socket
import errno
import os
import posix  # gevent replaces os.waitpid by one that waits on its own loop
import signal
import sys
from contextlib import suppress
from typing import Final

from portway_runtime.clocks import Monotonic, monotonic
from portway_runtime.os_threads import Event, make_lock

from portway.engine_process.channel import Channel, Message
from portway.errors import InvalidError, RemoteError

_BOOTSTRAP: Final = (
    "import sys; sys.path[:] = sys.argv[1:]; from portway.engine_process.child import main; sys.exit(main())"
)
_INTERPRETERS: Final = ("python", "pypy")
_ADVICE: Final = {
    errno.EAGAIN: " (raise the limit of processes: ulimit -u, TasksMax=, the container's limit of pids)",
    errno.EMFILE: " (raise this process's limit: ulimit -n)",
}
# Seconds. An interpreter and its imports take 0.2; a slow disk needs some more.
START_WITHIN: Final = 30
# Seconds between the end of its channel and its own: an interpreter takes some hundredths to end.
EXIT_WITHIN: Final = 1.0
_LOOK_AGAIN: Final = 0.005


class ChildProcess:
    """The child of one start."""

    def __init__(self, clock: Monotonic = monotonic) -> None:
        """Start it; does not wait until it is ready. Raises InvalidError where no interpreter can be started,
        RemoteError when the system does not start one."""
        executable = _executable()
        self._circumstances: Message | None = None  # what it was told last
        self._clock = clock
        self._lock = make_lock()  # for the three below: a number that was waited for may be another process's
        self._ended = False
        self._killed = False  # by this program
        self._pidfd: int | None = None
        self.ready = False  # until it says so
        try:
            mine, theirs = _socket.socketpair()
        except OSError as error:
            raise _not_started(error) from None
        self.channel = Channel(mine.detach())
        self.channel.set_patience(START_WITHIN)
        try:
            self.pid = os.posix_spawn(
                executable,
                [executable, *_flags(), "-c", _BOOTSTRAP, *_module_paths()],
                _environment(),
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                ],
                setsigmask=signal.valid_signals(),  # until it has a session of its own
            )
        except BaseException as error:
            self.channel.close()
            if isinstance(error, OSError):
                raise _not_started(error) from None
            raise
        finally:
            theirs.close()
        self._pidfd = _open_pidfd(self.pid)

    def circumstances(self) -> Message:
        """What has changed of this process's environment and current folder since the last call: the child is to see
        what an engine in this process would."""
        now: Message = {"environment": dict(os.environ)}
        with suppress(OSError):  # the folder is gone
            now["folder"] = os.getcwd()  # noqa: PTH109 - importing pathlib takes 4 ms
        before, self._circumstances = self._circumstances or {}, now
        return {name: value for name, value in now.items() if before.get(name) != value}

    def abandon(self) -> None:
        """In a forked process: close its descriptors of the child, and touch nothing else."""
        self.channel.close()
        if self._pidfd is not None:
            os.close(self._pidfd)

    def kill(self) -> None:
        """It is stuck. Does nothing once it has ended and was waited for, by this program's own code, too."""
        with self._lock:
            if self._ended:
                return
            self._killed = True
            with suppress(ProcessLookupError):
                if self._pidfd is not None:
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                else:
                    os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> str:
        """The channel has ended: leave no zombie. It has EXIT_WITHIN to end by itself. Returns how it ended, for
        people: "was killed (SIGKILL)"."""
        until, never = self._clock() + EXIT_WITHIN, Event()
        try:
            while (code := self._exit_code()) is None:
                if not self._killed and self._clock() >= until:
                    self.kill()
                never.wait(_LOOK_AGAIN)
        except ChildProcessError:
            return "has ended"  # the program waits for all its children, or ignores SIGCHLD
        finally:
            self.channel.close()
        if code >= 0:
            return f"ended with exit code {code}"
        memory = ", perhaps for want of memory" if -code == signal.SIGKILL and not self._killed else ""
        with suppress(ValueError):
            return f"was killed ({signal.Signals(-code).name}{memory})"
        return f"was killed (signal {-code})"

    def _exit_code(self) -> int | None:
        """Negative: the signal that killed it. None: it runs. Raises ChildProcessError when somebody else waited for
        it."""
        with self._lock:
            code: int | None = None
            gone = True
            try:
                if self._pidfd is not None:
                    result = posix.waitid(posix.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
                    gone = result is not None
                    if result is not None:
                        code = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
                else:
                    pid, status = posix.waitpid(self.pid, os.WNOHANG)
                    gone = bool(pid)
                    code = os.waitstatus_to_exitcode(status) if pid else None
            finally:
                self._ended = gone
                if gone and self._pidfd is not None:
                    descriptor, self._pidfd = self._pidfd, None
                    os.close(descriptor)
            return code


def _open_pidfd(pid: int) -> int | None:
    """A descriptor that names this process for ever, also when the program has waited for it and its number is another
    process's. None where there is none: macOS, old kernels, no further descriptor."""
    if not hasattr(os, "pidfd_open") or not hasattr(posix, "P_PIDFD"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _executable() -> str:
    """The interpreter of this program. Raises InvalidError when it has none that can be started."""
    name = os.path.basename(sys.executable or "").lower()  # noqa: PTH119 - importing pathlib takes 4 ms
    if getattr(sys, "frozen", False) or not name.startswith(_INTERPRETERS):
        raise InvalidError(
            f"process=True starts a Python interpreter, and this program has none (sys.executable is "
            f"{sys.executable!r}): leave process=True and PORTWAY_PROCESS out, or run `portway forward` beside it"
        )
    return sys.executable


def _flags() -> list[str]:
    """Those of this interpreter that decide what is imported and where bytecode is written. The user's site folder is
    left out: where it counts it is in sys.path."""
    flags = ["-s", "-P"]
    for letter, is_set in (
        ("-E", sys.flags.ignore_environment),
        ("-S", sys.flags.no_site),
        ("-B", sys.dont_write_bytecode),
    ):
        if is_set:
            flags.append(letter)
    if sys.pycache_prefix is not None:
        flags += ["-X", f"pycache_prefix={sys.pycache_prefix}"]
    if sys.flags.utf8_mode:
        flags += ["-X", "utf8"]
    return flags


def _module_paths() -> list[str]:
    """sys.path, with whole paths: the child's current folder is not what counted when they were made."""
    paths = []
    for path in sys.path:
        if isinstance(path, str):
            with suppress(OSError):  # the current folder is gone, and nothing can be imported from below it
                paths.append(os.path.abspath(path))  # noqa: PTH100 - see above
    return paths


def _environment() -> dict[str, str]:
    """PYTHON… variables are for the program (PYTHONINSPECT, PYTHONWARNINGS), but for where Python itself is."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON") or name == "PYTHONHOME"}


def _not_started(error: OSError) -> RemoteError:
    advice = _ADVICE.get(error.errno or 0, "")
    return RemoteError(f"Portway's process could not start: {error.strerror or error}{advice}")
