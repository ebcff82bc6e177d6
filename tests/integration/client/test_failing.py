"""Opening a tunnel that cannot be opened: the right error, soon, saying who was tried, and nothing left behind."""

import asyncio
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import portway
import pytest
import trustme
from portway.engine import grpc_registries as registries
from portway.engine import session
from portway_proto.v1 import lane_pb2
from portway_runtime import names
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.fakes.fake_registry import FakeRegistry
from portway_testkit.processes.ports import free_port
from portway_testkit.waiting import PATIENCE

pytestmark = [pytest.mark.shares_sockets, pytest.mark.usefixtures("environment")]


def opening(port: int = 8000, **options: Any) -> Callable[[], None]:
    """What opens a tunnel and closes it again."""

    def open_it() -> None:
        with portway.forward(port, **options):
            pass

    return open_it


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_no_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one, the error names the variable and the argument."""
    monkeypatch.delenv("PORTWAY_REGISTRY")
    with pytest.raises(portway.ConfigError, match=r"PORTWAY_REGISTRY.*registry="):
        opening()()


def test_an_unreachable_registry(time_is_up_at: Any) -> None:
    """Each one that was tried is named, with its reason."""
    first, second = (f"127.0.0.1:{free_port()}" for _ in range(2))
    time_is_up_at(f"{first}: connection refused", f"{second}: connection refused")
    with pytest.raises(portway.UnreachableError) as raised:
        opening(registry=[first, second], timeout=PATIENCE)()
    assert [attempt.address for attempt in raised.value.attempts] == [first, second]
    assert all("connection refused" in attempt.reason for attempt in raised.value.attempts)
    assert str(raised.value).startswith("no tunnel within 30 s: no registry could say where the relay nodes are\n")
    assert first in str(raised.value)


class Waiting(logging.Handler):
    """Calls `then` when the client has logged, for the first time, that it tries again."""

    def __init__(self, then: Callable[[], object]) -> None:
        super().__init__()
        self.then = [then]

    def emit(self, record: logging.LogRecord) -> None:
        if "trying again" in record.msg and self.then:
            self.then.pop()()


@pytest.fixture
def when_it_waits() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Sets what happens once a first search has failed."""
    logger = logging.getLogger("portway.engine.first_attachment")
    handlers: list[Waiting] = []

    def do(then: Callable[[], object]) -> None:
        handlers.append(Waiting(then))
        logger.addHandler(handlers[-1])

    level = logger.level
    logger.setLevel(logging.INFO)
    yield do
    logger.setLevel(level)
    for handler in handlers:
        logger.removeHandler(handler)


def test_a_registry_that_is_late_is_waited_for(registry: FakeRegistry, when_it_waits: Any) -> None:
    """A machine that starts: nobody listens there yet."""
    registry.stop()
    when_it_waits(registry.__enter__)
    opening()()
    assert registry.locates == 1


def test_a_name_that_is_late_is_waited_for(
    registry: FakeRegistry, when_it_waits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that starts: the registry's name cannot be resolved yet."""
    known: list[names.Address] = []

    def resolve(host: str, flags: int = 0) -> list[names.Address]:
        if not known:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return known

    monkeypatch.setattr(names, "_addresses", resolve)
    when_it_waits(lambda: known.append(names.Address(socket.AF_INET, "127.0.0.1")))
    opening(registry=f"localhost:{registry.port}")()
    assert registry.locates == 1


def test_a_node_that_is_late_is_waited_for(registry: FakeRegistry, node: FakeNode, when_it_waits: Any) -> None:
    """A cluster that starts: the registry knows no node yet."""
    registry.nodes = []
    when_it_waits(lambda: registry.nodes.append(node))
    opening()()


def test_a_registry_that_never_answers(
    silent_port: int, monkeypatch: pytest.MonkeyPatch, registry: Any, time_is_up_at: Any
) -> None:
    """It has its share of the time, then the next one is asked."""
    monkeypatch.setattr(registries, "CALL_TIMEOUT", 0.3)
    silent = f"127.0.0.1:{silent_port}"
    time_is_up_at("no answer within 0.3 s")
    with pytest.raises(portway.UnreachableError, match=r"no answer within 0\.3 s"):
        opening(registry=silent, timeout=PATIENCE)()
    monkeypatch.setattr(registries, "CALL_TIMEOUT", 2.0)
    opening(registry=[silent, registry.address], timeout=PATIENCE)()


def test_the_registry_that_answered_is_asked_first(
    registry: FakeRegistry, node: FakeNode, silent_port: int, monkeypatch: pytest.MonkeyPatch, echo: Any
) -> None:
    """One that hangs costs its share of the time once, and not at every re-attachment."""
    monkeypatch.setattr(registries, "CALL_TIMEOUT", 0.5)
    with portway.forward(echo.port, registry=[f"127.0.0.1:{silent_port}", registry.address]) as tunnel:
        monkeypatch.setattr(registries, "CALL_TIMEOUT", 60)  # to be found hanging, were it asked again
        node.stop()
        node.port = free_port()
        node.__enter__()  # elsewhere: only a registry knows where
        node.wait(lambda: tunnel.host.partition(".")[0] in node.tunnels)


def test_a_registry_of_another_ca(tmp_path: Path) -> None:
    """It is not trusted, and the error says what to check."""
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    with pytest.raises(portway.UnreachableError, match="not trusted: check PORTWAY_CA"):
        opening(ca=other)()


def test_a_ca_file_of_no_use(tmp_path: Path) -> None:
    """One that looks like a certificate and is none is found out at the latest when it is used."""
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("-----BEGIN CERTIFICATE-----\nZm9v\n-----END CERTIFICATE-----\n")
    with pytest.raises(portway.UnreachableError, match="CA file cannot be used"):
        opening(ca=garbage)()


def test_a_node_of_another_ca(registry: FakeRegistry, time_is_up_at: Any) -> None:
    """Nodes are trusted by the CA that the registry names, and by nothing else."""
    registry.cluster_ca = trustme.CA().cert_pem.bytes()
    time_is_up_at("not trusted")
    with pytest.raises(portway.UnreachableError, match="not trusted"):
        opening(timeout=PATIENCE)()


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, portway.AuthError),
        (grpc.StatusCode.PERMISSION_DENIED, portway.AuthError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, portway.QuotaError),
        (grpc.StatusCode.NOT_FOUND, portway.InvalidError),
        (grpc.StatusCode.FAILED_PRECONDITION, portway.RemoteError),
        (grpc.StatusCode.UNAVAILABLE, portway.UnreachableError),
        (grpc.StatusCode.INTERNAL, portway.UnreachableError),
    ],
)
def test_a_registry_that_refuses(
    registry: FakeRegistry, status: grpc.StatusCode, error: type[portway.Error], when_it_waits: Any, time_is_up_at: Any
) -> None:
    """What it says is in the error, whose kind the status decides; its token was shown."""
    registry.refuse = (status, "because the test says so")
    when_it_waits(lambda: setattr(registry, "refuse", (status, "because the test says so again")))
    time_is_up_at("because the test says so again")
    with pytest.raises(error, match="because the test says so"):
        opening(token="pw_0_unknown", timeout=PATIENCE)()
    assert set(registry.tokens) == {"Bearer pw_0_unknown"}
    final = error is not portway.UnreachableError  # what may pass is tried again
    assert (len(registry.tokens) == 1) is final


def test_a_registry_of_version_1(registry: FakeRegistry, node: FakeNode) -> None:
    """It names no cluster to sign for: the error says which of the two to upgrade, and no node is dialled."""
    registry.cluster_id = ""
    with pytest.raises(portway.RemoteError, match="older than this client, upgrade it"):
        opening()()
    assert node.count("hello") == 0


def test_a_malformed_token(registry: FakeRegistry) -> None:
    """Nobody is asked about it."""
    with pytest.raises(portway.AuthError, match="pw_<id>_<secret>"):
        opening(token="secret")()
    assert registry.tokens == []


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (lane_pb2.FAILURE_CODE_REVOKED, portway.AuthError),
        (lane_pb2.FAILURE_CODE_GRANT, portway.AuthError),
        (lane_pb2.FAILURE_CODE_VERSION, portway.RemoteError),
    ],
)
def test_a_node_that_refuses_the_client(node: FakeNode, code: int, error: type[portway.Error]) -> None:
    """What every node would say is the error itself."""
    node.refuse_hello = lane_pb2.Failure(code=lane_pb2.FailureCode.ValueType(code), message="because")
    with pytest.raises(error, match="because"):
        opening()()


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (lane_pb2.FAILURE_CODE_QUOTA, portway.QuotaError),
        (lane_pb2.FAILURE_CODE_PORTS, portway.RemoteError),
        (lane_pb2.FAILURE_CODE_INVALID, portway.InvalidError),
        (lane_pb2.FAILURE_CODE_OVERLOADED, portway.RemoteError),
    ],
)
def test_a_tunnel_that_is_refused(node: FakeNode, code: int, error: type[portway.Error]) -> None:
    """The next one opens in the same session, on the same port."""
    node.refuse_bind = lane_pb2.Failure(code=lane_pb2.FailureCode.ValueType(code))
    with pytest.raises(error):
        opening()()
    node.refuse_bind = None
    opening()()
    assert node.count("hello") == 1


def test_every_node_that_failed_is_named(
    node: FakeNode, second_node: FakeNode, registry: FakeRegistry, time_is_up_at: Any
) -> None:
    """Each candidate, in order, with a reason of its own."""
    registry.nodes = [node, second_node]
    node.stop()
    second_node.refuse_hello = lane_pb2.Failure(code=lane_pb2.FAILURE_CODE_OVERLOADED, message="full up")
    time_is_up_at("refused", "full up")
    with pytest.raises(portway.UnreachableError) as raised:
        opening(timeout=PATIENCE)()
    one, two = raised.value.attempts
    assert (one.name, one.address, two.name) == ("one", f"127.0.0.1:{node.port}", "two")
    assert "refused" in one.reason.lower()
    assert two.reason == "full up"


def test_a_full_node_is_passed_over(node: FakeNode, second_node: FakeNode, registry: FakeRegistry) -> None:
    """The next candidate has the tunnel."""
    registry.nodes = [node, second_node]
    node.refuse_hello = lane_pb2.Failure(code=lane_pb2.FAILURE_CODE_OVERLOADED)
    with portway.forward(8000):
        assert len(second_node.tunnels) == 1


def test_time_runs_out_on_silent_nodes(node: FakeNode, registry: FakeRegistry) -> None:
    """The error says whom it was waiting for, and nothing goes on after it."""
    node.silent = True
    with pytest.raises(portway.UnreachableError, match=r"no tunnel within 3 s\n  one \(.*\): no answer yet"):
        opening(timeout=3)()
    node.silent = False
    opening()()


def test_time_runs_out_on_a_silent_registry(silent_port: int) -> None:
    """The same of a registry."""
    with pytest.raises(portway.UnreachableError, match="the registry: no answer yet"):
        opening(registry=f"127.0.0.1:{silent_port}", timeout=0.3)()


def test_a_node_that_never_answers_bind_is_left(
    node: FakeNode, echo: Any, monkeypatch: pytest.MonkeyPatch, exchange: Any
) -> None:
    """Its connection is dropped, and the tunnel asked for again."""
    monkeypatch.setattr(session, "ANSWER_TIMEOUT", 2.0)
    node.ignore_binds = True

    def answer_the_next_one() -> None:
        node.wait(lambda: node.count("bind ignored") == 1)
        node.ignore_binds = False

    watching = threading.Thread(target=answer_the_next_one)
    watching.start()
    with portway.forward(echo.port) as tunnel:
        assert exchange(node, tunnel.host, b"hello") == b"hello"
    watching.join()
    assert node.count("hello") == 2


async def test_a_cancelled_opening_leaves_nothing(node: FakeNode) -> None:
    """The caller's own cancellation comes out, and no tunnel stays."""
    node.ignore_binds = True

    async def open_it() -> None:
        async with portway.forward(8000):
            pass

    async with asyncio.TaskGroup() as group:
        task = group.create_task(open_it())
        await asyncio.to_thread(node.wait, lambda: node.count("bind ignored") == 1)
        task.cancel()
    assert task.cancelled()
    node.wait(lambda: node.count("unbind") == 1)
    node.ignore_binds = False
    async with portway.forward(8000):
        pass


def test_an_interrupted_opening_leaves_nothing(node: FakeNode) -> None:
    """Ctrl-C while the program waits for its tunnel: KeyboardInterrupt at once, the port is free again."""
    node.ignore_binds = True

    def interrupt() -> None:
        node.wait(lambda: node.count("bind ignored") == 1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        opening(timeout=60)()
    interrupter.join()
    assert time.monotonic() - began < 30  # not the time that opening may take
    node.wait(lambda: node.count("unbind") == 1)
    node.ignore_binds = False
    opening()()


async def test_an_engine_that_stops_tells_who_waits(node: FakeNode) -> None:
    """It is no cancellation of the caller's."""
    from portway.engine import engine_thread as thread

    node.ignore_binds = True

    async def open_it() -> None:
        with pytest.raises(portway.RemoteError, match="stopped while the tunnel was being opened"):
            async with portway.forward(8000):
                pass

    async with asyncio.TaskGroup() as group:
        group.create_task(open_it())
        await asyncio.to_thread(node.wait, lambda: node.count("bind ignored") == 1)
        await asyncio.to_thread(thread.stop_engine)


def test_a_node_that_breaks_the_protocol_is_told_and_left(node: FakeNode, echo: Any, exchange: Any) -> None:
    """A frame that no node may send ends the connection with PROTOCOL. There is no other node, so the session is
    resumed on a new one."""
    with portway.forward(echo.port) as tunnel:
        node.send(0x13, b"")  # BIND is the client's
        node.wait(lambda: ("hello", True) in node.events)
        assert exchange(node, tunnel.host, b"hello") == b"hello"
