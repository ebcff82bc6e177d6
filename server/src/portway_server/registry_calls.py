"""Calls to the registry of this machine, over loopback.

Its certificate is for names that may lead nowhere yet, and of a CA that may be anybody's: what is trusted is the
certificate that it shows now, if the socket at its port is of the registry's user, of root or of the caller. Anybody on
the machine can listen there while it does not run. Here: the calls. Not here: when they are made (up.py, status.py).
"""

import asyncio
import os
import pwd
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Final

import grpc
from cryptography import x509
from grpc import aio
from portway_proto.v1.admin_pb2 import (
    ROLE_CLIENT,
    CreateTokenRequest,
    InviteNodeRequest,
    ListNodesRequest,
    ListTokensRequest,
    ListZoneCertificatesRequest,
    ZoneCertificateInfo,
)
from portway_proto.v1.admin_pb2_grpc import AdminStub
from portway_proto.v1.enrolment_pb2 import JoinRequest, JoinResponse
from portway_proto.v1.enrolment_pb2_grpc import EnrolmentStub
from portway_proto.v1.types_pb2 import NodeCertificate, NodeInfo
from portway_registry.config import Config
from portway_runtime.endpoints import Endpoint
from portway_runtime.grpc_channels import NO_PROXY_OF_ITS_OWN, OWN_CONNECTIONS
from portway_runtime.identities import dns_names

from portway_server.errors import CallDenied, CallFailed
from portway_server.machine import users_at

_TIMEOUT: Final = 10.0
_DENIED: Final = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})
_EVERY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
_INVITED_FOR: Final = 300  # seconds


def loopback(listening: Endpoint) -> Endpoint:
    """Where this machine reaches what listens at an address of it."""
    return Endpoint(_EVERY.get(listening.host, listening.host), listening.port)


class RegistryCalls:
    """The calls, as the holder of a token: an admin's, or for `join` an invitation's. Each raises CallFailed."""

    def __init__(self, channel: aio.Channel, token: str) -> None:
        self._admin = AdminStub(channel)
        self._enrolment = EnrolmentStub(channel)
        self._token = token

    async def nodes(self) -> list[NodeInfo]:
        """The registered nodes."""
        request, found = ListNodesRequest(), []
        while True:
            answer = await self._call(self._admin.ListNodes, request)
            found += answer.nodes
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    async def certificates(self) -> list[ZoneCertificateInfo]:
        """The certificates that it obtains, also those that it has not yet. Not for one that obtains none."""
        request, found = ListZoneCertificatesRequest(), []
        while True:
            answer = await self._call(self._admin.ListZoneCertificates, request)
            found += answer.certificates
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    async def has_client_tokens(self) -> bool:
        """Whether a token of a client was ever made."""
        request = ListTokensRequest(include_revoked=True)
        while True:
            answer = await self._call(self._admin.ListTokens, request)
            if any(one.role == ROLE_CLIENT for one in answer.tokens):
                return True
            if not answer.next_page_token:
                return False
            request.page_token = answer.next_page_token

    async def create_client_token(self, tenant: str, description: str) -> str:
        """A new token of a client."""
        request = CreateTokenRequest(tenant=tenant, description=description, role=ROLE_CLIENT)
        return str((await self._call(self._admin.CreateToken, request)).token)

    async def invite(self, region: str, node: str) -> str:
        """The token of an invitation for one node, which is good for a few minutes."""
        request = InviteNodeRequest(region=region, node=node, ttl_seconds=_INVITED_FOR)
        return str((await self._call(self._admin.InviteNode, request)).token)

    async def join(self, node: str, region: str, csr: bytes) -> NodeCertificate:
        """The first certificate of an invited node."""
        request = JoinRequest(node=node, region=region, csr=csr)
        answer: JoinResponse = await self._call(self._enrolment.Join, request)
        return answer.certificate

    async def _call(self, method: Any, request: Any) -> Any:
        metadata = (("authorization", f"Bearer {self._token}"),)
        try:
            return await method(request, metadata=metadata, timeout=_TIMEOUT)
        except aio.AioRpcError as error:
            kind = CallDenied if error.code() in _DENIED else CallFailed
            raise kind(f"the registry answers: {error.details() or error.code().name}") from error


def operators_calls(
    registry: Config, token: str, user: str | None = None
) -> AbstractAsyncContextManager[RegistryCalls]:
    """As `calling`, at the port where this machine's registry serves operators."""
    return calling(registry.admin_listen or registry.listen, token, user)


@asynccontextmanager
async def calling(listening: Endpoint, token: str, user: str | None = None) -> AsyncIterator[RegistryCalls]:
    """Calls to the registry that listens at an address of this machine, for a few moments: it may show another
    certificate later. `user`: the one that it runs as, if it is not this process's. Raises CallFailed, before anything
    is sent where another user's program listens."""
    address = loopback(listening)
    try:
        shown = await asyncio.to_thread(ssl.get_server_certificate, (address.host, address.port), timeout=_TIMEOUT)
    except (OSError, ValueError) as error:
        raise CallFailed(f"the registry at {address} cannot be reached: {error}") from error
    _demand_own(address, user)
    names = dns_names(x509.load_pem_x509_certificate(shown.encode()))
    options: list[tuple[str, Any]] = [*OWN_CONNECTIONS, *NO_PROXY_OF_ITS_OWN]
    if names:
        options.append(("grpc.ssl_target_name_override", names[0].replace("*", "registry", 1)))
    credentials = grpc.ssl_channel_credentials(shown.encode())
    async with aio.secure_channel(str(address), credentials, options=options) as channel:
        yield RegistryCalls(channel, token)


def _demand_own(address: Endpoint, user: str | None) -> None:
    """Raise CallFailed if another user's program listens there."""
    own = {0, os.geteuid()}
    if user is not None:
        with suppress(KeyError):
            own.add(pwd.getpwnam(user).pw_uid)
    host = address.host if ":" in address.host or address.host.replace(".", "").isdigit() else ""  # a name's is any
    others = users_at(host, address.port) - own
    if others:
        raise CallFailed(
            f"it is not this machine's registry that listens at {address}, but a program of another user (id "
            f"{', '.join(map(str, sorted(others)))}): no token is shown to it"
        )
