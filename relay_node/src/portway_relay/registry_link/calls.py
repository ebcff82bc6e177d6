"""Calls to the registry that this node is connected with: what becomes of one whose connection is lost, and why one
failed, for people.

Not here: the connection (link.py), what is asked and what the answers mean.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import grpc
from grpc import aio
from portway_proto.v1.mesh_pb2_grpc import MeshStub
from portway_runtime.identities import REGISTRY_NAME

if TYPE_CHECKING:
    from portway_proto.v1.mesh_pb2_grpc import MeshAsyncStub

_T = TypeVar("_T")


class Calls:
    """One at a time or many; each is made on the connection of that moment."""

    def __init__(self, channel: Callable[[], aio.Channel | None]) -> None:
        """`channel` is the connection; None while there is none."""
        self._channel = channel

    @property
    def possible(self) -> bool:
        """Whether there is a connection."""
        return self._channel() is not None

    async def answer(self, call: "Callable[[MeshAsyncStub], Awaitable[_T]]") -> _T | None:
        """None when there is no connection, or it is lost before the answer: whoever asked goes on without. Raises
        AioRpcError."""
        channel = self._channel()
        if channel is None:
            return None
        try:
            return await call(MeshStub(channel))
        except aio.UsageError:
            return None  # the channel was closed just now
        except asyncio.CancelledError:
            # A call ends so too when its channel is closed.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return None


def reason_of(code: grpc.StatusCode, details: str) -> str:
    """What the end of a call means here, and what to look at."""
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return "its certificate was not issued by this cluster's CA (--cluster-ca)"
    if "Hostname Verification" in details:
        return (
            f"its certificate is neither for {REGISTRY_NAME} nor for the name in --registry: is this a registry's mesh "
            "port?"
        )
    if "CERTIFICATE_REQUIRED" in details or "UNKNOWN_CA" in details or "BAD_CERTIFICATE" in details:
        return "it does not accept this node's certificate (--cert): were both made with the same CA?"
    return f"{code.name.lower().replace('_', ' ')}: {details}"
