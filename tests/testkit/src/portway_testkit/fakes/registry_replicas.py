"""Replicas of a registry that a test plays, and a node that passes connections on to them.

Here: the passages of a node alone, over real sockets. Not here: its public port (front_door.py), a real registry.
"""

import asyncio
import socket
from dataclasses import dataclass, field

import trustme
from portway_carrier.contract import Carrier
from portway_proto.v1.mesh_pb2 import RegistryFront, RegistryFronts
from portway_relay.config import NodeLimits
from portway_relay.passages.checking import FrontCheck
from portway_relay.passages.fronts import Fronts
from portway_relay.passages.measuring import FrontMeasuring
from portway_relay.passages.passages import Passages
from portway_runtime.clocks import RegistryClock, monotonic
from portway_runtime.endpoints import Endpoint
from portway_runtime.node_headers import is_proved, read_proof
from portway_runtime.parse_results import NeedMore
from portway_runtime.proxy_protocol import Parsed, ProxyHeader, parse

from portway_testkit.processes.ports import free_port

KEY = b"k" * 32
NAME = "registry.example.com"
LAST_WORDS = b"nobody"


@dataclass
class Replica:
    """It answers a connection with its name once the header is there, unless it is silent; then it echoes. It does not
    answer one without a header, as a node's own is."""

    name: str
    silent: bool = False
    port: int = field(default_factory=free_port)
    headers: list[ProxyHeader] = field(default_factory=list)
    received: bytes = b""
    accepted: int = 0
    server: asyncio.Server | None = None

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        if self.server is not None:
            self.server.close()
            await self.server.wait_closed()

    @property
    def front(self) -> RegistryFront:
        return RegistryFront(replica=self.name, address=f"127.0.0.1:{self.port}")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        data = b""
        try:
            while isinstance(found := parse(data), NeedMore) or not data:
                more = await reader.read(65_536)
                if not more:
                    return
                data += more
            assert isinstance(found, Parsed)
            self.headers.append(found.header)
            self.received += data[found.length :]
            if not self.silent:
                writer.write(self.name.encode())
            while more := await reader.read(65_536):
                self.received += more
                if not self.silent:
                    writer.write(more)
        except ConnectionError:
            pass
        finally:
            writer.close()


class PassingNode:
    """A node's passages, and callers."""

    def __init__(self, carrier: Carrier, limits: NodeLimits) -> None:
        ca = trustme.CA().cert_pem.bytes()
        self.failures: list[BaseException] = []
        self.carrier = carrier
        self.scarce = False
        self.fronts = Fronts(monotonic)
        self.measuring = FrontMeasuring(self.fronts, carrier, on_failure=self.failures.append)
        self.passages = Passages(
            carrier,
            self.fronts,
            FrontCheck(self.fronts, carrier, lambda: ca, monotonic, on_failure=self.failures.append),
            "fra-1",
            limits,
            last_words=LAST_WORDS,
            is_memory_scarce=lambda: self.scarce,
            clock=monotonic,
            registry_clock=RegistryClock(),
            on_failure=self.failures.append,
        )
        self.writers: list[asyncio.StreamWriter] = []

    def learn(self, *replicas: Replica) -> None:
        self.fronts.learn(RegistryFronts(name=NAME, key=KEY, fronts=[one.front for one in replicas]))

    async def call(
        self, said: bytes = b"hello", source: str = "127.0.0.1"
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection for the registry that has come to this node. Raises AssertionError without a place."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setblocking(False)
            port = listening.getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
            sock, _ = await asyncio.get_running_loop().sock_accept(listening)
        self.writers.append(writer)
        writer.write(said)
        sock.setblocking(False)
        peer = Endpoint(*writer.get_extra_info("sockname")[:2])
        if not self.passages.begin(sock, peer):
            sock.close()
            raise AssertionError("no place")
        return reader, writer


def proved(replica: Replica, header: ProxyHeader) -> bool:
    proof = read_proof(header)
    return proof is not None and proof.node == "fra-1" and is_proved(proof, KEY, replica.name, header)


class BlackHole(Replica):
    """A port whose queue is full: nobody is refused, and no handshake is completed."""

    def __init__(self) -> None:
        super().__init__("hole")

    async def start(self) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.port = self.sock.getsockname()[1]
        self.waiting = []
        for _ in range(4):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", self.port))
            self.waiting.append(one)

    async def stop(self) -> None:
        for one in (self.sock, *self.waiting):
            one.close()
