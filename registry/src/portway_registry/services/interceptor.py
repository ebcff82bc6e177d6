"""The interceptor in front of every method: authentication, authorisation, and the status of a failure.

Both ports use it. Not here: how a caller is identified (callers.py), the tables (method_roles.py, error_status.py).
"""

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode, aio

from portway_registry.access.failed_authentications import FailedAuthentications
from portway_registry.errors import InvalidRequest, MalformedMessage, NotAllowed, NotAuthenticated, NotServed
from portway_registry.services.callers import Caller, Identify, current_caller, peer_address
from portway_registry.services.error_status import status_of
from portway_registry.services.method_roles import METHOD_ROLES
from portway_registry.services.token_streams import TokenStreams
from portway_registry.state.records import Role

logger = logging.getLogger(__name__)

Count = Callable[[str, StatusCode], None]


class CallInterceptor(aio.ServerInterceptor):
    """Runs a call's handler when METHOD_ROLES admits its caller; a method outside the table is never run."""

    def __init__(
        self,
        identify: Identify,
        count: Count,
        streams: TokenStreams | None = None,
        failed: FailedAuthentications | None = None,
    ) -> None:
        """`count` is called with the method and the status of each call that has ended.

        streams: ends streams whose callers' tokens are revoked; None where callers have no tokens.
        failed: counts the callers that cannot be identified.
        """
        self._identify = identify
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
            if handler.request_streaming:
                request = _Decoded(request)
            try:
                caller = await self._admit(method, context)
                if request is _MALFORMED:
                    raise MalformedMessage
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

        decode = _decoder(handler.request_deserializer)
        wrapped: grpc.RpcMethodHandler[Any, Any] = make(call, decode, handler.response_serializer)
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
        if isinstance(error, NotAuthenticated) and self._failed is not None:
            self._failed.note(peer_address(context), error)
        caller = current_caller.get(None)
        if isinstance(error, InvalidRequest) and caller is not None and caller.role is not Role.ADMIN:
            # No client or node of this project sends one; whose it is, is for operators to know.
            logger.warning(
                "request refused",
                extra={"method": method, "caller": caller.name, "peer": context.peer(), "reason": text},
            )
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


# Stands for a message that cannot be decoded. gRPC would log a traceback for what a decoder raises.
_MALFORMED: Final = object()


def _decoder(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if decode is None:
        return None

    def decode_or_mark(message: bytes) -> Any:
        try:
            return decode(message)
        except DecodeError:
            return _MALFORMED

    return decode_or_mark


class _Decoded:
    """The messages of a stream. Raises MalformedMessage at one that cannot be decoded."""

    def __init__(self, messages: AsyncIterable[Any]) -> None:
        self._messages = messages
        self._iterator: AsyncIterator[Any] | None = None  # of a call that is refused unread none is made

    def __aiter__(self) -> "_Decoded":
        return self

    async def __anext__(self) -> Any:
        if self._iterator is None:
            self._iterator = aiter(self._messages)
        message = await anext(self._iterator)
        if message is _MALFORMED:
            raise MalformedMessage
        return message


def _wrong_role(caller: Caller, method: str) -> str:
    wanted = METHOD_ROLES[method]
    return f"{method.rpartition('/')[2]} needs a token of role {wanted}, this one is of role {caller.role}"
