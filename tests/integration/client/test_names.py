"""Programs whose hosts are names: one that no resolver answers for holds up nothing, and of several addresses those
that lose everything cost a moment. A full accept queue stands for a network that loses what is sent."""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.fakes.fake_registry import FakeRegistry
from portway_testkit.waiting import PATIENCE

pytestmark = pytest.mark.shares_sockets

PROMPT = 10.0
VISITS = 20
LOOPS = {"uvloop": "", "asyncio": "import sys\nsys.modules['uvloop'] = None"}

_PROGRAM = """
import _socket, pathlib, sys, threading, time

resolve = _socket.getaddrinfo
LED = {"localhost": ("127.0.0.2", "127.0.0.1"), "node.test": ("127.0.0.2", "127.0.0.1")}
LED |= {"server.test": ("127.0.0.2", "127.0.0.1"), "answers.test": ("127.0.0.1",)}

def getaddrinfo(host, port, family=0, kind=0, protocol=0, flags=0):
    if flags == 0 and host == "silent.test":
        threading.Event().wait()
    if flags == 0 and host in LED:
        return [(2, 1, 6, "", (address, 0)) for address in LED[host]]
    return resolve(host, port, family, kind, protocol, flags)

_socket.getaddrinfo = getaddrinfo
import portway

def hold(port, *hosts):
    if not hosts:
        while not pathlib.Path(sys.argv[1]).exists():
            time.sleep(0.01)
        return
    with portway.forward(port, host=hosts[0]) as tunnel:
        print(tunnel.host, flush=True)
        hold(port, *hosts[1:])

hold(int(sys.argv[2]), *sys.argv[3:])
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """A local server, which answers in `asked`."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PROMPT)
        yield listening


@pytest.fixture
def start(start_program: Callable[..., "subprocess.Popen[str]"], tmp_path: Path, server: socket.socket) -> Start:
    """Starts a program with a tunnel to the server by each of these names; it ends once there is a file `done`."""

    def run(loop: str, *hosts: str, **variables: str) -> "subprocess.Popen[str]":
        port = str(server.getsockname()[1])
        return start_program(LOOPS[loop] + _PROGRAM, str(tmp_path / "done"), port, *hosts, **variables)

    return run


def read_host(program: "subprocess.Popen[str]") -> str:
    assert program.stdout is not None
    host = program.stdout.readline().strip()
    assert host, program.communicate()[1]
    return host.partition(".")[0]


def asked(node: FakeNode, label: str, server: socket.socket) -> bytes:
    """What the server gets from a visitor; within PROMPT seconds, or TimeoutError."""
    visitor, ended = node.visit(label)
    with visitor:
        visitor.sendall(b"request")
        with server.accept()[0] as sock:
            sock.settimeout(PROMPT)
            request = sock.recv(100)
    ended.result(PROMPT)
    return request


def ended(program: "subprocess.Popen[str]", tmp_path: Path) -> None:
    """It ends promptly, and in order."""
    (tmp_path / "done").touch()
    began = time.monotonic()
    out, errors = program.communicate(timeout=PATIENCE)
    assert (program.returncode, out, errors) == (0, "", "")
    assert time.monotonic() - began < PROMPT


@pytest.mark.parametrize("loop", LOOPS)
def test_a_name_without_a_resolver_holds_up_nothing(
    node: FakeNode, start: Start, server: socket.socket, tmp_path: Path, loop: str
) -> None:
    """Its visitors share one look-up; another tunnel's are served; the program ends meanwhile."""
    program = start(loop, "silent.test", "answers.test")
    silent, answers = read_host(program), read_host(program)
    assert asked(node, answers, server) == b"request"
    before = len(os.listdir(f"/proc/{program.pid}/task"))  # noqa: PTH208
    visits = [node.visit(silent) for _ in range(VISITS)]
    try:
        assert asked(node, answers, server) == b"request"
        assert len(os.listdir(f"/proc/{program.pid}/task")) < before + VISITS // 2  # noqa: PTH208
        ended(program, tmp_path)
    finally:
        for visitor, _ in visits:
            visitor.close()
    for _, end in visits:
        end.result(PROMPT)


@pytest.mark.parametrize("loop", LOOPS)
def test_an_address_that_loses_everything_costs_a_moment(
    node: FakeNode, registry: FakeRegistry, start: Start, server: socket.socket, tmp_path: Path, loop: str
) -> None:
    """The first address of the registry's name, of the node's, and of the local server's."""
    registry.node_host = "node.test"
    with ExitStack() as open_sockets:
        for port in (registry.port, node.port, server.getsockname()[1]):
            loses = open_sockets.enter_context(socket.socket())
            loses.bind(("127.0.0.2", port))
            loses.listen(0)
            filler = open_sockets.enter_context(socket.socket())
            filler.connect(loses.getsockname())
        program = start(loop, "server.test", PORTWAY_REGISTRY=f"localhost:{registry.port}")
        label = read_host(program)
        for _ in range(2):
            assert asked(node, label, server) == b"request"
        ended(program, tmp_path)
