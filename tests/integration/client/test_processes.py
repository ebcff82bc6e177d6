"""Programs that end, fail and are killed with tunnels open: no hang, and no tunnel left behind."""

import signal
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from portway_proto.v1 import lane_pb2
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.fakes.fake_registry import FakeRegistry
from portway_testkit.processes.turns import ended, go_on, label_of, line
from portway_testkit.waiting import PATIENCE

pytestmark = [pytest.mark.shares_sockets, pytest.mark.usefixtures("each_engine")]

Start = Callable[[str], "subprocess.Popen[str]"]


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
    assert program.wait(PATIENCE) == -signal.SIGKILL
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


def test_a_program_can_end_while_its_node_is_away(start: Start, node: FakeNode, registry: FakeRegistry) -> None:
    """Re-attaching is no reason to stay."""
    program = start("with portway.forward(8000) as tunnel:\n    tell(tunnel.url)\n    wait_to_be_told()\n")
    line(program)
    node.stop()
    registry.stop()
    go_on(program)
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
