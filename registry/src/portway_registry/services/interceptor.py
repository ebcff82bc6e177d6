"""The gate in front of every method: who calls, may they, and what they are told when it fails.

Here: the interceptor of both ports. Not here: the tables (roles.py, status.py).
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

Count = Callable[[str, StatusCode], None]


class Guard(aio.ServerInterceptor):
    """Lets a call through to its handler when the table allows it; a method outside the table is never run."""

    def __init__(self, identify: Identify, count: Count) -> None:
        self._identify = identify
        self._count = count
        self._guarded: dict[str, tuple[Any, grpc.RpcMethodHandler[Any, Any]]] = {}  # by method, with what is behind it

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        method = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None or method not in METHOD_ROLES:
            return grpc.unary_unary_rpc_method_handler(self._not_served(method, known=method in METHOD_ROLES))
        guarded = self._guarded.get(method)
        if guarded is None or guarded[0] is not handler:
            guarded = self._guarded[method] = handler, self._guard(method, handler)
        return guarded[1]

    def _guard(self, method: str, handler: "grpc.RpcMethodHandler[Any, Any]") -> "grpc.RpcMethodHandler[Any, Any]":
        if handler.request_streaming or handler.response_streaming:
            wrapped = self._streaming(method, handler)
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return make(wrapped, handler.request_deserializer, handler.response_serializer)
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method, handler), handler.request_deserializer, handler.response_serializer
        )

    async def _admit(self, method: str, context: Any) -> None:
        role = METHOD_ROLES[method]
        if role is None:
            return
        caller = await self._identify(context)
        if caller.role is not role:
            raise NotAllowed(_wrong_role(caller, method))
        current_caller.set(caller)

    def _unary(self, method: str, handler: "grpc.RpcMethodHandler[Any, Any]") -> Any:
        run: Any = handler.unary_unary

        async def call(request: Any, context: Any) -> Any:
            try:
                await self._admit(method, context)
                answer = await run(request, context)
            except asyncio.CancelledError:
                self._count(method, StatusCode.CANCELLED)
                raise
            except Exception as error:
                await self._fail(method, context, error)
            else:
                self._count(method, context.code() or StatusCode.OK)
                return answer

        return call

    def _streaming(self, method: str, handler: "grpc.RpcMethodHandler[Any, Any]") -> Any:
        # Streams write to their context: a generator that is cancelled between two answers would end only when
        # it is collected.
        run: Any = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def call(request: Any, context: Any) -> None:
            try:
                await self._admit(method, context)
                await run(request, context)
            except asyncio.CancelledError:
                self._count(method, StatusCode.CANCELLED)
                raise
            except Exception as error:
                await self._fail(method, context, error)
            else:
                self._count(method, StatusCode.OK)

        return call

    async def _fail(self, method: str, context: Any, error: Exception) -> None:
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
            # A name that strangers choose is no label of a metric.
            await self._fail("other", context, error)

        return call


def _wrong_role(caller: Caller, method: str) -> str:
    wanted = METHOD_ROLES[method]
    return f"{method.rpartition('/')[2]} wants a token of role {wanted}, this one is of role {caller.role}"
