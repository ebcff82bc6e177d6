"""Programs that fork, end, fail and are killed with tunnels open: no hang, and no tunnel left behind."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from portway_proto.v1 import lane_pb2
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.fakes.fake_registry import FakeRegistry

pytestmark = [pytest.mark.shares_sockets, pytest.mark.usefixtures("each_engine")]

Start = Callable[[str], "subprocess.Popen[str]"]

# What the programs below begin with. Their peers: `lead` a line each way, so that tests and programs take turns.
_PREAMBLE = """
import os, signal, sys, threading, time
import portway

def tell(text):
    os.write(1, f"{text}\\n".encode())  # at once: parent and child may tell at the same time

def wait_to_be_told():
    sys.stdin.readline()

def in_child(function):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    return child

def check(child):
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with {status}"
"""


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Starts a Python program; those that still run are killed at the end of the test."""
    programs: list[subprocess.Popen[str]] = []

    def run(text: str) -> "subprocess.Popen[str]":
        script = tmp_path / f"program{len(programs)}.py"
        script.write_text(_PREAMBLE + text)
        program = subprocess.Popen(
            [sys.executable, "-W", "error", str(script)],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        programs.append(program)
        return program

    yield run
    for program in programs:
        try:
            os.killpg(program.pid, signal.SIGKILL)  # its children too, which hold its pipes
        except ProcessLookupError:
            pass
        program.communicate()


def ended(program: "subprocess.Popen[str]", code: int = 0) -> str:
    """Wait for its end, which is not far; what it wrote to standard error."""
    out, errors = program.communicate(timeout=20)
    assert program.returncode == code, (program.returncode, out, errors)
    return errors


def line(program: "subprocess.Popen[str]") -> str:
    assert program.stdout is not None
    text = program.stdout.readline().strip()
    assert text, ended(program)
    return text


def go_on(program: "subprocess.Popen[str]") -> None:
    assert program.stdin is not None
    program.stdin.write("\n")
    program.stdin.flush()


def label_of(url: str) -> str:
    return url.removeprefix("https://").partition(".")[0]


def test_a_program_that_ends_with_a_tunnel_open_withdraws_it(start: Start, node: FakeNode) -> None:
    """Without leaving the block: the node hears GOAWAY when the interpreter ends, at once and with nothing printed."""
    program = start("portway.forward(8000).__enter__()\n")
    assert ended(program) == ""
    node.wait(lambda: ("goaway",) in node.events)
    assert not node.tunnels


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_program_without_standard_descriptors(
    start: Start, node: FakeNode, echo: Any, exchange: Any, loop: str
) -> None:
    """The engine's sockets get higher numbers, also when the descriptors are closed between two tunnels."""
    program = start(
        f"""
if {loop!r} == "asyncio":
    sys.modules["uvloop"] = None
told, output = os.dup(0), os.dup(1)

def close_all():
    for number in range(3):
        os.close(number)

def check():
    assert [os.readlink(f"/proc/self/fd/{{number}}") for number in range(3)] == ["/dev/null"] * 3

close_all()
sys.stdin = sys.stdout = sys.stderr = None
with portway.forward({echo.port}) as tunnel:
    check()
    close_all()
    with portway.forward(8000):
        check()
    os.write(output, f"{{tunnel.url}}\\n".encode())
    os.read(told, 1)
"""
    )
    assert exchange(node, label_of(line(program)), b"hello") == b"hello"
    go_on(program)
    assert ended(program) == ""
    node.wait(lambda: ("goaway",) in node.events)


def test_a_program_that_fails_leaves_no_tunnel(start: Start, node: FakeNode) -> None:
    """Its own traceback is all it prints, its exit code is its own."""
    program = start("with portway.forward(8000) as tunnel:\n    raise SystemExit(7)\n")
    assert ended(program, 7) == ""
    program = start("with portway.forward(8000) as tunnel:\n    1 / 0\n")
    errors = ended(program, 1)
    assert errors.strip().endswith("ZeroDivisionError: division by zero")
    assert errors.count("Traceback") == 1
    node.wait(lambda: node.events.count(("goaway",)) == 2)
    assert not node.tunnels


def test_a_program_that_is_killed_leaves_a_lost_session(start: Start, node: FakeNode) -> None:
    """SIGKILL: its connections close with it, which is what the node sees."""
    program = start("with portway.forward(8000) as tunnel:\n    tell(tunnel.url)\n    wait_to_be_told()\n")
    line(program)
    program.kill()
    assert program.wait(20) == -signal.SIGKILL
    node.wait(lambda: node.count("lost") == 1)


def test_ctrl_c_in_the_block_closes_the_tunnel(start: Start, node: FakeNode) -> None:
    """KeyboardInterrupt comes out of the block as ever."""
    program = start(
        "try:\n"
        "    with portway.forward(8000) as tunnel:\n"
        "        tell(tunnel.url)\n"
        "        threading.Event().wait()\n"
        "except KeyboardInterrupt:\n"
        "    tell('interrupted')\n"
    )
    line(program)
    program.send_signal(signal.SIGINT)
    assert line(program) == "interrupted"
    assert ended(program) == ""
    node.wait(lambda: not node.tunnels)


def test_a_program_can_end_while_it_is_opening(start: Start, node: FakeNode) -> None:
    """A node that takes the connection and says nothing holds up nobody's exit."""
    node.silent = True
    program = start(
        "threading.Thread(target=lambda: portway.forward(8000).__enter__(), daemon=True).start()\nwait_to_be_told()\n"
    )
    node.wait(lambda: node.count("silent") >= 1)
    go_on(program)
    ended(program)


def test_a_program_can_end_while_it_asks_a_registry(start: Start) -> None:
    """Nor does one that takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        program = start(
            f"registry = '127.0.0.1:{silent.getsockname()[1]}'\n"
            "forwarding = portway.forward(8000, registry=registry)\n"
            "threading.Thread(target=lambda: forwarding.__enter__(), daemon=True).start()\n"
            "wait_to_be_told()\n"
        )
        asked, _ = silent.accept()
        with asked:
            go_on(program)
            ended(program)


def test_a_fork_halts_nothing_for_long(start: Start, node: FakeNode, echo: Any, exchange: Any) -> None:
    """Fifty forks while visitors come and go: every child ends, every visit is whole."""
    program = start(
        f"with portway.forward({echo.port}) as tunnel:\n"
        "    tell(tunnel.url)\n"
        "    for _ in range(50):\n"
        "        check(in_child(lambda: None))\n"
        "    tell('done')\n"
        "    wait_to_be_told()\n"
    )
    label = label_of(line(program))
    message = bytes(300_000)
    assert all(exchange(node, label, message) == message for _ in range(10))
    assert line(program) == "done"
    go_on(program)
    assert ended(program) == ""


def test_a_program_can_end_while_its_node_is_away(start: Start, node: FakeNode, registry: FakeRegistry) -> None:
    """Re-attaching is no reason to stay."""
    program = start("with portway.forward(8000) as tunnel:\n    tell(tunnel.url)\n    wait_to_be_told()\n")
    line(program)
    node.stop()
    registry.stop()
    go_on(program)
    ended(program)


def test_a_fork_before_the_first_tunnel(start: Start, node: FakeNode) -> None:
    """Parent and child each have their own engine, session and tunnel."""
    program = start(
        "def use():\n"
        "    with portway.forward(8000) as tunnel:\n"
        "        tell(tunnel.url)\n"
        "child = in_child(use)\n"
        "use()\n"
        "check(child)\n"
    )
    assert line(program) != line(program)
    assert ended(program) == ""
    assert node.count("hello") == 2
    node.wait(lambda: not node.tunnels)


def test_a_fork_after_a_tunnel(start: Start, node: FakeNode) -> None:
    """A child of a program that has used tunnels opens its own, the same port included."""
    program = start(
        "def use():\n"
        "    with portway.forward(8000) as tunnel:\n"
        "        tell(tunnel.url)\n"
        "use()\n"
        "check(in_child(use))\n"
        "use()\n"
    )
    urls = {line(program) for _ in range(3)}
    assert len(urls) == 3
    assert ended(program) == ""
    assert node.count("hello") == 2


def test_a_child_does_not_disturb_its_parent_s_tunnel(start: Start, node: FakeNode, echo: Any, exchange: Any) -> None:
    """Neither its life, nor its own tunnels, nor its leaving the parent's block, nor its end."""
    program = start(
        f"forwarding = portway.forward({echo.port})\n"
        "with forwarding as tunnel:\n"
        "    def use():\n"
        "        forwarding.__exit__(None, None, None)\n"
        f"        with portway.forward({echo.port}) as own:\n"
        "            assert own.url != tunnel.url\n"
        "        with forwarding as again:\n"
        "            assert again.url != tunnel.url\n"
        "    tell(tunnel.url)\n"
        "    check(in_child(use))\n"
        "    tell('the child has ended')\n"
        "    wait_to_be_told()\n"
    )
    url = line(program)
    assert line(program) == "the child has ended"
    assert exchange(node, label_of(url), b"hello") == b"hello"
    assert label_of(url) in node.tunnels
    go_on(program)
    assert ended(program) == ""
    assert node.epochs(label_of(url)) == [1]
    node.wait(lambda: not node.tunnels)


def test_a_child_that_lives_on_holds_no_tunnel_of_its_parent(start: Start, node: FakeNode) -> None:
    """The parent's connections end with the parent, though a child inherited them."""
    program = start(
        "with portway.forward(8000) as tunnel:\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        os.close(1), os.close(2)\n"
        "        sys.stdin.readline()\n"
        "        os._exit(0)\n"
        "    tell(tunnel.url)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    line(program)
    assert program.wait(20) == -signal.SIGKILL
    node.wait(lambda: node.count("lost") == 1)
    go_on(program)


def test_a_child_that_exits_in_order_closes_nothing_of_its_parent(
    start: Start, node: FakeNode, echo: Any, exchange: Any
) -> None:
    """A child that leaves the block and ends as programs do, its exit handlers run."""
    program = start(
        f"with portway.forward({echo.port}) as tunnel:\n"
        "    child = os.fork()\n"
        "    if child:\n"
        "        tell(tunnel.url)\n"
        "        check(child)\n"
        "        tell('the child has ended')\n"
        "        wait_to_be_told()\n"
    )
    url = line(program)
    assert line(program) == "the child has ended"
    assert exchange(node, label_of(url), b"hello") == b"hello"
    go_on(program)
    assert ended(program) == ""


def test_forks_while_another_thread_opens_tunnels(start: Start, node: FakeNode) -> None:
    """Whatever moment a fork catches the engine in, its start and its imports included, the child can open its own."""
    program = start(
        "def use(port):\n"
        "    with portway.forward(port) as tunnel:\n"
        "        pass\n"
        "def use_many():\n"
        "    for port in range(8000, 8040):\n"
        "        use(port)\n"
        "opening = threading.Thread(target=use_many)\n"
        "opening.start()\n"
        "children = []\n"
        "for _ in range(8):\n"
        "    children.append(in_child(lambda: use(9000)))\n"
        "    time.sleep(0.02)\n"
        "opening.join()\n"
        "for child in children:\n"
        "    check(child)\n"
    )
    ended(program)
    node.wait(lambda: not node.tunnels)


def test_multiprocessing_with_fork(start: Start, node: FakeNode) -> None:
    """Workers of a pool that was made within the block open tunnels of their own."""
    program = start(
        "import multiprocessing\n"
        "def use(port):\n"
        "    with portway.forward(port) as tunnel:\n"
        "        return tunnel.url\n"
        "with portway.forward(8000) as tunnel:\n"
        "    with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "        urls = pool.map(use, [8000, 8001, 8002])\n"
        "        pool.close()\n"
        "        pool.join()\n"
        "    assert len({tunnel.url, *urls}) == 4\n"
    )
    ended(program)


def test_a_lost_tunnel_ends_a_program_with_an_error(start: Start, node: FakeNode) -> None:
    """One that does nothing about it while its tunnel is lost hears of it when it leaves the block."""
    program = start(
        "import threading\n"
        "lost = threading.Event()\n"
        "with portway.forward(8000, tunnel_lost=lambda _: lost.set()) as tunnel:\n"
        "    tell(tunnel.url)\n"
        "    lost.wait()\n"
    )
    label = label_of(line(program))
    node.unbound(label, lane_pb2.Failure(code=lane_pb2.FAILURE_CODE_EPOCH, message="somebody has it"))
    errors = ended(program, 1)
    assert "TunnelLostError" in errors
    assert "somebody has it" in errors


@pytest.mark.parametrize("opened", ["in atexit", "by a thread"])
def test_a_tunnel_opened_while_the_program_ends(start: Start, node: FakeNode, opened: str) -> None:
    """It is open, and closed again, where the interpreter still starts threads; else the error says what to do."""
    program = start(
        f"""
import atexit
def work():
    try:
        with portway.forward(8000) as tunnel:
            tell("opened")
    except portway.Error as error:
        tell(error)
if {opened!r} == "in atexit":
    atexit.register(work)
else:
    main = threading.main_thread()
    threading.Thread(target=lambda: (main.join(), work())).start()
"""
    )
    said = line(program)
    assert said == "opened" or "is ending" in said
    assert ended(program) == ""
    node.wait(lambda: not node.tunnels)
