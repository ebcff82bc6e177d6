"""Bytes in place of messages, to every port and by every kind of caller; and what of it is logged."""

import io
import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from portway_proto.v1.mesh_pb2 import NodeMessage, Register
from portway_registry.server import Registry
from portway_runtime.logs import BoundedHandler, TextFormatter
from portway_testkit.clusters.admin_caller import AdminCaller
from portway_testkit.clusters.registry import Pki, bearer, channel, node_info

GARBAGE = b"\xff\xff\xff\xff"
# Bytes that one place in the code may write within an hour: what it writes at once, and 10 a second.
AN_HOUR = 16_384 + 36_000
_IDENTITY: Any = bytes


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What a server writes to stderr; its time stands still, so that only what is allowed at once is written."""
    written = io.StringIO()
    handler = BoundedHandler(written, lambda: 0.0)
    handler.setFormatter(TextFormatter())
    root = logging.getLogger()
    root.addHandler(handler)
    yield written
    root.removeHandler(handler)


async def send(opened: grpc.aio.Channel, method: str, shown: Any = ()) -> tuple[StatusCode, str]:
    """Send garbage to a method; returns how the call ended."""
    call = opened.unary_unary(method, request_serializer=_IDENTITY, response_deserializer=_IDENTITY)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(GARBAGE, metadata=shown)
    return refused.value.code(), refused.value.details() or ""


async def test_a_malformed_message_is_one_line_and_not_a_traceback(
    registry: Registry, public: grpc.aio.Channel, admin: AdminCaller, log: io.StringIO
) -> None:
    """The caller is told, and the line names it; a thousand of them write no more than the log has room for."""
    shown = bearer((await admin.new_token()).token)
    assert await send(public, "/portway.v1.Discovery/Locate", shown) == (
        StatusCode.INVALID_ARGUMENT,
        "the message cannot be decoded: is the caller of another release, or no Portway program?",
    )
    (line,) = log.getvalue().splitlines()
    assert "request refused method=/portway.v1.Discovery/Locate" in line
    assert "peer=127.0.0.1 " in line
    for _ in range(1_000):
        await send(public, "/portway.v1.Discovery/Locate", shown)
    assert "Traceback" not in log.getvalue()
    assert len(log.getvalue()) < AN_HOUR


async def test_strangers_write_nothing(registry: Registry, public: grpc.aio.Channel, log: io.StringIO) -> None:
    """Without a token they learn only that; a method that everybody may call refuses garbage in silence."""
    for method in ("/portway.v1.Discovery/Locate", "/portway.v1.Enrolment/Join", "/portway.v1.Admin/ListNodes"):
        assert (await send(public, method))[0] is StatusCode.UNAUTHENTICATED
    assert (await send(public, "/grpc.health.v1.Health/Check"))[0] is StatusCode.INVALID_ARGUMENT
    assert (await send(public, "/portway.v1.None/None"))[0] is StatusCode.UNIMPLEMENTED
    assert log.getvalue() == ""


@pytest.mark.parametrize("registered", [False, True])
async def test_a_node_s_stream_ends_at_a_malformed_message(
    registry: Registry, pki: Pki, log: io.StringIO, registered: bool
) -> None:
    """First, or after its registration: the stream ends with the status, and the line names the node."""
    async with channel(registry.mesh_address, pki.ca, pki.node("evil"), mesh=True) as mesh:
        stream: Any = mesh.stream_stream(
            "/portway.v1.Mesh/Session", request_serializer=_IDENTITY, response_deserializer=_IDENTITY
        )()
        if registered:
            await stream.write(NodeMessage(register=Register(node=node_info("evil"))).SerializeToString())
            await stream.read()
        await stream.write(GARBAGE)
        with suppress(grpc.aio.AioRpcError):
            while await stream.read() is not grpc.aio.EOF:
                pass
        assert await stream.code() is StatusCode.INVALID_ARGUMENT
    lines = log.getvalue().splitlines()
    assert [line for line in lines if "request refused" in line and "caller=evil" in line]
    assert "Traceback" not in log.getvalue()
