"""The stream with a registry, kept up: one of several registries at a time, the next one when it is lost.

Here: connecting, registering, keeping alive, passing news both ways. Not here: what the news means (cluster.py), nor
what is announced (announcer.py). While no registry can be reached the node goes on without one (DESIGN §2).
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

import grpc
from grpc import aio
from portway_proto.v1.mesh_pb2 import (
    KeepAlive,
    NodeMessage,
    Probed,
    Register,
    Registered,
    RegistryMessage,
    RenewCertificateRequest,
    ReservePortsRequest,
    ReservePortsResponse,
    ResolveResponse,
)
from portway_proto.v1.mesh_pb2_grpc import MeshStub
from portway_proto.v1.types_pb2 import NodeCertificate, NodeInfo
from portway_runtime.clocks import Monotonic, WallClock
from portway_runtime.descriptors import demand_descriptors
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import NoDescriptors
from portway_runtime.identities import REGISTRY_NAME
from portway_runtime.tasks import Tasks

from portway_relay.certificates import LoadedCertificates
from portway_relay.errors import RenewalFailed
from portway_relay.registry_link.calls import Calls, reason_of
from portway_relay.registry_link.label_questions import Questions
from portway_relay.registry_link.outbox import Announcements
from portway_relay.routing.tunnel import Tunnel

logger = logging.getLogger(__name__)

Stream = aio.StreamStreamCall[NodeMessage, RegistryMessage]

# A registry answers Register within milliseconds; one whose store is away may not, and another one may.
_REGISTERED_WITHIN: Final = 10.0
_RESERVED_WITHIN: Final = 5.0  # it writes to the store
_RENEWED_WITHIN: Final = 10.0
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 3.0
# A registry that served for so long was a good one: its loss begins with a try at once.
_STEADY: Final = 10.0
# Two keep-alives may be lost before the lease is.
KEEP_ALIVES_A_LEASE: Final = 3
# Whatever lease a registry names, it is not flooded.
_SHORTEST_PAUSE: Final = 0.2
# Worth a word to operators, in seconds: less than grants and certificates allow for.
_CLOCKS_APART: Final = 60.0
_OPTIONS: Final = (
    # Keep-alive alone notices a frozen peer after 40 s and more.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Without a pool of its own a new channel would wait out the back-off of the one before.
    ("grpc.use_local_subchannel_pool", 1),
)


# A certificate that was made for a registry by an earlier release has the names of its hosts alone.
_BY_NAME: Final = ("grpc.ssl_target_name_override", REGISTRY_NAME)


class RegistryNews(Protocol):
    """Who is told what a registry says."""

    def heard(self, message: RegistryMessage) -> None:
        """Anything but Registered."""
        ...

    def registry_away(self, away: bool) -> None:
        """Whether a registry has this node registered now; told at each change."""
        ...


class RegistryLink:
    """One stream at a time."""

    def __init__(
        self,
        registries: tuple[Endpoint, ...],
        certificates: Callable[[], LoadedCertificates],
        node: Callable[[], NodeInfo],
        live: Callable[[], Iterable[Tunnel]],
        announcements: Announcements,
        news: RegistryNews,
        *,
        clock: Monotonic,
        wall_clock: WallClock,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """`node` says what this node is now, counts and state included; `live` which tunnels it holds."""
        self._registries = list(registries)
        self._certificates = certificates
        self._node = node
        self._live = live
        self._announcements = announcements
        self._news = news
        self._clock = clock
        self._wall_clock = wall_clock
        self._tasks = Tasks("registry link", on_failure)
        self._keeper: asyncio.Task[None] | None = None
        self._lease = Registered()
        self._whole_due = False
        self._state_due = False
        self._probed: list[Probed] = []
        self._leaving = False
        self._channel: aio.Channel | None = None
        self._calls = Calls(lambda: self._channel if self.connected else None)
        self._questions = Questions(self._calls, self._tasks, clock)
        self._by_host: set[Endpoint] = set()  # registries whose certificate has not the name of all of them
        self._trouble: dict[Endpoint, str] = {}  # what was said of each last
        self.connected = False

    def start(self) -> None:
        self._keeper = self._tasks.spawn(self._keep_connected(), name="keep connected")

    def tell_state(self) -> None:
        """The node's state has changed: say so now."""
        self._state_due = True
        self._announcements.news.set()

    def tell_probed(self, probed: Probed) -> None:
        """What this registry has asked to be tried. Told late, or to another registry, it says nothing to anybody."""
        self._probed.append(probed)
        self._announcements.news.set()

    async def resolve(self, label: str) -> ResolveResponse | None:
        """Who holds a label, as the registry knows it; None when it knows nobody, or cannot be asked."""
        return await self._questions.ask(label)

    async def reserve_ports(self, request: ReservePortsRequest) -> ReservePortsResponse | None:
        """Ports for this node to give to tunnels; None when no registry can be asked."""
        try:
            return await self._calls.answer(lambda mesh: mesh.ReservePorts(request, timeout=_RESERVED_WITHIN))
        except aio.AioRpcError as error:
            logger.warning("no ports were reserved", extra={"reason": reason_of(error.code(), error.details() or "")})
            return None

    async def renew_certificate(self, csr: bytes) -> NodeCertificate:
        """The next certificate for this node. Raises RenewalFailed, which says why there is none now."""
        request = RenewCertificateRequest(csr=csr)
        try:
            answer = await self._calls.answer(lambda mesh: mesh.RenewCertificate(request, timeout=_RENEWED_WITHIN))
        except aio.AioRpcError as error:
            raise RenewalFailed(reason_of(error.code(), error.details() or "")) from error
        if answer is None:
            raise RenewalFailed("no registry can be reached, or it was lost just now")
        return answer.certificate

    async def close(self, *, within: float = 1.0) -> None:
        """End the stream in order, in `within` seconds at the most: what is due is told first."""
        self._leaving = True
        self._announcements.news.set()
        if self._keeper is not None and self.connected:
            await asyncio.wait([self._keeper], timeout=within)
        await self._tasks.close()
        self._keeper = None  # a task that was cancelled holds its channel

    async def _keep_connected(self) -> None:
        pauses = _pauses()
        while True:
            registry = self._registries[0]
            since = self._clock()
            reason = await self._serve_once(registry)
            if self.connected:
                self.connected = False
                self._announcements.disconnected()
                self._news.registry_away(True)
                if self._clock() - since >= _STEADY:
                    pauses = _pauses()
            if self._leaving:
                return
            self._say(registry, reason)
            self._registries.append(self._registries.pop(0))
            await asyncio.sleep(next(pauses))

    async def _serve_once(self, registry: Endpoint) -> str:
        """One stream; why it is over."""
        try:
            await self._serve(registry)
        except aio.AioRpcError as error:
            if "Hostname Verification" in (error.details() or "") and registry not in self._by_host:
                self._by_host.add(registry)
                return await self._serve_once(registry)
            self._by_host.discard(registry)
            return reason_of(error.code(), error.details() or "")
        except TimeoutError:
            return f"no answer within {_REGISTERED_WITHIN:g} s"
        except NoDescriptors as error:
            return str(error)
        return "it ended the stream"

    def _say(self, registry: Endpoint, reason: str) -> None:
        """Once for each trouble: an outage of hours must not fill the log."""
        level = logging.DEBUG if reason == self._trouble.get(registry) else logging.WARNING
        self._trouble[registry] = reason
        logger.log(level, "no registry", extra={"registry": str(registry), "reason": reason})

    async def _serve(self, registry: Endpoint) -> None:
        """One stream from Register to its end. Raises AioRpcError, TimeoutError, NoDescriptors."""
        demand_descriptors()
        loaded = self._certificates()
        credentials = grpc.ssl_channel_credentials(loaded.ca, loaded.node.key, loaded.node.chain)
        options = _OPTIONS if registry in self._by_host else (*_OPTIONS, _BY_NAME)
        async with aio.secure_channel(str(registry), credentials, options=options) as channel:
            self._channel = channel
            stream: Stream = MeshStub(channel).Session()
            telling: asyncio.Task[None] | None = None
            try:
                async with asyncio.timeout(_REGISTERED_WITHIN):
                    await stream.write(NodeMessage(register=Register(node=self._node(), lease_id=self._lease.lease_id)))
                    await self._hear(stream)
                telling = self._tasks.spawn(self._tell(stream), name="tell")
                while await self._hear(stream):
                    pass
            finally:
                if telling is not None:
                    telling.cancel()
                stream.cancel()
                self._channel = None

    async def _hear(self, stream: Stream) -> bool:
        """One message; False at the end of the stream. Raises AioRpcError."""
        message = await stream.read()
        if not isinstance(message, RegistryMessage):
            code = await stream.code()
            if code is not grpc.StatusCode.OK:
                raise aio.AioRpcError(
                    code, await stream.initial_metadata(), await stream.trailing_metadata(), await stream.details()
                )
            return False
        if message.WhichOneof("message") == "registered":
            self._registered(message.registered)
        else:
            self._news.heard(message)
        return True

    def _registered(self, lease: Registered) -> None:
        """Also in mid-stream, when the lease had to be replaced: what hung on it is gone."""
        self._lease = lease
        self._whole_due = True
        self._announcements.news.set()
        if not self.connected:
            self.connected = True
            self._trouble.clear()
            logger.info("registered", extra={"lease_seconds": lease.lease_seconds})
            self._compare_clocks(lease)
            self._news.registry_away(False)

    def _compare_clocks(self, lease: Registered) -> None:
        """What the registry signs is good from one moment to another, and it is its clock that says which."""
        ahead = self._wall_clock() - lease.registry_time_ms / 1000
        if lease.registry_time_ms and abs(ahead) > _CLOCKS_APART:
            logger.warning(
                "this clock and the registry's differ: set them right", extra={"seconds_ahead": round(ahead)}
            )

    async def _tell(self, stream: Stream) -> None:
        """Announcements as they come, a keep-alive when it is time: one writer, as a stream takes one write at once."""
        due = self._clock()
        try:
            while True:
                leaving = self._leaving
                batch = self._batch()
                if batch is not None:
                    await stream.write(batch)
                while self._probed:
                    await stream.write(NodeMessage(probed=self._probed.pop(0)))
                if leaving or self._state_due or self._clock() >= due:
                    self._state_due = False
                    due = self._clock() + max(_SHORTEST_PAUSE, self._lease.lease_seconds / KEEP_ALIVES_A_LEASE)
                    await stream.write(NodeMessage(keep_alive=self._keep_alive()))
                if leaving:
                    await stream.done_writing()
                    return
                try:
                    async with asyncio.timeout(max(0.0, due - self._clock())):
                        await self._announcements.news.wait()
                except TimeoutError:
                    pass
                self._announcements.news.clear()
        except (aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the stream is over; who reads it is told why

    def _batch(self) -> NodeMessage | None:
        if self._whole_due:
            self._whole_due = False
            return NodeMessage(announce=self._announcements.whole(self._live()))
        changes = self._announcements.take()
        return None if changes is None else NodeMessage(announce=changes)

    def _keep_alive(self) -> KeepAlive:
        node = self._node()
        return KeepAlive(sessions=node.sessions, tunnels=node.tunnels, visits=node.visits, state=node.state)


def _pauses() -> Iterator[float]:
    """Seconds before each further try, spread: all nodes lose a registry at the same moment."""
    pause = _FIRST_PAUSE
    while True:
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries only
        pause = min(2 * pause, _LONGEST_PAUSE)
