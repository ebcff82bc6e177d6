"""A fake of the registry's Mesh service on a real port, and a node's link to it.

Here: its answers, and what it received. Not here: whole registries (clusters/registry.py).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from portway_proto.v1.mesh_pb2 import (
    CheckStoreRequest,
    CheckStoreResponse,
    NodeMessage,
    Registered,
    RegistryMessage,
    RenewCertificateRequest,
    RenewCertificateResponse,
    ReservePortsRequest,
    ReservePortsResponse,
    ResolveManyRequest,
    ResolveManyResponse,
    ResolveRequest,
    ResolveResponse,
)
from portway_proto.v1.mesh_pb2_grpc import MeshServicer, add_MeshServicer_to_server
from portway_proto.v1.types_pb2 import NODE_STATE_READY, NodeInfo, TunnelInfo
from portway_registry.pki.ca_folder import CaFolder
from portway_relay.certificates import LoadedCertificates
from portway_relay.registry_link.calls import RegistryCalls
from portway_relay.registry_link.label_questions import LabelQuestions
from portway_relay.registry_link.outbox import Outbox
from portway_relay.registry_link.registries import Registries
from portway_relay.registry_link.stream import RegistryStream
from portway_relay.routing.tunnel import HomeNode
from portway_runtime import clocks as clock
from portway_runtime.certificates import CertifiedKey
from portway_runtime.endpoints import Endpoint
from portway_runtime.grpc_channels import NODE_IS_OUT

from portway_testkit.fakes.clock import ManualClock
from portway_testkit.processes.ports import free_port

LEASE = 77


class FakeMesh(MeshServicer):
    """The service. `heard` are the messages of all streams; `say` and `hang_up` act on the present stream."""

    def __init__(self) -> None:
        self.heard: list[NodeMessage] = []
        self.streams = 0
        self.lease_seconds = 30
        self.time_ms = 0  # 0: it does not send its time
        self.out = ""  # says so to each node that registers, and refuses it as one that is out
        self.silent = False  # accepts a stream and does not answer
        self.hang_ups = 0  # number of streams that end as soon as they have registered
        self.ended: asyncio.Event = asyncio.Event()
        self.asked: list[str] = []
        self.tunnels: dict[str, str] = {}  # nodes by label
        self.trouble = grpc.StatusCode.NOT_FOUND  # the status for any other label
        self.thinks = False
        self.reaches_store = True
        self.asked_together: list[list[str]] = []
        self.trouble_of_many: grpc.StatusCode | None = None
        self._outbox: asyncio.Queue[RegistryMessage | None] = asyncio.Queue()

    @property
    def registers(self) -> list[Any]:
        return [one.register for one in self.heard if one.HasField("register")]

    @property
    def batches(self) -> list[Any]:
        return [one.announce for one in self.heard if one.HasField("announce")]

    @property
    def keep_alives(self) -> list[Any]:
        return [one.keep_alive for one in self.heard if one.HasField("keep_alive")]

    @property
    def tokens(self) -> list[list[str]]:
        """The tokens in each TokensHeld."""
        return [list(one.tokens_held.token_ids) for one in self.heard if one.HasField("tokens_held")]

    def say(self, **message: Any) -> None:
        self._outbox.put_nowait(RegistryMessage(**message))

    def hang_up(self) -> None:
        self._outbox.put_nowait(None)

    async def Session(self, requests: AsyncIterator[NodeMessage], context: Any) -> AsyncIterator[RegistryMessage]:
        self.streams += 1
        outbox: asyncio.Queue[RegistryMessage | None] = asyncio.Queue()
        self._outbox = outbox
        hangs_up = self.streams <= self.hang_ups
        reading = asyncio.ensure_future(self._read(requests, outbox))
        try:
            if self.out:
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, self.out, (NODE_IS_OUT,))
            while self.silent:
                await asyncio.Event().wait()
            while (message := await outbox.get()) is not None:
                yield message
                if self.out:
                    await context.abort(grpc.StatusCode.PERMISSION_DENIED, self.out, (NODE_IS_OUT,))
                if hangs_up:
                    return
        finally:
            reading.cancel()

    async def Resolve(self, request: ResolveRequest, context: Any) -> ResolveResponse:
        self.asked.append(request.label)
        if self.thinks:
            await asyncio.Event().wait()
        if request.label not in self.tunnels:
            await context.abort(self.trouble, "no")
        return self._answer(request.label)

    async def ResolveMany(self, request: ResolveManyRequest, context: Any) -> ResolveManyResponse:
        self.asked_together.append(list(request.labels))
        if self.thinks:
            await asyncio.Event().wait()
        if self.trouble_of_many is not None:
            await context.abort(self.trouble_of_many, "no")
        return ResolveManyResponse(answers=[self._answer(label) for label in request.labels])

    async def ReservePorts(self, request: ReservePortsRequest, context: Any) -> ReservePortsResponse:
        self.asked.append("ports")
        if self.thinks:
            await asyncio.Event().wait()
        return ReservePortsResponse()

    async def RenewCertificate(self, request: RenewCertificateRequest, context: Any) -> RenewCertificateResponse:
        self.asked.append("certificate")
        if self.thinks:
            await asyncio.Event().wait()
        return RenewCertificateResponse()

    async def CheckStore(self, request: CheckStoreRequest, context: Any) -> CheckStoreResponse:
        self.asked.append("store")
        return CheckStoreResponse(answers=self.reaches_store)

    def _answer(self, label: str) -> ResolveResponse:
        if label not in self.tunnels:
            return ResolveResponse()
        return ResolveResponse(tunnel=TunnelInfo(label=label, node=self.tunnels[label]))

    async def _read(self, requests: AsyncIterator[NodeMessage], outbox: "asyncio.Queue[Any]") -> None:
        async for message in requests:
            self.heard.append(message)
            if message.HasField("register"):
                lease = message.register.lease_id or LEASE
                registered = Registered(lease_id=lease, lease_seconds=self.lease_seconds, registry_time_ms=self.time_ms)
                outbox.put_nowait(RegistryMessage(registered=registered))
        self.ended.set()
        outbox.put_nowait(None)


class FakeEvents:
    """Remembers what the registry says."""

    def __init__(self) -> None:
        self.messages: list[RegistryMessage] = []
        self.away: list[bool] = []
        self.removals: list[str] = []

    def removed(self, reason: str) -> None:
        self.removals.append(reason)

    def received(self, message: RegistryMessage) -> None:
        self.messages.append(message)

    def registry_away(self, away: bool) -> None:
        self.away.append(away)


class Certified:
    """A cluster's CA, with certificates of a registry and of a node."""

    def __init__(self, folder: Path) -> None:
        self.pki = folder
        authority = CaFolder.create(folder)
        authority.add_registry(["127.0.0.1"])
        authority.add_node("relay-1")

    def read(self, name: str) -> bytes:
        return (self.pki / name).read_bytes()

    def loaded(self) -> LoadedCertificates:
        node = CertifiedKey(self.read("node-relay-1.crt"), self.read("node-relay-1.key"), None)  # type: ignore[arg-type]
        return LoadedCertificates(self.read("ca.crt"), (), node, {}, {}, {})


@pytest.fixture(scope="session")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Certified:
    return Certified(tmp_path_factory.mktemp("link") / "pki")


@pytest.fixture(scope="session")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Certified:
    return Certified(tmp_path_factory.mktemp("strangers") / "pki")


class Served:
    """A FakeMesh that listens. Stopped and started again, it has the same port."""

    def __init__(self, certified: Certified) -> None:
        self.mesh = FakeMesh()
        self.endpoint = Endpoint("127.0.0.1", free_port())
        self._certified = certified
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self.mesh.silent = False
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        add_MeshServicer_to_server(self.mesh, self._server)
        credentials = grpc.ssl_server_credentials(
            [(self._certified.read("registry.key"), self._certified.read("registry.crt"))],
            self._certified.read("ca.crt"),
            require_client_auth=True,
        )
        self._server.add_secure_port(str(self.endpoint), credentials)
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None


@pytest.fixture
async def serve(certified: Certified) -> AsyncIterator[Callable[..., Any]]:
    """Makes services that listen."""
    made: list[Served] = []

    async def make(certified: Certified = certified) -> Served:
        served = Served(certified)
        made.append(served)
        await served.start()
        return served

    yield make
    for served in made:
        await served.stop()


class NodeEnd:
    """A node's link, and what is around it."""

    def __init__(self, registries: tuple[Endpoint, ...], certified: Certified) -> None:
        self.events = FakeEvents()
        self.outbox = Outbox(HomeNode("relay-1", "fra", "fra.example.com").describe)
        self.calls = RegistryCalls()
        self.info = NodeInfo(name="relay-1", region="fra", state=NODE_STATE_READY, sessions=3, tunnels=2, visits=1)
        self.info.certificate_end_s, self.info.lacking_regions = 4, 5
        self.live: list[Any] = []
        self.tokens: list[str] = []
        self.registry_clock = clock.RegistryClock()
        self.failures: list[BaseException] = []
        # Of how many labels are asked for alone: one that went on would allow more of them where a test is slow.
        self.questions_clock = ManualClock()
        self.questions = LabelQuestions(self.calls, self.questions_clock, on_failure=self.failures.append)
        self.stream = RegistryStream(
            Registries(registries, None),
            certified.loaded,
            lambda: self.info,
            lambda: self.live,
            lambda: self.tokens,
            self.outbox,
            self.calls,
            self.events,
            clock=clock.monotonic,
            wall_clock=clock.wall_clock,
            registry_clock=self.registry_clock,
            on_failure=self.failures.append,
        )

    async def close(self) -> None:
        """In the order of the node's closing stack."""
        await self.questions.close()
        await self.stream.close()


@pytest.fixture
async def node(certified: Certified) -> AsyncIterator[Callable[..., NodeEnd]]:
    """Makes a node whose link has started; a task of it that ends early fails the test."""
    made: list[NodeEnd] = []

    def make(*registries: Served) -> NodeEnd:
        end = NodeEnd(tuple(served.endpoint for served in registries), certified)
        made.append(end)
        end.stream.start()
        return end

    yield make
    for end in made:
        await end.close()
        assert not end.failures


Serve = Callable[..., Any]
MakeNode = Callable[..., NodeEnd]
