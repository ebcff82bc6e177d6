"""The programs of client/examples, run as they stand: the address comes first, SIGTERM ends them in order."""

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.processes.children import children_of
from portway_testkit.processes.threads import signal_another_thread
from portway_testkit.waiting import PATIENCE

pytestmark = [pytest.mark.shares_sockets, pytest.mark.timeout(180)]

EXAMPLES = Path(__file__).resolve().parents[3] / "client" / "examples"

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Starts an example by its name; what still runs at the end of the test is told to end, and must."""
    running: list[subprocess.Popen[str]] = []
    # Its own home, so that Jupyter finds no settings of whoever runs the tests.
    home = {"HOME": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path), "JUPYTER_DATA_DIR": str(tmp_path)}

    def run(name: str, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
        log = tmp_path / f"{name}.log"
        with log.open("w") as errors:
            program = subprocess.Popen(
                [sys.executable, str(EXAMPLES / name), *arguments],
                env=os.environ | environment | home | variables,
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        running.append(program)
        return program

    yield run
    for program in running:
        program.terminate()
        try:
            program.communicate(timeout=30)
        finally:
            program.kill()


def line(program: "subprocess.Popen[str]") -> str:
    assert program.stdout is not None
    return program.stdout.readline().strip()


def get(node: FakeNode, url: str, until: bytes | None = None) -> bytes:
    """What a visitor of the URL gets for a GET: the whole answer, or as far as `until`."""
    host, _, path = url.removeprefix("https://").partition("/")
    visitor, ended = node.visit(host.partition(".")[0])
    with visitor:
        visitor.sendall(f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while until is None or until not in answer:
            piece = visitor.recv(65536)
            if not piece:
                break
            answer += piece
    ended.result(PATIENCE)
    return answer


@pytest.mark.parametrize("name", ["web.py", "webhooks.py", "async_web.py", "jupyter.py", "hub.py"])
def test_each_tells_about_itself(name: str) -> None:
    """`--help` works without a cluster."""
    done = subprocess.run([sys.executable, str(EXAMPLES / name), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {name}")


@pytest.mark.parametrize(
    ("name", "expected"), [("web.py", b"Hello from behind a tunnel."), ("async_web.py", b"\r\n\r\ndata: ")]
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_web_server(start: Start, node: FakeNode, name: str, expected: bytes, number: signal.Signals) -> None:
    """Its page is there; told to end, it does, with exit code 0 and the tunnel closed."""
    program = start(name)
    assert expected in get(node, line(program), until=expected)
    program.send_signal(number)
    assert program.wait(PATIENCE) == 0
    node.wait(lambda: not node.tunnels)


def test_webhooks_arrive_at_a_url_that_stays(start: Start, node: FakeNode) -> None:
    """Started again, the program has the same one; what is posted is printed."""
    urls = []
    for number in range(2):
        program = start("webhooks.py")
        urls.append(line(program))
        visitor, ended = node.visit(urls[-1].removeprefix("https://").partition(".")[0])
        with visitor:
            visitor.sendall(b"POST /hook HTTP/1.1\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
            assert visitor.recv(100).startswith(b"HTTP/1.0 204 ")
        ended.result(PATIENCE)
        assert json.loads(line(program)) == {"path": "/hook", "body": "hello"}
        program.terminate()
        assert program.wait(PATIENCE) == 0
        node.wait(lambda: not node.tunnels)
        assert node.count("bind") == number + 1
    assert urls[0] == urls[1]


def test_jupyter(start: Start, node: FakeNode) -> None:
    """JupyterLab answers at the address that is printed, to whoever has the token, and ends with the example."""
    pytest.importorskip("jupyterlab")
    program = start("jupyter.py", "--port", "0")
    url = line(program)
    assert "/lab?token=" in url
    assert get(node, url).startswith(b"HTTP/1.1 200 ")
    status = get(node, url.partition("/lab?")[0] + "/api/contents")
    assert status.startswith(b"HTTP/1.1 403 ")
    program.terminate()
    assert program.wait(30) == 0
    node.wait(lambda: not node.tunnels)


STUBBORN = """
import os, signal, socket, sys
port = next(int(one.partition("=")[2]) for one in sys.argv if one.startswith("--ServerApp.port="))
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1) if len(told) < int(os.environ["UNSEEN"]) else sys.exit())
with socket.create_server(("127.0.0.1", port)):
    while True:
        signal.pause()
"""


@pytest.mark.parametrize("unseen", [1, 2])
def test_a_server_that_does_not_see_its_signal_ends_too(
    start: Start, node: FakeNode, tmp_path: Path, unseen: int
) -> None:
    """It is told again, and killed if that has no effect either. The example hears of its end on another thread."""
    (tmp_path / "jupyterlab").mkdir()
    (tmp_path / "jupyterlab/__init__.py").touch()
    (tmp_path / "jupyterlab/__main__.py").write_text(STUBBORN)
    program = start("jupyter.py", "--port", "0", PYTHONPATH=str(tmp_path), UNSEEN=str(unseen))
    assert "/lab?token=" in line(program)
    [server] = children_of(program.pid)
    signal_another_thread(program.pid, signal.SIGTERM)
    assert program.wait(40) == 0
    assert not Path(f"/proc/{server}").exists()
    node.wait(lambda: not node.tunnels)


def test_jupyter_does_not_publish_a_port_that_is_taken(start: Start, node: FakeNode, echo: Any) -> None:
    """It ends with an error, and no address is printed, where somebody else listens on its port."""
    pytest.importorskip("jupyterlab")
    program = start("jupyter.py", "--port", str(echo.port))
    assert line(program) == ""
    assert program.wait(30) != 0
    node.wait(lambda: not node.tunnels)


@pytest.fixture
def post() -> Callable[..., http.client.HTTPResponse]:
    """POST to a hub's address; the answer, read."""

    def ask(address: str, token: str | None) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(address.removeprefix("http://").rstrip("/"), timeout=60)
        try:
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            connection.request("POST", "/", body=b"{}", headers=headers)
            answer = connection.getresponse()
            answer.read()
        finally:
            connection.close()
        return answer

    return ask


def test_the_hub_starts_notebooks_for_who_may(start: Start, node: FakeNode, post: Any) -> None:
    """401 without the right token; 303 with it, to a notebook that answers; all of them end with the hub."""
    pytest.importorskip("jupyterlab")
    hub = start("hub.py", "--port", "0", "--limit", "1", HUB_TOKEN="a secret")
    address = line(hub)
    for wrong in (None, "another", ""):
        refused = post(address, wrong)
        assert (refused.status, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert not node.tunnels
    started = post(address, "a secret")
    assert started.status == 303
    assert get(node, started.headers["Location"]).startswith(b"HTTP/1.1 200 ")
    assert post(address, "a secret").status == 503
    hub.terminate()
    assert hub.wait(40) == 0
    node.wait(lambda: not node.tunnels)


def test_the_hub_makes_a_token_where_none_is_given(start: Start, post: Any) -> None:
    """It is the second line, and lets in."""
    hub = start("hub.py", "--port", "0", "--limit", "0")
    address, token = line(hub), line(hub)
    assert len(token) >= 20
    assert post(address, token).status == 503  # let in, and then there was no room
    assert post(address, token[:-1]).status == 401
