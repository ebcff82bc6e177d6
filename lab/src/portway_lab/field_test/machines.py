"""Machines that run: bare Debians under systemd, each in a place of an emulated network.

Here: booting, commands in them, switching off. Not here: the Debian (bare_debian.py), the network (cluster/network.py).
"""

import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from portway_lab import bare_debian
from portway_lab.cluster.network import Network
from portway_lab.cluster.processes import Process, Processes, ProcessFailed

# The mount is in a namespace of the machine's own, so that nothing is left of it when the machine is off.
_BOOT: Final = """
set -e
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
exec systemd-nspawn --quiet --boot --register=no --keep-unit --console=pipe --resolv-conf=off --timezone=off \
    --kill-signal=SIGRTMIN+4 --directory="$2/root" --network-namespace-path="$3" --hostname="$4" "${@:5}"
"""
_BOOTS_WITHIN: Final = 120.0  # seconds, on a busy machine
_COMMAND_WITHIN: Final = 180.0
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_INITS: Final = (b"/usr/lib/systemd/systemd", b"/lib/systemd/systemd")
_POLL: Final = 0.1


class CommandFailed(Exception):
    """A command in a machine did not end well; the message holds what it printed."""


class RunningMachine:
    """A machine that was started. `root`: what is different from the bare Debian in it."""

    def __init__(
        self,
        processes: Processes,
        network: Network,
        place: str,
        *,
        resolver: str,
        shown: Mapping[Path, str] | None = None,
    ) -> None:
        """Prepare it; `resolver` is the address that its programs look names up at. `shown`: folders of the host that
        it can read, and where it has them."""
        self.place = place
        self.address = network.address(place)
        self._processes = processes
        self._namespace = Path("/run/netns") / network.namespace(place)
        self._folder = processes.folder / f"machine-{place}"
        self._shown = [f"--bind-ro={folder}:{path}" for folder, path in (shown or {}).items()]
        self.debian = bare_debian.Machine(self._folder)
        self.put_text("/etc/resolv.conf", f"nameserver {resolver}\n")
        self.put_text("/etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {place}\n")
        self.put_text("/etc/hostname", f"{place}\n")
        self.put_text("/etc/machine-id", "")  # the first boot makes one
        self._process: Process | None = None
        self._leader = 0

    @property
    def root(self) -> Path:
        return self._folder / "upper"

    @property
    def runs(self) -> bool:
        return self._process is not None

    def put_text(self, path: str, text: str) -> None:
        """Write a file, before the machine is started."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link, before the machine is started."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(target)

    def bring(self, file: Path, path: str, *, owner: str = "root") -> None:
        """Copy a file of the host into the machine that runs, readable by its owner alone. Raises CommandFailed."""
        self.run("mkdir", "--parents", str(Path(path).parent))
        shutil.copy(file, Path(f"/proc/{self._leader}/root") / path.lstrip("/"))
        self.run("chown", owner, path)
        self.run("chmod", "600", path)

    def start(self) -> None:
        """Switch it on, without waiting."""
        words = ["unshare", "--mount", "bash", "-c", _BOOT, "bash"]
        self._process = self._processes.start(
            f"machine-{self.place}",
            [*words, bare_debian.base(), self._folder, self._namespace, self.place, *self._shown],
        )

    def wait_booted(self) -> None:
        """Return once systemd has started all that it starts. Raises ProcessFailed."""
        process = self._process
        assert process is not None

        # The supervisor, and in the machine's namespaces its init. A list of children may lack one while another ends.
        def began() -> bool:
            self._leader = _child(process.pid)
            return self._leader != 0

        self._processes.wait_until(began, process, "did not begin to boot", _BOOTS_WITHIN)
        deadline = time.monotonic() + _BOOTS_WITHIN
        while True:
            state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
            if state in ("running", "degraded"):
                return
            if time.monotonic() > deadline:
                raise process.failure(f"was {state!r} after {_BOOTS_WITHIN:.0f} s")
            self._processes.check_alive()
            time.sleep(_POLL)

    def run(
        self,
        *command: str,
        check: bool = True,
        environment: Mapping[str, str] | None = None,
        given: str = "",
        within: float = _COMMAND_WITHIN,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it as root, as a person who has logged in does. `given`: its standard input. Raises
        CommandFailed, with `check` also for an exit code that is not 0."""
        try:
            done = subprocess.run(
                [*self.words(environment), *command],
                check=False,
                capture_output=True,
                text=True,
                input=given,
                timeout=within,
            )
        except subprocess.TimeoutExpired as late:
            printed = b"".join(part for part in (late.stdout, late.stderr) if isinstance(part, bytes))
            raise CommandFailed(f"{self.place}: {late}\n{printed.decode(errors='replace')}") from late
        if check and done.returncode:
            told = f"{done.stdout}{done.stderr}"
            raise CommandFailed(f"{self.place}: {' '.join(command)} ended with {done.returncode}:\n{told}")
        return done

    def words(self, environment: Mapping[str, str] | None = None) -> Sequence[str]:
        """What runs a command in it when it goes before it."""
        more = [f"{name}={value}" for name, value in (environment or {}).items()]
        entered = ["nsenter", "--target", str(self._leader)]
        entered += ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd"]
        return [*entered, "env", "-i", f"PATH={_PATH}", "HOME=/root", "LC_ALL=C.UTF-8", *more]

    def pull_the_plug(self) -> None:
        """Kill all that runs in it at once: nothing in it says goodbye, but the kernel closes its sockets. Cut the
        place's network first where it should not."""
        process = self._process
        assert process is not None
        os.kill(self._leader, 9)
        try:
            process.popen.wait(_BOOTS_WITHIN)
        except subprocess.TimeoutExpired as late:
            raise ProcessFailed(f"{self.place} is still there after its init was killed") from late
        self._processes.forget_ended()
        self._process = None


def _child(pid: int) -> int:
    """The machine's init that a supervisor has started, 0 until then."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    return next((int(one) for one in found if _is_init(int(one))), 0)


def _is_init(pid: int) -> bool:
    """Whether a process is the first one of a machine, and has become its init: others of the supervisor come and go
    before it."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0] in _INITS
    except OSError:
        return False
