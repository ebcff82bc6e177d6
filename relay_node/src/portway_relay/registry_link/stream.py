"""The stream with a registry, kept up: with one of several registries at a time, with the next when it is lost.

Here: connecting, registering, keep-alives, messages both ways. Not here: what a registry's messages do
(message_handler.py), what is sent (outbox.py). While no registry can be reached the node serves its tunnels without.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

import grpc
from grpc import aio
from portway_proto.v1.mesh_pb2 import DnsHeld, KeepAlive, NodeMessage, Register, Registered, RegistryMessage, TokensHeld
from portway_proto.v1.mesh_pb2_grpc import MeshStub
from portway_proto.v1.types_pb2 import NodeInfo
from portway_runtime.backoff import Backoff
from portway_runtime.clocks import Monotonic, RegistryClock, WallClock
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import NoDescriptors, NoThread
from portway_runtime.grpc_channels import CallFault
from portway_runtime.tasks import Tasks

from portway_relay.certificates import LoadedCertificates
from portway_relay.registry_link.calls import RegistryCalls, fault_of, is_out, reason_of
from portway_relay.registry_link.channels import RegistryChannels, Unresolved
from portway_relay.registry_link.outbox import Outbox
from portway_relay.registry_link.registries import Registries
from portway_relay.registry_link.store_search import Found, StoreSearch
from portway_relay.routing.tunnel import Tunnel

logger = logging.getLogger(__name__)

Stream = aio.StreamStreamCall[NodeMessage, RegistryMessage]

# A registry answers Register within milliseconds; one whose store is away may not, and another one may.
_REGISTER_TIME: Final = 10.0
# Seconds before each further try, spread because all nodes lose a registry at the same moment.
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 3.0
# After a stream that lasted this long the pauses begin with the first again.
_STEADY_TIME: Final = 10.0
# Two keep-alives may be lost before the lease is.
KEEP_ALIVES_A_LEASE: Final = 3
# Seconds between keep-alives, at least, whatever lease a registry names.
_SHORTEST_INTERVAL: Final = 0.2
# A difference between clocks that is logged, in seconds; grants and certificates allow for more.
_CLOCKS_APART: Final = 60.0
# Seconds for which registries must say that the node is out before one that has not registered since its start believes
# it: after an invitation anew a replica may still have the order that removed the node before.
_OUT_FOR: Final = 5.0
_TOKENS_A_MESSAGE: Final = 1_000  # as mesh.proto says


class RegistryEvents(Protocol):
    """What a registry's messages and its absence do."""

    def received(self, message: RegistryMessage) -> None:
        """A message came; Registered never."""
        ...

    def registry_away(self, away: bool) -> None:
        """No registry has this node registered any more, or one has again; called at each change."""
        ...

    def removed(self, reason: str) -> None:
        """The cluster admits this node no more; the stream is not opened again."""
        ...


class RegistryStream:
    """Keeps one stream up, and gives its channel to `calls`."""

    def __init__(
        self,
        registries: Registries,
        certificates: Callable[[], LoadedCertificates],
        node: Callable[[], NodeInfo],
        live: Callable[[], Iterable[Tunnel]],
        tokens: Callable[[], Iterable[str]],
        outbox: Outbox,
        calls: RegistryCalls,
        events: RegistryEvents,
        *,
        clock: Monotonic,
        wall_clock: WallClock,
        registry_clock: RegistryClock,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """
        node: this node as it is now, with counts and state.
        live: the tunnels that it holds now.
        tokens: those of its sessions.
        registry_clock: set whenever a registry says what time it is.
        """
        self._registries = registries
        self._certificates = certificates
        self._node = node
        self._live = live
        self._tokens = tokens
        self._outbox = outbox
        self._calls = calls
        self._events = events
        self._clock = clock
        self._wall_clock = wall_clock
        self._registry_clock = registry_clock
        self._tasks = Tasks("registry stream", on_failure)
        self._keeper: asyncio.Task[None] | None = None
        self._lease = Registered()
        self._registered = False
        self._whole_due = False
        self._tokens_due = False
        self._closing = False
        self._told_out = False  # the last registry said that the node is out
        self._out_since: float | None = None
        self._search: asyncio.Task[None] | None = None  # for a registry that reaches its store
        self._found: Found | None = None
        self._until_found: asyncio.Timeout | None = None  # of the stream in use

    def start(self) -> None:
        """Connect, and stay connected."""
        self._channels = RegistryChannels(self._certificates)
        self._store_search = StoreSearch(self._registries, self._channels)
        self._keeper = self._tasks.spawn(self._keep_connected(), name="keep connected")

    async def close(self, *, within: float = 1.0) -> None:
        """Send what is due, end the stream in order, in at most `within` seconds. May be called again."""
        self._closing = True
        self._outbox.filled.set()
        if self._keeper is not None and self._registered:
            await asyncio.wait([self._keeper], timeout=within)
        await self._tasks.close()
        if self._found is not None:
            await self._found.channel.close()
        self._keeper = None  # a task that was cancelled holds its channel

    async def _keep_connected(self) -> None:
        pauses = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while True:
            registry = self._registries.current
            since = self._clock()
            reason = await self._serve_once(registry)
            if self._registered:
                self._registered = False
                self._outbox.disconnected()
                self._events.registry_away(True)
                if self._clock() - since >= _STEADY_TIME:
                    pauses.reset()
            if self._closing:
                return
            if self._is_out():
                self._events.removed(reason)
                return
            if self._found is not None:
                logger.info("going to a registry that reaches its store", extra={"registry": str(self._found.registry)})
                self._registries.use(self._found.registry)
                continue
            logger.warning("no registry", extra={"registry": str(registry), "reason": reason})
            self._registries.turn()
            self._channels.forget(registry)
            await asyncio.sleep(pauses.next())

    def _is_out(self) -> bool:
        """Whether the cluster admits this node no more, after a stream that has ended."""
        if not self._told_out:
            return False
        if self._out_since is None:
            self._out_since = self._clock()
        return bool(self._lease.lease_id) or self._clock() - self._out_since >= _OUT_FOR

    async def _serve_once(self, registry: Endpoint) -> str:
        """Serve one stream to its end; returns why it ended."""
        self._told_out = False
        try:
            await self._serve(registry)
        except aio.AioRpcError as error:
            if fault_of(error) is CallFault.WRONG_NAME and self._channels.has_another_name(registry):
                return await self._serve_once(registry)
            self._told_out = is_out(error)
            return reason_of(error)
        except TimeoutError:
            return f"no answer within {_REGISTER_TIME:g} s"
        except Unresolved as error:
            return str(error)
        except (NoDescriptors, NoThread) as error:
            return str(error)
        return "it ended the stream"

    async def _serve(self, registry: Endpoint) -> None:
        """One stream from Register to its end.

        Raises AioRpcError, TimeoutError, NoDescriptors, NoThread and Unresolved.
        """
        found, self._found = self._found, None
        if found is None:
            (way,) = await self._channels.ways_to(registry)
            channel = self._channels.open(way)
        else:
            channel = found.channel
        async with channel:
            stream: Stream = MeshStub(channel).Session()
            sending: asyncio.Task[None] | None = None
            try:
                async with asyncio.timeout(_REGISTER_TIME):
                    await stream.write(
                        NodeMessage(
                            register=Register(node=self._node(), lease_id=self._lease.lease_id, time_ms=self._time_ms())
                        )
                    )
                    await self._receive(stream, channel)
                sending = self._tasks.spawn(self._send(stream), name="send")
                await self._receive_all(stream, channel)
            finally:
                self._hear_of_store(away=False)
                if sending is not None:
                    sending.cancel()
                stream.cancel()
                self._calls.channel = None

    async def _receive_all(self, stream: Stream, channel: aio.Channel) -> None:
        """Until the stream ends, or another registry is found because this one's store is away. Raises AioRpcError."""
        try:
            async with asyncio.timeout(None) as self._until_found:
                while await self._receive(stream, channel):
                    pass
        except TimeoutError:
            pass
        finally:
            self._until_found = None  # it holds the task, which holds the channel

    def _hear_of_store(self, *, away: bool) -> None:
        """This node's registry does not reach its store any more, or does."""
        if not away and self._search is not None:
            self._search.cancel()
            self._search = None
        elif away and self._search is None:
            logger.warning("the registry does not reach its store: looking for one that does")
            self._search = self._tasks.spawn(self._search_store(), name="find a registry that reaches its store")

    async def _search_store(self) -> None:
        self._found = await self._store_search.find()
        if self._until_found is not None:
            self._until_found.reschedule(0.0)

    async def _receive(self, stream: Stream, channel: aio.Channel) -> bool:
        """Handle one message; False at the end of the stream. Raises AioRpcError."""
        message = await stream.read()
        if not isinstance(message, RegistryMessage):
            code = await stream.code()
            if code is not grpc.StatusCode.OK:
                raise aio.AioRpcError(
                    code, await stream.initial_metadata(), await stream.trailing_metadata(), await stream.details()
                )
            return False
        if message.WhichOneof("message") == "registered":
            self._handle_registered(message.registered, channel)
        elif message.WhichOneof("message") == "store_reach":
            self._hear_of_store(away=message.store_reach.away)
        else:
            self._events.received(message)
        return True

    def _handle_registered(self, lease: Registered, channel: aio.Channel) -> None:
        """Also in mid-stream, when the registry had to replace the lease, and what hung on it is gone."""
        self._lease = lease
        self._out_since = None
        self._registry_clock.set(lease.registry_time_ms)
        self._calls.channel = channel
        self._whole_due = True
        self._outbox.filled.set()
        if not self._registered:
            self._registered = True
            self._tokens_due = True
            logger.info("registered", extra={"lease_seconds": lease.lease_seconds})
            self._compare_clocks(lease)
            self._events.registry_away(False)

    def _compare_clocks(self, lease: Registered) -> None:
        """Warn when the clocks differ: what the registry signs is valid from one moment of its clock to another."""
        ahead = self._wall_clock() - lease.registry_time_ms / 1000
        if lease.registry_time_ms and abs(ahead) > _CLOCKS_APART:
            logger.warning(
                "this clock and the registry's differ: set them right", extra={"seconds_ahead": round(ahead)}
            )

    async def _send(self, stream: Stream) -> None:
        """Send what is in the outbox as it comes, and keep-alives in time. The only writer: a stream takes one write
        at a time."""
        due = self._clock()
        try:
            while True:
                closing = self._closing
                batch = self._batch()
                if batch is not None:
                    await stream.write(batch)
                for held in self._tokens_held():
                    await stream.write(NodeMessage(tokens_held=held))
                while (probed := self._outbox.take_probed()) is not None:
                    await stream.write(NodeMessage(probed=probed))
                if (version := self._outbox.take_dns_held()) is not None:
                    await stream.write(NodeMessage(dns_held=DnsHeld(version=version)))
                if self._outbox.take_state_changed() or closing or self._clock() >= due:
                    due = self._clock() + max(_SHORTEST_INTERVAL, self._lease.lease_seconds / KEEP_ALIVES_A_LEASE)
                    await stream.write(NodeMessage(keep_alive=self._keep_alive()))
                if closing:
                    await stream.done_writing()
                    return
                try:
                    async with asyncio.timeout(max(0.0, due - self._clock())):
                        await self._outbox.filled.wait()
                except TimeoutError:
                    pass
                self._outbox.filled.clear()
        except (aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the stream is over; its reader learns why

    def _time_ms(self) -> int:
        return int(self._wall_clock() * 1000)

    def _batch(self) -> NodeMessage | None:
        if self._whole_due:
            self._whole_due = False
            return NodeMessage(announce=self._outbox.whole(self._live()))
        changes = self._outbox.take()
        return None if changes is None else NodeMessage(announce=changes)

    def _tokens_held(self) -> Iterator[TokensHeld]:
        """The tokens of all sessions, once in a stream: of what was revoked before it, a registry tells only what it
        remembers."""
        if self._tokens_due:
            self._tokens_due = False
            tokens = list(self._tokens())
            for start in range(0, len(tokens), _TOKENS_A_MESSAGE):
                yield TokensHeld(token_ids=tokens[start : start + _TOKENS_A_MESSAGE])

    def _keep_alive(self) -> KeepAlive:
        node = self._node()
        return KeepAlive(
            sessions=node.sessions,
            tunnels=node.tunnels,
            visits=node.visits,
            state=node.state,
            certificate_end_s=node.certificate_end_s,
            lacking_regions=node.lacking_regions,
            grant_keys=node.grant_keys,
            time_ms=self._time_ms(),
            authorities=node.authorities,
            certificate_authority=node.certificate_authority,
            unaware_clients=node.unaware_clients,
            dns=node.dns,
            zones=node.zones,
            descriptors=node.descriptors,
            descriptors_used=node.descriptors_used,
            links=node.links,
        )
