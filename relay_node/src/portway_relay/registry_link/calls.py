"""Calls to the registry that this node is connected with, and what their failures mean to an operator.

Here: the current connection, a call whose connection is lost, port reservation, certificate renewal. Not here: how the
connection is made and kept (stream.py), the resolving of labels (label_questions.py).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

from grpc import aio
from portway_proto.v1.mesh_pb2 import RenewCertificateRequest, ReservePortsRequest, ReservePortsResponse
from portway_proto.v1.mesh_pb2_grpc import MeshStub
from portway_proto.v1.types_pb2 import NodeCertificate
from portway_runtime import grpc_channels
from portway_runtime.grpc_channels import NODE_IS_OUT, CallFault
from portway_runtime.identities import REGISTRY_NAME

from portway_relay.errors import RenewalFailed

if TYPE_CHECKING:  # the name is in the stub file alone
    from portway_proto.v1.mesh_pb2_grpc import MeshAsyncStub

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_RESERVE_TIME: Final = 5.0  # a registry writes to its store
_RENEW_TIME: Final = 10.0
_WORDS: Final = {
    CallFault.UNTRUSTED: "its certificate was not issued by this cluster's CA (--cluster-ca)",
    CallFault.WRONG_NAME: (
        f"its certificate is neither for {REGISTRY_NAME} nor for the name in --registry: is this a registry's mesh "
        "port?"
    ),
    CallFault.OWN_CERTIFICATE: (
        "it does not accept this node's certificate (--cert): were both made with the same CA?"
    ),
}


class RegistryCalls:
    """Calls, each made on the connection of that moment; the stream sets `channel` while a registry has registered
    this node."""

    def __init__(self) -> None:
        self.channel: aio.Channel | None = None

    @property
    def connected(self) -> bool:
        """Whether a registry has this node registered now."""
        return self.channel is not None

    async def answer(self, call: "Callable[[MeshAsyncStub], Awaitable[_T]]") -> _T | None:
        """The answer to `call(stub)`; None when there is no connection, or it is lost before the answer.

        Raises AioRpcError.
        """
        if self.channel is None:
            return None
        try:
            return await call(MeshStub(self.channel))
        except aio.UsageError:
            return None  # the channel was closed just now
        except asyncio.CancelledError:
            # A call ends in this way too when its channel is closed.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return None

    async def reserve_ports(self, request: ReservePortsRequest) -> ReservePortsResponse | None:
        """Reserve raw ports for this node; None when no registry can be asked, or it refuses."""
        try:
            return await self.answer(lambda mesh: mesh.ReservePorts(request, timeout=_RESERVE_TIME))
        except aio.AioRpcError as error:
            logger.warning("no ports were reserved", extra={"reason": reason_of(error)})
            return None

    async def renew_certificate(self, csr: bytes) -> NodeCertificate:
        """The next certificate for this node, for a request in DER. Raises RenewalFailed."""
        request = RenewCertificateRequest(csr=csr)
        try:
            answer = await self.answer(lambda mesh: mesh.RenewCertificate(request, timeout=_RENEW_TIME))
        except aio.AioRpcError as error:
            raise RenewalFailed(reason_of(error)) from error
        if answer is None:
            raise RenewalFailed("no registry can be reached, or it was lost just now")
        return answer.certificate


def is_out(error: aio.AioRpcError) -> bool:
    """Whether the registry says that the cluster admits this node no more."""
    return NODE_IS_OUT in tuple(error.trailing_metadata() or ())


def fault_of(error: aio.AioRpcError) -> CallFault:
    """Why a call or a stream failed."""
    return grpc_channels.fault_of(error.code().name, error.details() or "")


def reason_of(error: aio.AioRpcError) -> str:
    """Why a call or a stream failed, and what to look at."""
    return grpc_channels.reason_of(error.code().name, error.details() or "", _WORDS)
