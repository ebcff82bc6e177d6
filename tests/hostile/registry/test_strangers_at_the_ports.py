"""Strangers without a token or a certificate at the ports of a registry, which is a process of its own."""

import asyncio
import socket
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from portway.engine.grpc_registries import CALL_TIMEOUT
from portway_lab.cluster.portway import Cluster, NodePlan, RegistryPlan, start_cluster
from portway_lab.cluster.processes import Processes
from portway_proto.v1 import admin_pb2
from portway_proto.v1.admin_pb2_grpc import AdminStub
from portway_proto.v1.discovery_pb2 import LocateRequest
from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub
from portway_runtime.half_open import STALLED_AFTER
from portway_testkit.clusters.registry import SESSION_KEY, bearer, channel
from portway_testkit.links.carrier_link import until
from portway_testkit.visitors.hellos import real_hello
from portway_testkit.visitors.http2_stranger import Call, Http2Stranger, Strangers
from portway_testkit.visitors.siege import memory_of
from portway_testkit.waiting import PATIENCE

LOCATE = "/portway.v1.Discovery/Locate"
HEALTH = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
# Other prefixes than that of the honest clients, which come from 127.0.0.1.
SOURCES = tuple(f"127.0.{prefix}.1" for prefix in (1, 2, 3, 4))
FEW_DESCRIPTORS = 300
TRIES = 20

# A registry and a node of their own first, with three commands; then thousands of connections.
pytestmark = pytest.mark.timeout(180)


@dataclass(frozen=True, slots=True)
class Attacked:
    """A registry with one node."""

    cluster: Cluster
    ready: dict[str, str]

    @property
    def pid(self) -> int:
        return self.cluster.registry_process.pid

    def port(self, which: str) -> int:
        return int(self.ready[which].rpartition(":")[2])

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Any]:
        async with channel(self.cluster.registry, self.cluster.ca) as opened:
            yield DiscoveryStub(opened)

    async def locates(self) -> list[float]:
        """The seconds that each of some new clients' Locates took; those that failed, or for which a client does not
        wait, are absent."""
        took = []
        for _ in range(TRIES):
            began = time.monotonic()
            try:
                async with self.client() as stub:
                    request = LocateRequest(session_key=SESSION_KEY)
                    await stub.Locate(request, metadata=bearer(self.cluster.token), timeout=CALL_TIMEOUT)
            except grpc.aio.AioRpcError:
                pass
            else:
                took.append(time.monotonic() - began)
            await asyncio.sleep(max(0.0, 0.1 - (time.monotonic() - began)))
        return took

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def log_size(self) -> int:
        return self.cluster.registry_process.log.stat().st_size


@contextmanager
def attacked(plan: RegistryPlan | None = None) -> Iterator[Attacked]:
    with tempfile.TemporaryDirectory(prefix="pw-") as folder, Processes(Path(folder)) as processes:
        cluster = start_cluster(processes, (NodePlan("fra-1", "fra", 50.1, 8.7),), plan)
        yield Attacked(cluster, processes.wait_ready(cluster.registry_process))


@pytest.fixture(scope="module")
def registry() -> Iterator[Attacked]:
    with attacked() as found:
        yield found


async def some_closed(connections: list[socket.socket], count: int) -> None:
    """Return once the registry has closed so many of the connections."""
    await until(lambda: sum(map(_is_closed, connections)) >= count)


def _is_closed(sock: socket.socket) -> bool:
    try:
        sock.setblocking(False)
        return sock.recv(65_536) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


async def test_calls_without_a_token_keep_nobody_out(registry: Attacked) -> None:
    """8,000 calls a second from four prefixes: honest clients have their answers, mostly within a second."""
    before = memory_of(registry.pid)
    log = registry.log_size()
    port = registry.port("listen")
    with Strangers("127.0.0.1", port, LOCATE, Call.WHOLE, sources=SOURCES, rate=8_000) as strangers:
        took = await registry.locates()
    assert strangers.connections > len(SOURCES), "no connection was ended"
    assert len(took) >= 0.95 * TRIES
    assert statistics.median(took) < 1
    assert memory_of(registry.pid) - before < 64
    assert registry.log_size() - log < 16_384


async def test_headers_without_a_message_hold_no_memory(registry: Attacked) -> None:
    """30,000 calls of which only the headers come, 900 KB; then gRPC kept some 20 KB for each."""
    before = memory_of(registry.pid)
    strangers = []
    with ExitStack() as stack:
        for source in SOURCES[:3]:
            stranger = stack.enter_context(Http2Stranger("127.0.0.1", registry.port("listen"), LOCATE, source=source))
            with suppress(OSError):  # the registry ends the connection before all are sent
                for _ in range(500):
                    stranger.call(20, Call.HEADERS)
                    await asyncio.sleep(0)
            strangers.append(stranger)
        await until(lambda: all(stranger.ended() for stranger in strangers))
        assert len(await registry.locates()) >= 0.95 * TRIES
        assert memory_of(registry.pid) - before < 64


async def test_health_cannot_be_watched_and_checks_are_few(registry: Attacked) -> None:
    """What everybody may call costs a connection its life when it is called without end."""
    for method in (WATCH, HEALTH):
        with Http2Stranger("127.0.0.1", registry.port("listen"), method, source=SOURCES[0]) as stranger:

            def goes_on() -> bool:
                try:
                    stranger.call(5, Call.WHOLE)
                except OSError:
                    return False
                return not stranger.ended()

            await until(lambda: not goes_on())
    assert len(await registry.locates()) >= 0.95 * TRIES


@pytest.mark.parametrize("which", ["listen", "mesh_listen"])
@pytest.mark.parametrize("sent", [b"", real_hello("localhost", ["h2"])], ids=["silent", "a hello"])
async def test_idle_connections_make_room_before_descriptors_end(which: str, sent: bytes) -> None:
    """A registry with 300 descriptors, and 275 connections of one stranger: clients and nodes come in, at either port,
    and the registry still dials its nodes."""
    limit = RegistryPlan(prefix=("prlimit", f"--nofile={FEW_DESCRIPTORS}:{FEW_DESCRIPTORS}"))
    with attacked(limit) as registry, ExitStack() as stack:
        connections = []
        for _ in range(275):
            sock = socket.create_connection(("127.0.0.1", registry.port(which)), PATIENCE, (SOURCES[0], 0))
            stack.callback(sock.close)
            connections.append(sock)
            sock.sendall(sent)
        await some_closed(connections, 200)
        assert len(await registry.locates()) >= 0.95 * TRIES
        assert registry.descriptors() < FEW_DESCRIPTORS - 16
        (node,) = registry.cluster.ask("node", "list")["nodes"]
        assert node["name"] == "fra-1"


@pytest.mark.parametrize("which", ["listen", "mesh_listen"])
async def test_stalled_handshakes_wait_behind_each_other(registry: Attacked, which: str) -> None:
    """1,200 hellos of which nothing follows, from four prefixes: gRPC holds a bounded number of them, and clients come
    in meanwhile."""
    before = memory_of(registry.pid)
    hello = real_hello("localhost", ["h2"])
    with ExitStack() as stack:
        for number in range(1_200):
            source = SOURCES[number % len(SOURCES)]
            sock = socket.create_connection(("127.0.0.1", registry.port(which)), PATIENCE, (source, 0))
            stack.callback(sock.close)
            sock.sendall(hello)
        assert len(await registry.locates()) >= 0.95 * TRIES
        assert memory_of(registry.pid) - before < 128


async def test_silence_after_the_handshake_makes_room_too() -> None:
    """The same, by a stranger who has paid for a handshake on each connection and from the clients' own address."""
    limit = RegistryPlan(prefix=("prlimit", f"--nofile={FEW_DESCRIPTORS}:{FEW_DESCRIPTORS}"))
    with attacked(limit) as registry, ExitStack() as stack:
        for _ in range(100):
            with suppress(OSError):
                stack.enter_context(Http2Stranger("127.0.0.1", registry.port("listen"), LOCATE, source="127.0.0.1"))
        await asyncio.sleep(STALLED_AFTER)
        assert len(await registry.locates()) >= 0.95 * TRIES
        assert registry.descriptors() < FEW_DESCRIPTORS - 16


async def test_a_watcher_and_a_node_stay_while_strangers_come(registry: Attacked) -> None:
    """Connections with calls in progress make no room."""
    shown = bearer(registry.cluster.admin_token_file.read_text().strip())
    async with channel(registry.cluster.registry, registry.cluster.ca) as opened:
        watch: Any = AdminStub(opened).WatchNodes(admin_pb2.WatchNodesRequest(), metadata=shown)
        while (await watch.read()).kind != admin_pb2.CHANGE_KIND_SYNCED:
            pass
        with ExitStack() as stack:
            connections = []
            for number in range(3_000):
                sock = socket.create_connection(
                    ("127.0.0.1", registry.port("listen")), PATIENCE, (SOURCES[number % len(SOURCES)], 0)
                )
                stack.callback(sock.close)
                connections.append(sock)
            await some_closed(connections, 500)
            assert len(await registry.locates()) >= 0.95 * TRIES
        assert not watch.done()
        watch.cancel()
