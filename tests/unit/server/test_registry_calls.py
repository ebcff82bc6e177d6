"""Whom an operator's token is shown to: the registry of this machine alone."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import pytest
import trustme
from grpc import aio
from portway_proto.v1.admin_pb2 import ListNodesRequest, ListNodesResponse
from portway_runtime.endpoints import Endpoint
from portway_server.errors import CallFailed
from portway_server.registry_calls import calling

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="listens as another user")

SOMEBODY = 65_534
OTHER = 12_345


class Seen:
    """What a registry is asked with."""

    def __init__(self) -> None:
        self.tokens: list[str] = []

    async def list_nodes(self, request: ListNodesRequest, context: Any) -> ListNodesResponse:
        self.tokens += [value for name, value in context.invocation_metadata() if name == "authorization"]
        return ListNodesResponse()


@contextmanager
def acting_as(user: int) -> Iterator[None]:
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)


@asynccontextmanager
async def listening(user: int, host: str) -> AsyncIterator[tuple[Seen, Endpoint]]:
    """A gRPC server whose socket is this user's."""
    leaf = trustme.CA().issue_cert("localhost")
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    seen, server = Seen(), aio.server()
    method = grpc.unary_unary_rpc_method_handler(
        seen.list_nodes, ListNodesRequest.FromString, ListNodesResponse.SerializeToString
    )
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("portway.v1.Admin", {"ListNodes": method})])
    credentials = grpc.ssl_server_credentials([(leaf.private_key_pem.bytes(), chain)])
    with acting_as(user):
        port = server.add_secure_port(f"{host}:0", credentials)
    await server.start()
    try:
        yield seen, Endpoint(host.strip("[]"), port)
    finally:
        await server.stop(None)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::]", "localhost"])
async def test_another_user_s_program_sees_no_token(host: str) -> None:
    """The registry's port is above 1023: while it does not run, anybody on the machine can listen there."""
    async with listening(SOMEBODY, host) as (seen, at):
        with pytest.raises(CallFailed, match="another user"):
            async with calling(at, "the-admin-s") as calls:
                await calls.nodes()
    assert seen.tokens == []


@pytest.mark.parametrize(("listener", "user"), [(0, None), (0, "nobody"), (SOMEBODY, "nobody")])
async def test_the_registry_runs_as_its_user_or_as_the_caller_s(listener: int, user: str | None) -> None:
    async with listening(listener, "127.0.0.1") as (seen, at), calling(at, "the-admin-s", user) as calls:
        assert await calls.nodes() == []
    assert seen.tokens == ["Bearer the-admin-s"]


async def test_a_user_that_is_not_the_registry_s_is_another_one() -> None:
    async with listening(OTHER, "127.0.0.1") as (seen, at):
        with pytest.raises(CallFailed, match="another user"):
            async with calling(at, "the-admin-s", "nobody") as calls:
                await calls.nodes()
    assert seen.tokens == []
