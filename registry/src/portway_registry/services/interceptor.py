"""The interceptor in front of every method: authentication, authorisation, and the status of a failure.

Both ports use it. Not here: how a caller is identified (callers.py), the tables (method_roles.py, error_status.py).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, Protocol

import grpc
from grpc import StatusCode, aio

from portway_registry.errors import Busy, InvalidRequest, NotAllowed, NotAuthenticated, NotServed
from portway_registry.net.connection import Connection
from portway_registry.services.callers import Address, Caller, Identify, current_address, current_caller
from portway_registry.services.error_status import status_of, trailers_of
from portway_registry.services.messages import AwaitedMessages, Messages, marking
from portway_registry.services.method_roles import METHOD_ROLES
from portway_registry.services.token_streams import TokenStreams
from portway_registry.state.records import Role

logger = logging.getLogger(__name__)

Count = Callable[[str, StatusCode], None]
CountFailure = Callable[[Address, NotAuthenticated], None]


class Port(Protocol):
    """The connections that calls come on."""

    def find(self, peer: str) -> Connection | None:
        """The connection that gRPC calls `peer`; None for one that has ended, or is none of the port's."""
        ...

    def call_began(self, connection: Connection) -> None: ...

    def identified(self, connection: Connection) -> None:
        """The caller of a call in progress is known."""
        ...

    def call_ended(self, connection: Connection, *, identified: bool) -> None: ...


class CallInterceptor(aio.ServerInterceptor):
    """Runs a call's handler when METHOD_ROLES admits its caller; a method outside the table is never run."""

    def __init__(
        self,
        port: Port,
        identify: Identify,
        count: Count,
        failed: CountFailure,
        streams: TokenStreams | None = None,
    ) -> None:
        """port: the connections of the calls.
        count: called with the method and the status of each call that has ended.
        failed: called for each caller that cannot be identified, with its address.
        streams: ends streams whose callers' tokens are revoked; None where callers have no tokens.
        """
        self._port = port
        self._identify = identify
        self._awaited = AwaitedMessages()
        self._count = count
        self._streams = streams
        self._failed = failed
        # By method: the handler, and the handler that is run in its place.
        self._wrapped: dict[str, tuple[Any, grpc.RpcMethodHandler[Any, Any]]] = {}

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        method = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None or method not in METHOD_ROLES:
            return grpc.stream_unary_rpc_method_handler(self._not_served(method, known=method in METHOD_ROLES))
        wrapped = self._wrapped.get(method)
        if wrapped is None or wrapped[0] is not handler:
            wrapped = self._wrapped[method] = handler, self._wrap(method, handler)
        return wrapped[1]

    def _wrap(self, method: str, handler: "grpc.RpcMethodHandler[Any, Any]") -> "grpc.RpcMethodHandler[Any, Any]":
        # Handlers of streams write to their context: an async generator that is cancelled between two answers would end
        # only when it is garbage-collected. Every method is given to gRPC as one whose requests stream, since for the
        # others gRPC waits for a message before anything here can refuse the caller.
        run: Any = (
            (handler.stream_stream or handler.stream_unary)
            if handler.request_streaming
            else (handler.unary_stream or handler.unary_unary)
        )
        make: Any = grpc.stream_stream_rpc_method_handler
        if not handler.response_streaming:
            make = grpc.stream_unary_rpc_method_handler

        async def call(requests: Any, context: Any) -> Any:
            connection = self._port.find(context.peer())
            if connection is None:
                await self._fail(method, context, Busy("the connection has ended"))
            self._port.call_began(connection)
            current_address.set(connection.address)
            caller: Caller | None = None
            try:
                if METHOD_ROLES[method] is not None:
                    caller = await self._identify(context)
                    self._port.identified(connection)
                    _permit(caller, method)
                if handler.request_streaming:
                    request: Any = Messages(requests)
                else:
                    request = await self._message(context, caller)
                if handler.response_streaming and caller is not None:
                    answer = await self._stream(caller, run, request, context)
                else:
                    answer = await run(request, context)
            except asyncio.CancelledError:
                self._count(method, StatusCode.CANCELLED)
                raise
            except Exception as error:
                await self._fail(method, context, error, caller)
            else:
                self._count(method, context.code() or StatusCode.OK)
                return answer
            finally:
                self._port.call_ended(connection, identified=caller is not None)

        wrapped: grpc.RpcMethodHandler[Any, Any] = make(
            call, marking(handler.request_deserializer), handler.response_serializer
        )
        return wrapped

    async def _stream(self, caller: Caller, run: Any, request: Any, context: Any) -> Any:
        """Run the handler of a stream. Raises TokenRevoked when the caller's token is revoked meanwhile."""
        if self._streams is None or caller.token is None:
            return await run(request, context)
        async with self._streams.until_revoked(caller.token):
            return await run(request, context)

    async def _message(self, context: Any, caller: Caller | None) -> Any:
        """The message of a call that has one."""
        if caller is None:
            return await self._awaited.of_stranger(context.read, str(current_address.get()))
        return await self._awaited.of_caller(context.read, caller.name)

    async def _fail(self, method: str, context: Any, error: Exception, caller: Caller | None = None) -> NoReturn:
        """End a call with the status of an exception."""
        if isinstance(error, aio.AbortError):
            self._count(method, context.code() or StatusCode.UNKNOWN)
            raise error
        code, text = status_of(error)
        self._count(method, code)
        if isinstance(error, NotAuthenticated) and caller is None:
            self._failed(current_address.get(), error)
        if isinstance(error, InvalidRequest) and caller is not None and caller.role is not Role.ADMIN:
            # No client or node of this project sends one; whose it is, is for operators to know.
            logger.warning(
                "request refused",
                extra={"method": method, "caller": caller.name, "peer": str(current_address.get()), "reason": text},
            )
        await context.abort(code, text, trailers_of(error))
        raise AssertionError("abort raises")

    def _not_served(self, method: str, *, known: bool) -> Any:
        error = NotServed(
            f"{method} is not served on this port of the registry (nodes call Mesh on its mesh port; operators call "
            "Admin at its --admin-listen, where it has one)"
            if known
            else f"this registry does not know {method}: is one side of another release?"
        )

        async def call(requests: Any, context: Any) -> Any:
            connection = self._port.find(context.peer())
            try:
                if connection is not None:
                    self._port.call_began(connection)
                # Callers choose this name, so it must not become the label of a metric.
                await self._fail("other", context, error)
            finally:
                if connection is not None:
                    self._port.call_ended(connection, identified=False)

        return call


def _permit(caller: Caller, method: str) -> None:
    """Set the caller of this call. Raises NotAllowed for one whose role is another."""
    if caller.role is not METHOD_ROLES[method]:
        raise NotAllowed(_wrong_role(caller, method))
    current_caller.set(caller)


def _wrong_role(caller: Caller, method: str) -> str:
    wanted = METHOD_ROLES[method]
    return f"{method.rpartition('/')[2]} needs a token of role {wanted}, this one is of role {caller.role}"
