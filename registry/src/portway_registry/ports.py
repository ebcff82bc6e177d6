"""The registry's gRPC ports: each a server that listens on a socket of this machine, behind a front that accepts.

Here: making, serving and stopping them. Not here: which services a port has (server.py).
"""

import logging
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2_grpc
from portway_runtime.clocks import monotonic
from portway_runtime.descriptors import unreserved
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import ListenError
from portway_runtime.grpc_channels import KEEPALIVE_WHEN_IDLE
from portway_runtime.listening import endpoint_of, open_sockets
from portway_runtime.settings import flag

from portway_registry.errors import ConfigError
from portway_registry.net.admission import Limits
from portway_registry.net.front import Front
from portway_registry.net.node_headers import NodeHeaders
from portway_registry.services.interceptor import CallInterceptor

logger = logging.getLogger(__name__)

_OPTIONS: Final = (
    *KEEPALIVE_WHEN_IDLE,
    # Nodes and watchers ping too, on streams that may be silent for long; by default that is answered by GOAWAY.
    ("grpc.http2.min_ping_interval_without_data_ms", 4_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
    # Clients call every half hour and connect anew; nodes and watchers have a call in progress all the time.
    ("grpc.max_connection_idle_ms", 300_000),
)
# Seconds that running calls may go on after `close`. Streams never end by themselves.
_GRACE: Final = 1.0
# Seconds that connections which began just before `close` get to complete their handshakes and make their call.
_HAND_ON_TIME: Final = 1.0


class GrpcPorts:
    """The ports of one registry. They share the descriptors of the process evenly."""

    def __init__(self, number: int, max_connections: int) -> None:
        """number: how many ports will be added. max_connections: of known callers, at each. Raises ConfigError."""
        try:
            # Only this user may connect to what gRPC listens on, past the fronts. The path of a socket has 100 bytes or
            # so, most of which TMPDIR may need.
            self._folder = tempfile.TemporaryDirectory(prefix="pwr-")
        except OSError as error:
            raise ConfigError(
                f"no folder can be made for this registry's own sockets ({error.strerror}): set TMPDIR to a folder "
                "that it may write to"
            ) from error
        self._limits = Limits.within(unreserved() // number, max_connections)
        self._ports: dict[str, GrpcPort] = {}

    @property
    def health(self) -> list[health.aio.HealthServicer]:
        return [port.health for port in self._ports.values()]

    @property
    def fronts(self) -> Mapping[str, Front]:
        """The fronts by the setting that names their address."""
        return {key: port.front for key, port in self._ports.items()}

    def add(
        self,
        key: str,
        credentials: grpc.ServerCredentials,
        *,
        largest_message: int,
        concurrent_calls: int | None = None,
        node_headers: NodeHeaders | None = None,
    ) -> "GrpcPort":
        """A port whose address is the setting `key`; it does not accept yet.

        largest_message: bytes. concurrent_calls: at most for one connection. node_headers: as of Front.
        """
        options = [("grpc.max_receive_message_length", largest_message)]
        if concurrent_calls is not None:
            options.append(("grpc.max_concurrent_streams", concurrent_calls))
        front = Front(key, self._limits, monotonic, node_headers)
        port = self._ports[key] = GrpcPort(key, front, Path(self._folder.name, key), credentials, options)
        return port

    async def close(self) -> None:
        """Close all ports, the last first."""
        for port in reversed(self._ports.values()):
            await port.close()
        self._folder.cleanup()


class GrpcPort:
    """One port: `server`, to which services are added, then `serve`."""

    def __init__(
        self,
        key: str,
        front: Front,
        inner: Path,
        credentials: grpc.ServerCredentials,
        options: list[tuple[str, Any]],
    ) -> None:
        self.front = front
        self.health = health.aio.HealthServicer()
        self._key = key
        self._inner = inner
        self._credentials = credentials
        self._options = options
        self._server: aio.Server | None = None
        self._closing: list[Callable[[], Awaitable[object]]] = [self.front.close]

    def server(self, interceptor: CallInterceptor) -> aio.Server:
        """What services are added to, with the health service; made once."""
        server = self._server = aio.server(interceptors=(interceptor,), options=(*_OPTIONS, *self._options))
        self._closing.append(partial(server.stop, _GRACE))
        services = cast(aio.Server, _Services(server))
        health_pb2_grpc.add_HealthServicer_to_server(self.health, services)
        return services

    async def serve(self, address: Endpoint) -> Endpoint:
        """Accept at the address; returns it with the port that was opened. Raises ConfigError."""
        assert self._server is not None, "the port has a server"
        try:
            self._server.add_secure_port(f"unix:{self._inner}", self._credentials)
        except RuntimeError as error:
            raise ConfigError(f"cannot listen on {self._inner}: is the path in TMPDIR too long?") from error
        await self._server.start()
        try:
            sockets = open_sockets(address)
        except ListenError as error:
            raise ConfigError(f"{flag(self._key)}: {error}") from error
        self._closing.append(partial(self.front.stop_listening, within=_HAND_ON_TIME))
        self.front.serve(sockets, self._inner)
        return Endpoint(address.host, endpoint_of(sockets[0].getsockname()).port)

    async def close(self) -> None:
        while self._closing:
            await self._closing.pop()()


class _Services:
    """Takes services for a server as generated code adds them, but registers no single methods.

    gRPC waits for calls of each registered method with a task of its own, and looks at all of these tasks for every
    call: with the 24 methods of the public port that takes 20 µs or more, as much as the front does.
    """

    def __init__(self, server: aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Nothing: the generic handlers are the same ones."""
