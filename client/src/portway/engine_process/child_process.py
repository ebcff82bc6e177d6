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
# Seconds. The imports take a tenth of one; a slow disk needs some more.
START_WITHIN: Final = 30


class ChildProcess:
    """The child of one start."""

    def __init__(self) -> None:
        """Start it; does not wait until it is ready. Raises InvalidError where no interpreter can be started,
        RemoteError when the system does not start one."""
        executable = _executable()
        self._circumstances: Message | None = None  # what it was told last
        self._ended = False
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

    def circumstances(self) -> Message:
        """What has changed of this process's environment and current folder since the last call: the child is to see
        what an engine in this process would."""
        now: Message = {"environment": dict(os.environ)}
        with suppress(OSError):  # the folder is gone
            now["folder"] = os.getcwd()  # noqa: PTH109 - importing pathlib takes 4 ms
        before, self._circumstances = self._circumstances or {}, now
        return {name: value for name, value in now.items() if before.get(name) != value}

    def kill(self) -> None:
        """It is stuck. Does nothing once it was waited for."""
        if not self._ended:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> str:
        """The channel has ended: leave no zombie. Returns how it ended, for people: "was killed (SIGKILL)"."""
        try:
            pid, status = posix.waitpid(self.pid, os.WNOHANG)
            if not pid:
                self.kill()
                _, status = posix.waitpid(self.pid, 0)
        except ChildProcessError:
            return "has ended"  # the program waits for all its children, or ignores SIGCHLD
        finally:
            self._ended = True
            self.channel.close()
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            return f"ended with exit code {code}"
        with suppress(ValueError):
            name = signal.Signals(-code).name
            return f"was killed ({name}{', perhaps for want of memory' if -code == signal.SIGKILL else ''})"
        return f"was killed (signal {-code})"


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
    return [os.path.abspath(path) for path in sys.path if isinstance(path, str)]  # noqa: PTH100 - see above


def _environment() -> dict[str, str]:
    """PYTHON… variables are for the program (PYTHONINSPECT, PYTHONWARNINGS), but for where Python itself is."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON") or name == "PYTHONHOME"}


def _not_started(error: OSError) -> RemoteError:
    advice = _ADVICE.get(error.errno or 0, "")
    return RemoteError(f"Portway's process could not start: {error.strerror or error}{advice}")
