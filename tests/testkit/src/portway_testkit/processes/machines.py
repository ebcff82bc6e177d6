"""Two machines with addresses of their own, as network namespaces with a cable between them: programs on them take the
ports that they take on a real machine, and find the addresses that they find there.

Needs root and `ip`; the tests are skipped without. Each machine may have an /etc/hosts and an /etc/resolv.conf of its
own.
"""

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from portway_testkit.processes.running_program import PATIENCE, RunningProgram, needed

# Global addresses, which only these two machines see.
ADDRESSES: Final = (("45.76.1.7", "2a05:f480:1::7"), ("45.76.1.8", "2a05:f480:1::8"))
# Not that of the networks with distances, which sweep away what has the name of one that ended.
_PREFIX: Final = "machine-of-portway-"
_FILES: Final = Path("/etc/netns")
_numbers: Final = itertools.count()


class Machine:
    """One of them."""

    def __init__(self, name: str, addresses: tuple[str, str]) -> None:
        self.name = name
        self.address, self.ipv6 = addresses

    def run(
        self, *command: str | Path, environment: Mapping[str, str] | None = None, given: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on it to its end. `given`: its standard input."""
        return subprocess.run(
            self._entered(command),
            capture_output=True,
            text=True,
            env=_environment(environment),
            input=given,
            timeout=PATIENCE,
            check=False,
        )

    def program(self, *command: str | Path, log: Path, environment: Mapping[str, str] | None = None) -> RunningProgram:
        """A program on it, for a `with` block."""
        return RunningProgram(self._entered(command), _environment(environment), log)

    def set_file(self, name: str, text: str) -> None:
        """/etc/NAME as programs on it that start from now on see it: hosts, resolv.conf."""
        folder = _FILES / self.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    def _entered(self, command: tuple[str | Path, ...]) -> list[str]:
        return [needed("ip"), "netns", "exec", self.name, *map(str, command)]


@contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Both, until the block ends. Each has a default route, to the other one."""
    if os.geteuid() != 0:
        pytest.skip("machines of their own need root (network namespaces)")
    names = [f"{_PREFIX}{os.getpid()}-{next(_numbers)}" for _ in ADDRESSES]
    with ExitStack() as held:
        for name in names:
            _ip("netns", "add", name)
            held.callback(shutil.rmtree, _FILES / name, ignore_errors=True)
            held.callback(_ip, "netns", "del", name)
        _ip("-n", names[0], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for name, addresses in zip(names, ADDRESSES, strict=True):
            _ip("-n", name, "link", "set", "lo", "up")
            for address in addresses:
                length, *more = ("/64", "nodad") if ":" in address else ("/24",)
                _ip("-n", name, "addr", "add", address + length, "dev", "eth0", *more)
            _ip("-n", name, "link", "set", "eth0", "up")
        for name, (ipv4, ipv6) in zip(names, reversed(ADDRESSES), strict=True):
            _ip("-n", name, "route", "add", "default", "via", ipv4)
            _ip("-n", name, "-6", "route", "add", "default", "via", ipv6)
        yield Machine(names[0], ADDRESSES[0]), Machine(names[1], ADDRESSES[1])


def _ip(*words: str) -> None:
    done = subprocess.run([needed("ip"), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PORTWAY_") and name not in ("NOTIFY_SOCKET", "INVOCATION_ID")
    }
    return {**kept, **(more or {})}


def with_own_etc(folder: Path, *command: str | Path) -> list[str | Path]:
    """The command that runs a program with an /etc in which it may make users: what it writes there is in `folder`, and
    the next program with the same folder finds it."""
    for name in ("upper", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    mount = f"mount -t overlay etc -o lowerdir=/etc,upperdir={folder}/upper,workdir={folder}/work /etc"
    return [needed("unshare"), "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh", *command]
