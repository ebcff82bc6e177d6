"""The interceptor in front of every method: authentication, authorisation, and the status of a failure.

Both ports use it. Not here: how a caller is identified (callers.py), the tables (method_roles.py, error_status.py).
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc import StatusCode, aio

from portway_registry.errors import NotAllowed, NotServed
from portway_registry.services.callers import Caller, Identify, current_caller
from portway_registry.services.error_status import status_of
from portway_registry.services.method_roles import METHOD_ROLES
from portway_registry.services.token_streams import TokenStreams

Count = Callable[[str, StatusCode], None]


class CallInterceptor(aio.ServerInterceptor):
    """Runs a call's handler when METHOD_ROLES admits its caller; a method outside the table is never run."""

    def __init__(self, identify: Identify, count: Count, streams: TokenStreams | None = None) -> None:
        """`count` is called with the method and the status of each call that has ended.

        streams: ends streams whose callers' tokens are revoked; None where callers have no tokens.
        """
        self._identify = identify
        self._count = count
        self._streams = streams
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
            return grpc.unary_unary_rpc_method_handler(self._not_served(method, known=method in METHOD_ROLES))
        wrapped = self._wrapped.get(method)
        if wrapped is None or wrapped[0] is not handler:
            wrapped = self._wrapped[method] = handler, self._wrap(method, handler)
        return wrapped[1]

    def _wrap(self, method: str, handler: "grpc.RpcMethodHandler[Any, Any]") -> "grpc.RpcMethodHandler[Any, Any]":
        # Handlers of streams write to their context: an async generator that is cancelled between two answers would end
        # only when it is garbage-collected.
        run: Any
        make: Any
        if handler.request_streaming:
            run, make = handler.stream_stream, grpc.stream_stream_rpc_method_handler
        elif handler.response_streaming:
            run, make = handler.unary_stream, grpc.unary_stream_rpc_method_handler
        else:
            run, make = handler.unary_unary, grpc.unary_unary_rpc_method_handler

        async def call(request: Any, context: Any) -> Any:
            try:
                caller = await self._admit(method, context)
                if handler.response_streaming and caller is not None:
                    answer = await self._stream(caller, run, request, context)
                else:
                    answer = await run(request, context)
            except asyncio.CancelledError:
                self._count(method, StatusCode.CANCELLED)
                raise
            except Exception as error:
                await self._fail(method, context, error)
            else:
                self._count(method, context.code() or StatusCode.OK)
                return answer

        wrapped: grpc.RpcMethodHandler[Any, Any] = make(call, handler.request_deserializer, handler.response_serializer)
        return wrapped

    async def _stream(self, caller: Caller, run: Any, request: Any, context: Any) -> Any:
        """Run the handler of a stream. Raises TokenRevoked when the caller's token is revoked meanwhile."""
        if self._streams is None or caller.token is None:
            return await run(request, context)
        async with self._streams.until_revoked(caller.token):
            return await run(request, context)

    async def _admit(self, method: str, context: Any) -> Caller | None:
        """Identify the caller and check its role; None for a method that everybody may call.

        Raises NotAuthenticated and NotAllowed.
        """
        role = METHOD_ROLES[method]
        if role is None:
            return None
        caller = await self._identify(context)
        if caller.role is not role:
            raise NotAllowed(_wrong_role(caller, method))
        current_caller.set(caller)
        return caller

    async def _fail(self, method: str, context: Any, error: Exception) -> None:
        """End a call with the status of an exception."""
        if isinstance(error, aio.AbortError):
            self._count(method, context.code() or StatusCode.UNKNOWN)
            raise error
        code, text = status_of(error)
        self._count(method, code)
        await context.abort(code, text)

    def _not_served(self, method: str, *, known: bool) -> Any:
        error = NotServed(
            f"{method} is not served on this port of the registry (nodes call Mesh on its mesh port)"
            if known
            else f"this registry does not know {method}: is one side of another release?"
        )

        async def call(request: Any, context: Any) -> Any:
            # Callers choose this name, so it must not become the label of a metric.
            await self._fail("other", context, error)

        return call


def _wrong_role(caller: Caller, method: str) -> str:
    wanted = METHOD_ROLES[method]
    return f"{method.rpartition('/')[2]} needs a token of role {wanted}, this one is of role {caller.role}"
