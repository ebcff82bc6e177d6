"""The stream with a registry, against one that does what a test tells it, over real gRPC and mutual TLS."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from portway_proto.v1.mesh_pb2 import (
    ClusterSettings,
    NodeMessage,
    Peers,
    Registered,
    RegistryMessage,
    ResolveRequest,
    ResolveResponse,
    Revocations,
)
from portway_proto.v1.mesh_pb2_grpc import MeshServicer, add_MeshServicer_to_server
from portway_proto.v1.types_pb2 import NODE_STATE_DRAINING, NODE_STATE_READY, NodeInfo, TunnelInfo
from portway_registry.pki import Authority
from portway_registry.signing import LEAF_LIFE, Signer, new_key, private_pem
from portway_relay import clock
from portway_relay.certificates import Identity, LoadedCertificates
from portway_relay.config import Endpoint
from portway_relay.registry_link.announcer import Announcements
from portway_relay.registry_link.link import RegistryLink
from portway_testkit.carriers import until

LEASE = 77


class FakeMesh(MeshServicer):
    """A registry. `heard` is all it was told on every stream; `say` and `hang_up` are for the stream of now."""

    def __init__(self) -> None:
        self.heard: list[NodeMessage] = []
        self.streams = 0
        self.lease_seconds = 30
        self.silent = False  # takes a stream and answers nothing
        self.hang_ups = 0  # ends so many streams as soon as they have registered
        self.ended: asyncio.Event = asyncio.Event()
        self.asked: list[str] = []
        self.tunnels: dict[str, str] = {}  # nodes by label
        self.trouble = grpc.StatusCode.NOT_FOUND  # of any other label
        self.thinks = False
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

    def say(self, **message: Any) -> None:
        self._outbox.put_nowait(RegistryMessage(**message))

    def hang_up(self) -> None:
        self._outbox.put_nowait(None)

    async def Session(self, requests: AsyncIterator[NodeMessage], context: Any) -> AsyncIterator[RegistryMessage]:  # type: ignore[override]
        self.streams += 1
        self._outbox = outbox = asyncio.Queue()
        hangs_up = self.streams <= self.hang_ups
        reading = asyncio.ensure_future(self._read(requests, outbox))
        try:
            while self.silent:
                await asyncio.Event().wait()
            while (message := await outbox.get()) is not None:
                yield message
                if hangs_up:
                    return
        finally:
            reading.cancel()

    async def Resolve(self, request: ResolveRequest, context: Any) -> ResolveResponse:  # type: ignore[override]
        self.asked.append(request.label)
        if self.thinks:
            await asyncio.Event().wait()
        if request.label not in self.tunnels:
            await context.abort(self.trouble, "no")
        return ResolveResponse(tunnel=TunnelInfo(label=request.label, node=self.tunnels[request.label]))

    async def _read(self, requests: AsyncIterator[NodeMessage], outbox: "asyncio.Queue[Any]") -> None:
        async for message in requests:
            self.heard.append(message)
            if message.HasField("register"):
                lease = message.register.lease_id or LEASE
                outbox.put_nowait(
                    RegistryMessage(registered=Registered(lease_id=lease, lease_seconds=self.lease_seconds))
                )
        self.ended.set()
        outbox.put_nowait(None)


class FakeNews:
    """Who is told what the registry says."""

    def __init__(self) -> None:
        self.messages: list[RegistryMessage] = []
        self.away: list[bool] = []

    def heard(self, message: RegistryMessage) -> None:
        self.messages.append(message)

    def registry_away(self, away: bool) -> None:
        self.away.append(away)


class Certified:
    """A cluster's CA, a registry's certificate and a node's; and those of another cluster."""

    def __init__(self, folder: Path) -> None:
        self.pki = folder
        authority = Authority.create(folder)
        authority.add_registry(["127.0.0.1"])
        authority.add_node("relay-1")

    def read(self, name: str) -> bytes:
        return (self.pki / name).read_bytes()

    def loaded(self) -> LoadedCertificates:
        node = Identity(self.read("node-relay-1.crt"), self.read("node-relay-1.key"), None)  # type: ignore[arg-type]
        return LoadedCertificates(self.read("ca.crt"), (), node, {}, None, None, {})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Certified:
    return Certified(tmp_path_factory.mktemp("link") / "pki")


@pytest.fixture(scope="session")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Certified:
    return Certified(tmp_path_factory.mktemp("strangers") / "pki")


class Served:
    """A FakeMesh that listens; stopped and started again it has the same port."""

    def __init__(self, certified: Certified) -> None:
        self.mesh = FakeMesh()
        self.endpoint = Endpoint("127.0.0.1", 0)
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
        port = self._server.add_secure_port(str(self.endpoint), credentials)
        self.endpoint = Endpoint("127.0.0.1", port)
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None


@pytest.fixture
async def serve(certified: Certified) -> AsyncIterator[Callable[..., Any]]:
    """Makes registries that serve."""
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
        self.news = FakeNews()
        self.announcements = Announcements("relay-1", "fra", "fra.example.com")
        self.info = NodeInfo(name="relay-1", region="fra", state=NODE_STATE_READY, sessions=3, tunnels=2, visits=1)
        self.live: list[Any] = []
        self.failures: list[BaseException] = []
        self.link = RegistryLink(
            registries,
            certified.loaded,
            lambda: self.info,
            lambda: self.live,
            self.announcements,
            self.news,
            clock=clock.monotonic,
            on_failure=self.failures.append,
        )


@pytest.fixture
async def node(certified: Certified) -> AsyncIterator[Callable[..., NodeEnd]]:
    """Makes a node whose link has started; a task of it that ends early fails the test."""
    made: list[NodeEnd] = []

    def make(*registries: Served) -> NodeEnd:
        end = NodeEnd(tuple(served.endpoint for served in registries), certified)
        made.append(end)
        end.link.start()
        return end

    yield make
    for end in made:
        await end.link.close()
        assert not end.failures


Serve = Callable[..., Any]
MakeNode = Callable[..., NodeEnd]


async def test_a_node_registers_and_tells_everything(serve: Serve, node: MakeNode) -> None:
    """Register, with no lease; then all tunnels in one batch, and a keep-alive with the counts of now."""
    registry = await serve()
    end = node(registry)
    mesh = registry.mesh
    await until(lambda: bool(mesh.keep_alives))
    assert mesh.registers[0].node == end.info
    assert mesh.registers[0].lease_id == 0
    assert [batch.full for batch in mesh.batches] == [True]
    alive = mesh.keep_alives[0]
    assert (alive.sessions, alive.tunnels, alive.visits, alive.state) == (3, 2, 1, NODE_STATE_READY)
    assert end.link.connected
    assert end.news.away == [False]


async def test_news_are_passed_on_in_order(serve: Serve, node: MakeNode) -> None:
    """All but Registered, which is the link's own."""
    registry = await serve()
    end = node(registry)
    await until(lambda: end.link.connected)
    registry.mesh.say(settings=ClusterSettings(cluster_id="c1"))
    registry.mesh.say(revocations=Revocations(token_ids=["t1"]))
    registry.mesh.say(peers=Peers())
    await until(lambda: len(end.news.messages) == 3)
    kinds = [message.WhichOneof("message") for message in end.news.messages]
    assert kinds == ["settings", "revocations", "peers"]


async def test_changes_are_announced_as_they_come(serve: Serve, node: MakeNode) -> None:
    """At once, not with the next keep-alive."""
    registry = await serve()
    end = node(registry)
    await until(lambda: bool(registry.mesh.batches))
    end.announcements.withdrawn("a" * 16, 3)
    await until(lambda: len(registry.mesh.batches) == 2)
    withdrawn = registry.mesh.batches[1].withdrawn
    assert [(one.label, one.epoch) for one in withdrawn] == [("a" * 16, 3)]
    assert len(registry.mesh.keep_alives) == 1


async def test_a_lease_is_kept_alive(serve: Serve, node: MakeNode) -> None:
    """Three times a lease, so that two may be lost."""
    registry = await serve()
    registry.mesh.lease_seconds = 1
    node(registry)
    await until(lambda: len(registry.mesh.keep_alives) >= 3)


async def test_a_lease_of_no_time_is_no_flood(serve: Serve, node: MakeNode) -> None:
    """A registry that names none is told a few times a second."""
    registry = await serve()
    registry.mesh.lease_seconds = 0
    end = node(registry)
    loop = asyncio.get_running_loop()
    await until(lambda: end.link.connected)
    began = loop.time()
    await until(lambda: len(registry.mesh.keep_alives) >= 3)
    assert loop.time() - began >= 0.3


async def test_a_change_of_state_is_told_at_once(serve: Serve, node: MakeNode) -> None:
    """A node that stops must get no new clients."""
    registry = await serve()
    end = node(registry)
    await until(lambda: len(registry.mesh.keep_alives) == 1)
    end.info.state = NODE_STATE_DRAINING
    end.link.tell_state()
    await until(lambda: len(registry.mesh.keep_alives) == 2)
    assert registry.mesh.keep_alives[1].state == NODE_STATE_DRAINING


async def test_a_lost_registry_is_found_again_and_its_lease_resumed(serve: Serve, node: MakeNode) -> None:
    """What hangs on the lease has not gone; everything is told again nevertheless, for it may be another's memory."""
    registry = await serve()
    end = node(registry)
    await until(lambda: len(registry.mesh.batches) == 1)
    registry.mesh.hang_up()
    await until(lambda: len(registry.mesh.batches) == 2)
    assert [register.lease_id for register in registry.mesh.registers] == [0, LEASE]
    assert [batch.full for batch in registry.mesh.batches] == [True, True]
    assert end.news.away == [False, True, False]


async def test_while_no_registry_is_there_the_node_waits(serve: Serve, node: MakeNode) -> None:
    """It knows that none is, and is back with one that comes up on the same address."""
    registry = await serve()
    end = node(registry)
    await until(lambda: end.link.connected)
    await registry.stop()
    await until(lambda: end.news.away == [False, True])
    assert not end.link.connected
    end.announcements.withdrawn("a" * 16, 1)
    assert end.announcements.take() is None
    await registry.start()
    await until(lambda: end.link.connected)
    assert registry.mesh.registers[-1].lease_id == LEASE


class Earlier(Certified):
    """A registry's certificate with the names of its hosts alone."""

    def __init__(self, certified: Certified, folder: Path, host: str) -> None:
        self.pki = folder
        for name in ("ca.crt", "node-relay-1.crt", "node-relay-1.key"):
            (folder / name).write_bytes(certified.read(name))
        signer = Signer.load(certified.read("ca.crt"), certified.read("ca.key"), names=("", ""))
        key = new_key()
        made = signer._issue(key.public_key(), "registry", [host], (ExtendedKeyUsageOID.SERVER_AUTH,), LEAF_LIFE)
        (folder / "registry.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
        (folder / "registry.key").write_bytes(private_pem(key))


async def test_a_registry_of_before_is_known_by_its_host(
    serve: Serve, node: MakeNode, certified: Certified, tmp_path: Path
) -> None:
    """Its certificate was made before registries had a name of their own."""
    served = await serve(Earlier(certified, tmp_path, "127.0.0.1"))
    end = node(served)
    await until(lambda: end.link.connected)


async def test_a_registry_with_another_s_certificate_is_none(
    serve: Serve, node: MakeNode, certified: Certified, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither by the name of all registries nor by its host."""
    end = node(await serve(Earlier(certified, tmp_path, "other.example")))
    with caplog.at_level(logging.WARNING):
        await until(lambda: bool(caplog.records))
    assert "registry.portway.internal" in caplog.records[0].reason  # type: ignore[attr-defined]
    assert not end.link.connected


async def test_the_next_registry_takes_over(serve: Serve, node: MakeNode) -> None:
    """When the one in use goes, with the lease that it had given; and the first one may be away at the start."""
    first, second = await serve(), await serve()
    end = node(first, second)
    await until(lambda: end.link.connected)
    assert not second.mesh.streams
    await first.stop()
    await until(lambda: len(second.mesh.batches) == 1)
    assert second.mesh.registers[0].lease_id == LEASE
    assert second.mesh.batches[0].full
    other = node(first, second)
    await until(lambda: other.link.connected)
    assert second.mesh.registers[1].lease_id == 0


async def test_a_second_registered_makes_the_node_tell_everything_again(serve: Serve, node: MakeNode) -> None:
    """The lease was lost and replaced: what hung on it is gone. The new one is the one to resume."""
    registry = await serve()
    end = node(registry)
    await until(lambda: len(registry.mesh.batches) == 1)
    registry.mesh.say(registered=Registered(lease_id=78, lease_seconds=30))
    await until(lambda: len(registry.mesh.batches) == 2)
    assert registry.mesh.batches[1].full
    assert end.news.away == [False]
    registry.mesh.hang_up()
    await until(lambda: len(registry.mesh.batches) == 3)
    assert registry.mesh.registers[1].lease_id == 78


async def test_a_registry_that_answers_nothing_is_left(
    serve: Serve, node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a time limit the next one is tried."""
    monkeypatch.setattr("portway_relay.registry_link.link._REGISTERED_WITHIN", 0.3)
    mute, other = await serve(), await serve()
    mute.mesh.silent = True
    end = node(mute, other)
    await until(lambda: end.link.connected)
    assert mute.mesh.streams == 1
    assert other.mesh.streams == 1


async def test_a_registry_that_hangs_up_at_once_is_not_hammered(serve: Serve, node: MakeNode) -> None:
    """Being registered for a moment is no success: the pauses grow."""
    registry = await serve()
    registry.mesh.hang_ups = 4
    end = node(registry)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await until(lambda: registry.mesh.streams == 5 and end.link.connected)
    # 0.1, 0.2, 0.4 and 0.8 s, each at least half of it.
    assert loop.time() - began >= 0.75


async def test_a_node_that_leaves_says_so_and_ends_the_stream(serve: Serve, node: MakeNode) -> None:
    """What was not told yet, then its state, then the end: the registry forgets it at once."""
    registry = await serve()
    end = node(registry)
    await until(lambda: len(registry.mesh.keep_alives) == 1)
    end.info.state = NODE_STATE_DRAINING
    end.announcements.withdrawn("a" * 16, 1)
    await end.link.close()
    assert registry.mesh.ended.is_set()
    assert [message.WhichOneof("message") for message in registry.mesh.heard[-2:]] == ["announce", "keep_alive"]
    assert registry.mesh.keep_alives[-1].state == NODE_STATE_DRAINING
    await end.link.close()


async def test_leaving_takes_no_longer_than_it_may(serve: Serve, node: MakeNode) -> None:
    """A registry that does not end its side, or is not there, keeps no node from stopping."""
    registry = await serve()
    end = node(registry)
    await until(lambda: end.link.connected)
    registry.mesh.ended.set()
    loop = asyncio.get_running_loop()
    began = loop.time()
    await registry.stop()
    await end.link.close(within=0.2)
    assert loop.time() - began < 5


async def test_trouble_is_logged_once(
    serve: Serve, node: MakeNode, strangers: Certified, caplog: pytest.LogCaptureFixture
) -> None:
    """Of each registry, until there is one again: an outage of hours must not fill the log."""
    wrong = await serve(strangers)
    gone = await serve()
    await gone.stop()
    with caplog.at_level(logging.DEBUG, logger="portway_relay.registry_link.link"):
        end = node(wrong, gone)
        await until(lambda: len(_told(caplog, wrong)) >= 3 and len(_told(caplog, gone)) >= 3)
    for served in (wrong, gone):
        assert [record.levelno for record in _told(caplog, served)][:3] == [
            logging.WARNING,
            logging.DEBUG,
            logging.DEBUG,
        ]
    assert "--cluster-ca" in _told(caplog, wrong)[0].__dict__["reason"]
    assert "refused" in _told(caplog, gone)[0].__dict__["reason"].lower()
    assert not end.news.away, "it was away from the start: there is no change to tell"


async def test_a_registry_of_another_cluster_is_no_registry(serve: Serve, node: MakeNode, strangers: Certified) -> None:
    """Its certificate is refused before anything is said; the next one is tried."""
    wrong, right = await serve(strangers), await serve()
    end = node(wrong, right)
    await until(lambda: end.link.connected)
    assert not wrong.mesh.heard
    assert right.mesh.streams == 1


def _told(caplog: pytest.LogCaptureFixture, served: Served) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.__dict__.get("registry") == str(served.endpoint)]


async def test_a_label_is_resolved_over_the_same_connection(serve: Serve, node: MakeNode) -> None:
    """The node that has it; None when nobody has."""
    registry = await serve()
    registry.mesh.tunnels["a"] = "relay-2"
    end = node(registry)
    assert await end.link.resolve("a") is None  # it is not connected yet
    await until(lambda: end.link.connected)
    answer = await end.link.resolve("a")
    assert answer is not None
    assert answer.tunnel.node == "relay-2"
    assert await end.link.resolve("b") is None
    assert registry.mesh.asked == ["a", "b"]


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED])
async def test_a_registry_that_cannot_say_is_one_that_knows_nobody(
    serve: Serve, node: MakeNode, caplog: pytest.LogCaptureFixture, code: grpc.StatusCode
) -> None:
    """The operator hears of it; others can be asked."""
    registry = await serve()
    registry.mesh.trouble = code
    end = node(registry)
    await until(lambda: end.link.connected)
    assert await end.link.resolve("a") is None
    assert "a label could not be resolved" in caplog.text


@pytest.mark.parametrize("how", ["registry stops", "stream ends"])
async def test_a_question_ends_with_its_connection(serve: Serve, node: MakeNode, how: str) -> None:
    """Whoever asked goes on without, and is not cancelled."""
    registry = await serve()
    registry.mesh.thinks = True
    end = node(registry)
    await until(lambda: end.link.connected)
    asking = asyncio.ensure_future(end.link.resolve("a"))
    await until(lambda: registry.mesh.asked == ["a"])
    if how == "registry stops":
        await registry.stop()
    else:
        registry.mesh.hang_up()
    assert await asking is None


async def test_a_question_that_is_cancelled_is_cancelled(serve: Serve, node: MakeNode) -> None:
    """By whoever asked."""
    registry = await serve()
    registry.mesh.thinks = True
    end = node(registry)
    await until(lambda: end.link.connected)
    asking = asyncio.ensure_future(end.link.resolve("a"))
    await until(lambda: registry.mesh.asked == ["a"])
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
