"""Somebody who follows a page of the handbook at a shell, with a cluster of this machine.

What a page can only name by example stands for what is there: the address of an example is the tunnel's that was
opened last, and a usual port is a free one. Everything is typed in a folder of its own, with a home and an /etc/hosts
of its own, in which names of tunnels lead to this machine. Lines that the page says are printed must be printed, in
that order; `…` is any text. Not here: reading pages (pages.py), what a page needs around it (the test that runs them).
"""

import contextlib
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from portway_testkit.processes.ports import free_port

from portway_lab.checkout import ROOT
from portway_lab.handbook.pages import Block, Command

# The addresses of examples.
_LABEL: Final = r"[a-z2-7]{16}"
_REGION: Final = r"[a-z]{3}"
_EXAMPLE_URL: Final = re.compile(rf"https://{_LABEL}\.{_REGION}\.tun\.example\.com")
_EXAMPLE_HOST: Final = re.compile(rf"\b{_LABEL}\.{_REGION}\.tun\.example\.com(:443)?")
_EXAMPLE_RAW_HOST: Final = re.compile(rf"(?<!\.)\b{_REGION}\.tun\.example\.com\b")
_EXAMPLE_RAW_PORT: Final = re.compile(r"\b20123\b")
_EXAMPLE_PORTS: Final = re.compile(r"\b(22|2222|3128|5000|5432|7860|8000|8501|8888|50051)\b")
_EXAMPLE_PROXY: Final = "proxy.corp.example"
_URL: Final = re.compile(rf"https://({_LABEL}\.{_REGION}\.[\w.]+)(:\d+)?")
_RAW: Final = re.compile(r"tcp://([\w.-]+):(\d+)")
_ANYTHING: Final = "…"
# Stand for an address while the text around it is made a pattern.
_ANY_URL: Final = "\u0001"
_ANY_RAW: Final = "\u0002"
_ANSWERS_WITHIN: Final = 60.0
_ENDS_WITHIN: Final = 10.0
_LISTENS: Final = "0A"
# What a page that is followed in a checkout names.
_OF_THE_REPOSITORY: Final = ("client", "deploy", "scripts")
_POLL: Final = 0.05


class NotAsThePageSays(AssertionError):
    """A command failed, or printed something else; says where, and what it printed."""


class Session:
    """`with Session(folder, environment) as session:` ends everything that was started, when it is left."""

    def __init__(self, folder: Path, environment: Mapping[str, str], ports: Mapping[str, int]) -> None:
        """`ports`: what listens already at the usual ports of a page."""
        self.folder = folder
        self._environment = dict(environment)
        self._ports = {name: str(number) for name, number in ports.items()}
        self._hosts = folder.parent / "hosts"
        self._exports = folder.parent / "exports"
        self._running: list[_Running] = []
        self._url: re.Match[str] | None = None
        self._raw: re.Match[str] | None = None

    def __enter__(self) -> Self:
        for name in _OF_THE_REPOSITORY:
            (self.folder / name).symlink_to(ROOT / name)
        self._hosts.write_text(f"127.0.0.1 localhost {_EXAMPLE_PROXY}\n::1 localhost\n")
        self._exports.touch()
        return self

    def __exit__(self, *_: object) -> None:
        for running in reversed(self._running):
            running.end()

    def follow(self, blocks: Sequence[Block]) -> None:
        """Write the files, run the commands. Raises NotAsThePageSays."""
        for block in blocks:
            if block.is_file:
                self.write(block)
            elif block.runs and block.language == "python":
                self._type(block, Command(self._program(block), ()))
            elif block.runs:
                for command in block.commands() if block.language == "console" else [Command(block.text, ())]:
                    self._type(block, command)

    def write(self, block: Block) -> None:
        file = self.folder / block.title
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self._here(block.text))

    def _program(self, block: Block) -> str:
        file = self.folder / f"line_{block.line}.py"
        file.write_text(self._here(block.text))
        return f"python {file.name}"

    def _type(self, block: Block, command: Command) -> None:
        stays = block.keeps_running or command.text.endswith(" &")
        text = self._here(command.text.removesuffix(" &"))
        running = _Running(self._words(text), self._environment, self.folder)
        self._running.append(running)
        expected = [self._pattern(line) for line in command.output]
        deadline = time.monotonic() + _ANSWERS_WITHIN
        while True:
            ended = running.ended(_POLL)
            self._look(running.output())
            as_said = _in_order(expected, running.output())
            if ended or (stays and as_said and (expected or running.listens())):
                break
            if time.monotonic() > deadline:
                break
        good = as_said and (not ended if stays else ended and running.code == 0)
        if not good:
            wanted = "\n".join(command.output)
            raise NotAsThePageSays(
                f"{block.place}: {text}\nexit code {running.code}; it printed:\n{running.output()}\nthe page:\n{wanted}"
            )

    def _words(self, text: str) -> list[str]:
        """A shell that goes on where the one before ended, in a place with an /etc/hosts of its own."""
        script = f". {self._exports}\n{text}\nstatus=$?\nexport -p > {self._exports}\nexit $status"
        shell = ["bash", "-uc", script]
        if os.getuid() != 0:
            return shell
        mount = 'mount --bind "$0" /etc/hosts && exec "$@"'
        return ["unshare", "--mount", "--propagation=private", "sh", "-c", mount, str(self._hosts), *shell]

    def _look(self, output: str) -> None:
        """Remember the addresses that a program has printed."""
        for self._url in _URL.finditer(output):
            line = f"127.0.0.1 {self._url[1]}\n"
            if line not in self._hosts.read_text():
                with self._hosts.open("a") as hosts:
                    hosts.write(line)
        for self._raw in _RAW.finditer(output):
            pass

    def _here(self, text: str) -> str:
        """Text of a page with what is here in the place of examples."""
        text = _EXAMPLE_PORTS.sub(lambda match: self._port(match[1]), text)
        if self._url is not None:
            url, host, port = self._url[0], self._url[1], self._url[2] or ":443"
            text = _EXAMPLE_URL.sub(url, text)
            text = _EXAMPLE_HOST.sub(lambda match: host + (port if match[1] else ""), text)
        if self._raw is not None:
            text = _EXAMPLE_RAW_HOST.sub(self._raw[1], text)
            text = _EXAMPLE_RAW_PORT.sub(self._raw[2], text)
        return text

    def _port(self, usual: str) -> str:
        if usual not in self._ports:
            self._ports[usual] = str(free_port())  # given to no connection until the page's program has it
        return self._ports[usual]

    def _pattern(self, line: str) -> re.Pattern[str]:
        """What a line of the page stands for."""
        line = _EXAMPLE_PORTS.sub(lambda match: self._port(match[1]), line).rstrip()
        line = _EXAMPLE_URL.sub(_ANY_URL, line).replace("tcp://fra.tun.example.com:20123", _ANY_RAW)
        text = re.escape(line).replace(_ANY_URL, _URL.pattern).replace(_ANY_RAW, _RAW.pattern)
        return re.compile(text.replace(_ANYTHING, ".*"))


class _Running:
    """A command, in a session of the operating system's of its own, with what it has printed so far."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self._process = subprocess.Popen(
            words,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,
        )
        self._printed = b""

    @property
    def code(self) -> int | None:
        return self._process.returncode

    def output(self) -> str:
        return self._printed.decode(errors="replace")

    def ended(self, within: float) -> bool:
        """Read what comes within so many seconds; whether the command has ended, and all that it printed was read."""
        pipe = self._process.stdout
        assert pipe is not None
        if pipe.closed:
            return True
        if not select.select([pipe], [], [], within)[0]:
            return False
        more = os.read(pipe.fileno(), 65_536)
        self._printed += more
        if more:
            return False
        pipe.close()
        self._process.wait(_ENDS_WITHIN)
        return True

    def listens(self) -> bool:
        """Whether a process of the command listens on a TCP port."""
        inodes = set()
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            for row in Path(table).read_text().splitlines()[1:]:
                fields = row.split()
                if fields[3] == _LISTENS:
                    inodes.add(f"socket:[{fields[9]}]")
        return any(inodes & _descriptors(pid) for pid in self._processes())

    def _processes(self) -> list[str]:
        """Of its session."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError, ValueError):
                    if os.getsid(int(folder.name)) == self._process.pid:
                        found.append(folder.name)
        return found

    def end(self) -> None:
        for number, patience in ((signal.SIGTERM, _ENDS_WITHIN), (signal.SIGKILL, _ENDS_WITHIN)):
            for pid in self._processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), number)
            deadline = time.monotonic() + patience
            while self._processes() and time.monotonic() < deadline:
                self._process.poll()
                time.sleep(_POLL)
        self._process.wait(_ENDS_WITHIN)
        if self._process.stdout is not None:
            self._process.stdout.close()


def _descriptors(pid: str) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - names alone
            with contextlib.suppress(OSError):
                found.add(os.readlink(f"/proc/{pid}/fd/{descriptor}"))  # noqa: PTH115 - as above
    return found


def _in_order(expected: Sequence[re.Pattern[str]], output: str) -> bool:
    """Whether each pattern is a whole line of the output, in order."""
    lines = iter(output.splitlines())
    return all(any(pattern.fullmatch(line.rstrip()) for line in lines) for pattern in expected)
