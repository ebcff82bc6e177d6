"""What a thief of a node's key for PROXY headers can do at a registry's public port, and what it cannot."""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import pytest
from grpc.aio import AioRpcError
from portway.engine.grpc_registries import CALL_TIMEOUT
from portway_proto.v1 import admin_pb2
from portway_proto.v1.discovery_pb2 import LocateRequest
from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub
from portway_proto.v1.mesh_pb2 import RegistryFronts
from portway_registry.cluster import now_ms
from portway_registry.config import Config
from portway_registry.net.node_headers import FRESH_MS
from portway_registry.server import Registry
from portway_runtime.endpoints import Endpoint
from portway_runtime.node_headers import NONCE_SIZE, write_header
from portway_testkit.clusters.admin_caller import AdminCaller
from portway_testkit.clusters.node_stream import stream
from portway_testkit.clusters.registry import PATIENCE, SESSION_KEY, Pki, bearer, channel
from portway_testkit.visitors.hellos import real_hello

NAME = "localhost"
HELLO = real_hello(NAME, ["h2"])
AT = Endpoint("198.51.100.1", 443)
PLACES = 64  # of known callers; strangers have a quarter of it
TRIES = 10


@pytest.fixture
def config(config: Config) -> Config:
    """A registry that nodes pass connections on to, with few places."""
    metrics = Endpoint("127.0.0.1", 0)
    return replace(config, registry_name=NAME, max_connections=PLACES, metrics_listen=metrics)


@dataclass
class Thief:
    """Has the key of a node, and what that node was told."""

    told: RegistryFronts
    port: int
    sockets: list[socket.socket] = field(default_factory=list)

    def header(self, source: str = "203.0.113.9", *, node: str = "fra-1", replica: str = "", later: int = 0) -> bytes:
        """In front of a connection that comes from `source`, as this node says."""
        to = replica or self.told.fronts[0].replica
        nonce = secrets.token_bytes(NONCE_SIZE)
        return write_header(self.told.key, node, to, Endpoint(source, 50_000), AT, now_ms() + later, nonce)

    async def sends(self, data: bytes) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        self.sockets.append(sock)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", self.port))
        await loop.sock_sendall(sock, data)
        return sock

    async def is_answered(self, header: bytes) -> bool:
        """Whether TLS begins behind this; the connection is closed then."""
        sock = await self.sends(header + HELLO)
        try:
            return await asyncio.get_running_loop().sock_recv(sock, 1) != b""
        except ConnectionError:
            return False
        finally:
            sock.close()


@pytest.fixture
async def thief(registry: Registry, pki: Pki) -> AsyncIterator[Thief]:
    async with stream(registry, pki, "fra-1") as node:
        told = await node.until(lambda: node.registry_fronts)
        thief = Thief(told, int(registry.address.rpartition(":")[2]))
        yield thief
        for sock in thief.sockets:
            sock.close()


async def refused(registry: Registry) -> dict[str, int]:
    """PROXY headers that were refused at the public port, by the reason in the metrics."""
    assert registry.metrics_address is not None
    host, _, port = registry.metrics_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
    page = (await reader.read()).decode()
    writer.close()
    begins = 'portway_registry_connections_ended_total{port="listen",reason="proxy header '
    lines = [line.removeprefix(begins) for line in page.splitlines() if line.startswith(begins)]
    return {reason: int(float(number)) for reason, number in (line.split('"} ') for line in lines)}


async def test_it_names_addresses_as_that_node_alone(thief: Thief, registry: Registry) -> None:
    """Of now, for this replica and once: everything else is refused and counted."""
    header = thief.header()
    assert await thief.is_answered(header)
    assert not await thief.is_answered(header)
    assert not await thief.is_answered(thief.header(later=-2 * FRESH_MS))
    assert not await thief.is_answered(thief.header(later=2 * FRESH_MS))
    assert not await thief.is_answered(thief.header(node="iad-1"))
    assert not await thief.is_answered(thief.header(replica="another"))
    assert not await thief.is_answered(thief.header()[:-1] + b"x")
    assert await refused(registry) == {"replayed": 1, "stale": 2, "forged": 3}
    assert await thief.is_answered(b"")


async def test_it_ends_with_the_node(thief: Thief, admin: AdminCaller) -> None:
    """An operator removes it: no header of it is believed from then on."""
    assert await thief.is_answered(thief.header())
    request = admin_pb2.OrderNodeRequest(name="fra-1", order=admin_pb2.NODE_ORDER_REMOVE)
    await admin.stub.OrderNode(request, metadata=admin.shown)
    async with asyncio.timeout(PATIENCE):
        while await thief.is_answered(thief.header()):
            pass


async def test_whoever_it_says_it_is_others_are_served(
    thief: Thief, registry: Registry, pki: Pki, admin: AdminCaller
) -> None:
    """A thousand connections, each from another network as it says, which begin TLS and stay: clients that come by
    themselves have their answers, and so have those that come through another node."""
    token = (await admin.new_token()).token
    async with stream(registry, pki, "iad-1") as other:
        told = await other.until(lambda: other.registry_fronts)

        async def storm() -> None:
            for number in range(1_000):
                try:
                    await thief.sends(thief.header(f"198.{number // 250}.{number % 250}.1") + HELLO)
                except OSError:
                    pass
                await asyncio.sleep(0.001)

        storming = asyncio.ensure_future(storm())
        answered = 0
        for _ in range(TRIES):
            try:
                async with channel(registry.address, pki.ca) as opened:
                    request = LocateRequest(session_key=SESSION_KEY)
                    await DiscoveryStub(opened).Locate(request, metadata=bearer(token), timeout=CALL_TIMEOUT)
            except AioRpcError:
                pass
            else:
                answered += 1
        through_other = replace(thief, told=told)
        through = sum([await through_other.is_answered(through_other.header(node="iad-1")) for _ in range(TRIES)])
        await storming
    assert answered >= TRIES - 1  # one is cut short where the machine pauses for as long as a client waits
    assert through >= TRIES - 1
