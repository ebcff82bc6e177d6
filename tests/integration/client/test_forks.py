"""Programs that fork with tunnels open or without: a child has tunnels of its own and does not disturb its parent's."""

import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.processes.turns import ended, go_on, label_of, line
from portway_testkit.waiting import PATIENCE

pytestmark = [pytest.mark.shares_sockets, pytest.mark.usefixtures("each_engine")]

Start = Callable[[str], "subprocess.Popen[str]"]


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
    assert program.wait(PATIENCE) == -signal.SIGKILL
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
