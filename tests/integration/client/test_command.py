"""The command `portway` as a process of its own: what it prints where, and what it exits with."""

import functools
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import grpc
import pytest
from portway_proto.v1 import lane_pb2
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.fakes.fake_registry import FakeRegistry
from portway_testkit.processes.children import children_of
from portway_testkit.processes.threads import signal_another_thread
from portway_testkit.processes.turns import ended, label_of, line
from portway_testkit.waiting import PATIENCE

pytestmark = pytest.mark.shares_sockets

Command = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def command(start_python: Command) -> Command:
    """Starts `portway ARGUMENTS`."""
    return functools.partial(start_python, "-m", "portway")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_forwards_until_it_is_told_to_end(
    command: Command, node: FakeNode, echo: Any, exchange: Any, number: signal.Signals
) -> None:
    """The URL is the first and only line of standard output; a signal closes the tunnel, and the exit code is 0."""
    process = command("forward", str(echo.port))
    url = line(process)
    assert url.startswith("https://")
    assert exchange(node, url.removeprefix("https://"), b"hello") == b"hello"
    process.send_signal(number)
    assert process.stdout is not None
    assert process.stdout.read() == ""
    assert ended(process, 0) == ""
    node.wait(lambda: not node.tunnels and node.count("goaway") == 1)


def test_it_sees_a_signal_that_another_thread_gets(command: Command, node: FakeNode) -> None:
    """Its main thread is not woken by it."""
    process = command("forward", "8000")
    assert line(process).startswith("https://")
    signal_another_thread(process.pid, signal.SIGTERM)
    assert ended(process, 0) == ""
    node.wait(lambda: not node.tunnels and node.count("goaway") == 1)


def test_it_is_the_process_of_its_engine(command: Command, node: FakeNode) -> None:
    """PORTWAY_PROCESS is for programs that have something else to do."""
    process = command("forward", "8000", PORTWAY_PROCESS="1")
    assert line(process).startswith("https://")
    assert not children_of(process.pid)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_descriptors_may_be_closed(
    environment: dict[str, str], node: FakeNode, echo: Any, exchange: Any, closed: str
) -> None:
    """No connection of the command's gets their numbers, and it ends as ever."""
    shell = f'exec "$0" -m portway forward "$1" {closed}'
    command = ["sh", "-c", shell, sys.executable, str(echo.port)]
    process = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        node.wait(lambda: bool(node.tunnels))
        assert exchange(node, next(iter(node.tunnels)), b"hello") == b"hello"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, errors) == (0, b"")
    finally:
        process.kill()
        process.communicate()


def test_it_ends_quietly_when_nobody_reads_its_output(environment: dict[str, str], node: FakeNode, echo: Any) -> None:
    """The code that shells have for SIGPIPE; its tunnels are closed."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as output:
        command = [sys.executable, "-m", "portway", "forward", str(echo.port)]
        variables = os.environ | environment | {"PYTHONUNBUFFERED": ""}
        done = subprocess.run(
            command, env=variables, stdout=output, stderr=subprocess.PIPE, timeout=PATIENCE, check=False
        )
    assert (done.returncode, done.stderr) == (141, b"")
    node.wait(lambda: not node.tunnels and node.count("goaway") == 1)


def test_several_targets_are_printed_in_order(command: Command, node: FakeNode) -> None:
    """One address each, followed by its TCP address; all over one session."""
    process = command("forward", "--unencrypted", "8000", "localhost:8000", "[::1]:8001")
    lines = [line(process) for _ in range(6)]
    assert [text.partition("://")[0] for text in lines] == ["https", "tcp"] * 3
    assert lines[1] == "tcp://127.0.0.1:20001"
    assert (len(node.tunnels), node.count("hello")) == (3, 1)
    process.terminate()
    ended(process, 0)


def test_json_is_one_line_for_each_tunnel(command: Command, node: FakeNode) -> None:
    """With all that a program may want to know."""
    process = command("forward", "8000", "--json", "--unencrypted")
    told = json.loads(line(process))
    label = next(iter(node.tunnels))
    assert told == {
        "target": "8000",
        "url": f"https://{label}.test.localhost:{node.port}",
        "host": f"{label}.test.localhost",
        "port": node.port,
        "unencrypted_host": "127.0.0.1",
        "unencrypted_port": 20001,
    }
    process.terminate()
    ended(process, 0)


def test_a_neighbour_is_dialled_by_its_name(command: Command, node: FakeNode, echo: Any, exchange: Any) -> None:
    """`portway forward db:5432`: the host is resolved here, at each visit."""
    process = command("forward", f"localhost:{echo.port}")
    assert exchange(node, line(process).removeprefix("https://"), b"hello") == b"hello"
    process.terminate()
    ended(process, 0)


def test_without_a_terminal_lines_say_what_goes_on(command: Command, node: FakeNode) -> None:
    """A lost connection and its end, in whole lines without control characters."""
    process = command("forward", "8000")
    line(process)
    assert process.stderr is not None
    node.drop_connections()
    lost, back = (process.stderr.readline() for _ in range(2))
    assert lost.startswith("portway: node one is lost (")
    assert back.startswith("portway: attached to node one after ")
    assert "\x1b" not in lost + back
    assert "\r" not in lost + back
    process.terminate()
    ended(process, 0)


class Screen:
    """A terminal for a process's standard error; what was written to it can be waited for."""

    def __init__(self) -> None:
        self._master, self.descriptor = pty.openpty()
        self._changed = threading.Condition()
        self.text = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 4096)
            except OSError:  # the other end is closed
                data = b""
            with self._changed:
                self.text += data.decode()
                self._changed.notify_all()
            if not data:
                return

    def wait(self, text: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: text in self.text, PATIENCE), repr(self.text)

    def everything(self) -> str:
        """What was written until the last process that holds the terminal has ended."""
        self._reader.join()
        return self.text

    def close(self) -> None:
        self.let_go()
        self._reader.join()
        os.close(self._master)

    def let_go(self) -> None:
        """From here on only processes hold it."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


@pytest.fixture
def screen() -> Iterator[Screen]:
    screen = Screen()
    yield screen
    screen.close()


def test_on_a_terminal_one_line_is_kept_up_to_date(
    screen: Screen, command: Command, node: FakeNode, registry: FakeRegistry, echo: Any, exchange: Any
) -> None:
    """Attached or reconnecting and why, visits, bytes; what is logged stays above it; at the end it is taken away."""
    process = command("forward", str(echo.port), stderr=screen.descriptor, TERM="xterm")
    screen.let_go()
    url = line(process)
    screen.wait("\r\x1b[Kattached · 0 visits, 0 now · 0 B in, 0 B out")
    exchange(node, url.removeprefix("https://"), b"x" * 2000)
    screen.wait("\r\x1b[Kattached · 1 visits, 0 now · 2.0 kB in, 2.0 kB out")
    registry.stop()
    node.stop()
    screen.wait("\r\x1b[Kportway: node one is lost (")
    screen.wait("\r\x1b[Kreconnecting (")
    node.__enter__()
    screen.wait("portway: attached to node one after ")
    process.terminate()
    assert process.wait(PATIENCE) == 0
    assert screen.everything().endswith("\r\x1b[K")


def test_a_dumb_terminal_gets_whole_lines(screen: Screen, command: Command, node: FakeNode) -> None:
    """It cannot move its cursor."""
    process = command("forward", "8000", stderr=screen.descriptor, TERM="dumb")
    screen.let_go()
    line(process)
    node.drop_connections()
    screen.wait("attached to node one after")
    process.terminate()
    ended(process, 0)
    assert "\x1b" not in screen.everything()


def test_a_signal_while_it_opens_ends_it(command: Command, node: FakeNode) -> None:
    """At once, with exit code 0 and nothing left behind."""
    node.ignore_binds = True
    process = command("forward", "8000")
    node.wait(lambda: node.count("bind ignored") == 1)
    process.terminate()
    assert ended(process, 0) == ""
    node.wait(lambda: node.count("goaway") == 1)


def test_a_tunnel_lost_for_good_ends_it(command: Command, node: FakeNode) -> None:
    """Exit code 7, whatever becomes of the others: whoever runs it is to start it again."""
    process = command("forward", "8000", "8001")
    label = label_of(line(process))
    line(process)
    node.unbound(label, lane_pb2.Failure(code=lane_pb2.FAILURE_CODE_EPOCH, message="somebody took it"))
    [error] = ended(process, 7).splitlines()
    assert error.startswith(f"portway: the tunnel to https://{label}.")
    assert error.endswith("is gone for good: somebody took it")
    node.wait(lambda: not node.tunnels)


QUOTA = lane_pb2.Failure(code=lane_pb2.FAILURE_CODE_QUOTA, message="there may be 2 tunnels")


def lost(url: str) -> str:
    """What the command says when the quota has taken a tunnel."""
    return f"portway: the tunnel to {url} is gone for good: there may be 2 tunnels\n"


def test_a_tunnel_over_the_quota_ends_no_other(command: Command, node: FakeNode) -> None:
    """What the quota does not allow is told on standard error, and in the exit code after the signal."""
    process = command("forward", "8000", "8001")
    urls = [line(process) for _ in range(2)]
    node.unbound(label_of(urls[0]), QUOTA)
    assert process.stderr is not None
    assert process.stderr.readline() == lost(urls[0])
    assert process.poll() is None
    process.terminate()
    assert ended(process, 7) == ""
    node.wait(lambda: node.count("goaway") == 1)


def test_the_last_tunnel_over_the_quota_ends_it(command: Command, node: FakeNode) -> None:
    """With nothing left to forward, and each loss told once."""
    process = command("forward", "8000", "8001")
    urls = [line(process) for _ in range(2)]
    for url in urls:
        node.unbound(label_of(url), QUOTA)
    assert sorted(ended(process, 7).splitlines(keepends=True)) == sorted(map(lost, urls))


def test_a_target_that_the_quota_does_not_allow_ends_no_other(command: Command, node: FakeNode) -> None:
    """Those that are open stay, and the others are told; the first that is refused ends the command."""
    node.refuse_bind, node.accepted_binds = QUOTA, 1
    process = command("forward", "8000", "8001", "8002")
    assert line(process).startswith("https://")
    assert process.stderr is not None
    told = [process.stderr.readline() for _ in range(2)]
    assert told == [f"portway: {port} is not forwarded: there may be 2 tunnels\n" for port in (8001, 8002)]
    process.terminate()
    assert ended(process, 5) == ""
    node.wait(lambda: not node.tunnels)
    node.accepted_binds = 0
    refused = command("forward", "8000", "8001")
    assert ended(refused, 5) == "portway: 8000 is not forwarded: there may be 2 tunnels\n"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["forward"], 2, "TARGET"),
        (["forward", "eight"], 2, "names no port"),
        (["forward", "0"], 2, "names no port"),
        (["forward", "65536"], 2, "names no port"),
        (["forward", "-1"], 2, "TARGET"),
        (["forward", "8000", "--unencrypted", "--h2"], 2, "h2_enabled cannot be combined"),
        (["forward", "8000", "8000"], 2, "forwarded already"),
        (["forward", "8000", "--timeout", "0"], 2, "timeout"),
        (["forward", "8000", "--ca", "/nowhere/ca.pem"], 3, "cannot be read"),
        (["forward", "8000", "--registry", ""], 3, "no registry is named"),
        (["forward", "8000", "--token", ""], 3, "no token is given"),
        (["forward", "8000", "--token", "secret"], 4, "malformed"),
        (["forward", "8000", "--registry", "127.0.0.1:1"], 6, "127.0.0.1:1: connection refused"),
        (["forward", "8000", "--region", "nowhere"], 6, "is ready"),
        (["explode"], 2, "explode"),
        ([], 2, "usage"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(command: Command, arguments: list[str], code: int, words: str) -> None:
    """On standard error, with an exit code for its kind; nothing on standard output but addresses that were open. What
    may pass is tried again, and why is told once."""
    process = command(*arguments)
    out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, errors
    assert words in errors
    assert all(text.startswith("https://") for text in out.splitlines())
    if code != 2:
        *waiting, last = errors.splitlines()
        assert last.startswith("portway: ")
        assert all(text.startswith("portway: not attached yet, trying again: ") for text in waiting)
        assert bool(waiting) is (code == 6)
        assert all(one != following for one, following in pairwise(waiting))


@pytest.mark.parametrize(
    ("status", "code"),
    [(grpc.StatusCode.UNAUTHENTICATED, 4), (grpc.StatusCode.RESOURCE_EXHAUSTED, 5), (grpc.StatusCode.INTERNAL, 6)],
)
def test_a_registry_that_refuses_decides_the_exit_code(
    command: Command, registry: FakeRegistry, status: grpc.StatusCode, code: int
) -> None:
    """Its words are the line."""
    registry.refuse = (status, "these are its words")
    errors = ended(command("forward", "8000"), code)
    assert all("these are its words" in text for text in errors.splitlines())
    assert errors.count("\n") == (2 if code == 6 else 1)  # what may pass is tried again, and that is told


def test_a_node_with_a_wrong_clock_is_not_the_token_s_fault(command: Command, node: FakeNode) -> None:
    """An exit code of its own, and the node's words."""
    node.refuse_hello = lane_pb2.Failure(
        code=lane_pb2.FAILURE_CODE_TIME, message="this node's clock is 7200 s ahead of the registry's"
    )
    errors = ended(command("forward", "8000"), 8)
    assert errors == "portway: this node's clock is 7200 s ahead of the registry's\n"


def test_grpc_adds_no_lines_of_its_own(command: Command, tmp_path: Any) -> None:
    """A wrong CA is one line, though gRPC would say more."""
    import trustme

    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    errors = ended(command("forward", "8000", "--ca", str(other)), 6)
    assert errors.count("\n") == 1
    assert "not trusted: check PORTWAY_CA" in errors


def test_help_imports_nothing_heavy(command: Command) -> None:
    """`--help` and `--version` answer without what a tunnel needs."""
    code = (
        "import sys; from portway.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = ('grpc', 'google.protobuf', 'asyncio', 'ssl', 'socket', 'uvloop', 'portway_proto')\n"
        "assert not [name for name in heavy if name in sys.modules]\n"
    )
    for arguments in (["--help"], ["forward", "--help"], ["--version"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "portway" in done.stdout
