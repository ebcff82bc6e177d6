"""Fakes of one CA: nodes and a registry; a proxy; the environment that leads to them; an engine that is stopped."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from portway.engine import engine_thread as thread
from portway.engine_process import engine_process as process
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.fakes.fake_registry import FakeRegistry
from portway_testkit.links.connect_proxy import HOSTS, NODE, REGISTRY, ConnectProxy
from portway_testkit.processes.children import children_of
from portway_testkit.processes.turns import PREAMBLE
from portway_testkit.waiting import PATIENCE

TOKEN = "pw_test_secret"


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def node(authority: trustme.CA) -> Iterator[FakeNode]:
    with FakeNode("one", authority) as node:
        yield node


@pytest.fixture
def second_node(authority: trustme.CA) -> Iterator[FakeNode]:
    with FakeNode("two", authority) as node:
        yield node


@pytest.fixture
def registry(authority: trustme.CA, node: FakeNode) -> Iterator[FakeRegistry]:
    with FakeRegistry(authority, [node]) as registry:
        yield registry


@pytest.fixture
def environment(
    registry: FakeRegistry, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    """Set for this process, too; the engines are stopped before the fakes are."""
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    values = {"PORTWAY_REGISTRY": registry.address, "PORTWAY_TOKEN": TOKEN, "PORTWAY_CA": str(ca)}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    yield values
    thread.stop_engine()
    process.stop_engine_process()


@pytest.fixture
def proxy() -> Iterator[ConnectProxy]:
    with ConnectProxy() as proxy:
        proxy.hosts = dict(HOSTS)
        yield proxy


@pytest.fixture
def names(environment: dict[str, str], registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Registry and nodes have names that nobody but the proxy knows, and no variable names one yet."""
    for name in ("https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    registry.node_host = NODE
    environment["PORTWAY_REGISTRY"] = f"{REGISTRY}:{registry.port}"
    monkeypatch.setenv("PORTWAY_REGISTRY", environment["PORTWAY_REGISTRY"])
    return environment


@pytest.fixture(params=["engine in the program", "engine in a process"])
def each_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """For tests of what holds wherever the engine is: PORTWAY_PROCESS, for this process and those that it starts."""
    monkeypatch.setenv("PORTWAY_PROCESS", "1" if request.param == "engine in a process" else "0")
    return str(request.param)


@pytest.fixture
def no_child_is_left() -> Iterator[None]:
    """No process of an engine, nor a zombie."""
    before = set(children_of(os.getpid()))
    yield
    process.stop_engine_process()
    assert set(children_of(os.getpid())) <= before


StartProgram = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start_python(environment: dict[str, str]) -> Iterator[StartProgram]:
    """Starts Python with these arguments and further variables, in a session of its own. It and its children are killed
    after the test."""
    programs: list[subprocess.Popen[str]] = []

    def start(
        *arguments: str, stderr: int = subprocess.PIPE, cwd: Path | None = None, **variables: str
    ) -> "subprocess.Popen[str]":
        program = subprocess.Popen(
            [sys.executable, *arguments],
            env=os.environ | environment | variables,
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
        programs.append(program)
        return program

    yield start
    for program in programs:
        try:
            os.killpg(program.pid, signal.SIGKILL)  # its children too, which hold its pipes
        except ProcessLookupError:
            pass
        program.communicate()


@pytest.fixture
def start_program(start_python: StartProgram, tmp_path: Path) -> StartProgram:
    """Starts a Python program of this text, with arguments, flags of the interpreter and further variables."""

    def start(text: str, *arguments: str, flags: tuple[str, ...] = (), **variables: str) -> "subprocess.Popen[str]":
        script = tmp_path / "program.py"
        script.write_text(text)
        return start_python(*flags, str(script), *arguments, **variables)

    return start


@pytest.fixture
def start(start_program: StartProgram) -> StartProgram:
    """Starts a Python program of this text, which takes turns with the test; warnings are errors."""
    return lambda text: start_program(PREAMBLE + text, flags=("-W", "error"))


class Log(logging.Handler):
    """What the client logs, from INFO up; a test can wait for a line."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[tuple[int, str]] = []
        self._changed = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._changed:
            self.lines.append((record.levelno, record.getMessage()))
            self._changed.notify_all()

    def wait(self, level: int, text: str) -> None:
        """Until a line of this level has `text` in it. Raises AssertionError."""

        def there() -> bool:
            return any(at == level and text in line for at, line in self.lines)

        with self._changed:
            assert self._changed.wait_for(there, PATIENCE), f"never logged: {text!r}; logged: {self.lines}"


@pytest.fixture
def log() -> Iterator[Log]:
    handler = Log()
    logger = logging.getLogger("portway")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


class OpeningTime(logging.Handler):
    """The time limit of an opening: it is over once the client has logged that it tries again, with `words` in the
    reason."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.words: tuple[str, ...] = ()
        self._limit: asyncio.Timeout | None = None

    def begin(self, when: float) -> asyncio.Timeout:
        """In place of asyncio.timeout_at."""
        self._limit = asyncio.Timeout(when)
        return self._limit

    def emit(self, record: logging.LogRecord) -> None:
        """On the engine's loop."""
        text = record.getMessage()
        if self.words and self._limit is not None and "trying again" in text and all(one in text for one in self.words):
            self._limit.reschedule(0.0)
            self._limit = None


TimeIsUpAt = Callable[..., None]  # of the words


@pytest.fixture
def time_is_up_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[TimeIsUpAt]:
    """Sets with which words of the client the time of an opening in this process is over, however long a busy machine
    needs for them: its `timeout` is PATIENCE, which is in the error."""
    time = OpeningTime()
    monkeypatch.setattr(asyncio, "timeout_at", time.begin)
    logger = logging.getLogger("portway.engine.first_attachment")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(time)

    def set_words(*words: str) -> None:
        time.words = words

    yield set_words
    logger.removeHandler(time)
    logger.setLevel(level)


Exchange = Callable[[FakeNode, str, bytes], bytes]


@pytest.fixture
def exchange() -> Exchange:
    """What a visitor of a host gets back that sends a message and half-closes."""

    def visit(node: FakeNode, host: str, message: bytes) -> bytes:
        visitor, ended = node.visit(host.partition(".")[0])
        with visitor:
            visitor.sendall(message)
            visitor.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := visitor.recv(65536):
                answer += piece
        ended.result(PATIENCE)
        return answer

    return visit


class EchoServer:
    """A local server: sends back what it gets, and half-closes when its peer has."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        handlers = []
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                break
            handlers.append(threading.Thread(target=self._echo, args=(sock,)))
            handlers[-1].start()
        for handler in handlers:
            handler.join()

    @staticmethod
    def _echo(sock: socket.socket) -> None:
        with sock:
            while data := sock.recv(65536):
                sock.sendall(data)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    server = EchoServer()
    yield server
    server.close()
