"""Programs that change sockets and threads for their whole process: a tunnel of theirs works as any other.

The local server keeps its connections: it answers, and then waits for the next request.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.processes.ports import free_port
from portway_testkit.waiting import PATIENCE

pytestmark = [pytest.mark.shares_sockets, pytest.mark.usefixtures("each_engine")]

# Seconds. The default timeout below is longer: an engine that waits for as long is told from a slow machine.
PROMPT = 10.0

CHANGES = {
    "default timeout": "import socket\nsocket.setdefaulttimeout(30)",
    "gevent": "from gevent import monkey\nmonkey.patch_all()",
    "gevent, late": "import portway\nfrom gevent import monkey\nmonkey.patch_all()",
    "eventlet": "import eventlet\neventlet.monkey_patch()",
}
LOOPS = {"uvloop": "", "asyncio": "import sys\nsys.modules['uvloop'] = None"}

_PROGRAM = """
import os, pathlib, socket, sys, threading, time
import portway

def answer(sock):
    while request := sock.recv(100):
        sock.sendall(b"answer to " + request)
    sock.close()

def serve(listener):
    while True:
        threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

def hold(key=""):
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(None)
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    with portway.forward(listener.getsockname()[1], unencrypted=bool(key), key=key) as tunnel:
        print(f"{tunnel.host}\\n", end="", flush=True)  # at once: two threads print
        while not done.exists():
            time.sleep(0.01)

done = pathlib.Path(sys.argv[1])
others = threading.Thread(target=hold, args=(str(done.parent / "key"),))
others.start()
hold()
others.join()
"""

_APPLICATION = """
import os, portway

def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"hi"]

tunnel = portway.forward(int(os.environ["PORT"])).__enter__()
with open("host.new", "w") as file:
    file.write(tunnel.host)
os.rename("host.new", "host")
"""

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start(start_program: Callable[..., "subprocess.Popen[str]"], tmp_path: Path) -> Start:
    """Starts a Python program, which ends once there is a file `done`."""

    def run(text: str) -> "subprocess.Popen[str]":
        return start_program(text, str(tmp_path / "done"), flags=("-W", "ignore"))

    return run


def asked(node: FakeNode, host: str, request: bytes, last: bytes) -> list[bytes]:
    """The answers to three requests on one connection, up to their `last` bytes, each within PROMPT seconds."""
    visitor, ended = node.visit(host.partition(".")[0])
    answers = []
    with visitor:
        visitor.settimeout(PROMPT)
        for _ in range(3):
            visitor.sendall(request)
            answer = b""
            while not answer.endswith(last):
                answer += visitor.recv(1000)
            answers.append(answer)
    ended.result(PROMPT)
    return answers


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_tunnel_works_as_any_other(node: FakeNode, start: Start, tmp_path: Path, change: str, loop: str) -> None:
    """Two tunnels, opened by two threads of the program at the same time, of which one has a key file; no visitor waits
    for longer than his server needs; the program ends at once."""
    program = start("\n".join((LOOPS[loop], CHANGES[change], _PROGRAM)))
    assert program.stdout is not None
    for host in [program.stdout.readline().strip() for _ in range(2)]:
        assert host, program.communicate()[1]
        for _ in range(2):
            assert asked(node, host, b"request", b"request") == [b"answer to request"] * 3
    (tmp_path / "done").touch()
    began = time.monotonic()
    out, errors = program.communicate(timeout=PATIENCE)
    assert (program.returncode, out, errors) == (0, "", "")
    assert time.monotonic() - began < PROMPT


def test_a_worker_of_gunicorn_has_a_tunnel(node: FakeNode, environment: dict[str, str], tmp_path: Path) -> None:
    """Its gevent worker: the application opens a tunnel to itself when it is loaded."""
    port = free_port()
    (tmp_path / "served.py").write_text(_APPLICATION)
    command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-b", f"127.0.0.1:{port}", "served:application"]
    with (tmp_path / "log").open("wb") as log:
        program = subprocess.Popen(
            command, cwd=tmp_path, env=os.environ | environment | {"PORT": str(port)}, stdout=log, stderr=log
        )
    try:
        while not (tmp_path / "host").exists():
            assert program.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.01)
        request = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
        answers = asked(node, (tmp_path / "host").read_text(), request, b"\r\n\r\nhi")
        assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers), answers
        program.send_signal(signal.SIGTERM)
        assert program.wait(PROMPT) == 0
    finally:
        program.kill()
        program.wait()
