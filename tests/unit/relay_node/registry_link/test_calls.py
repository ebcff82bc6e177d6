"""Calls to the registry that a node is connected with, and what becomes of those whose connection is lost."""

import asyncio
from typing import Any

import grpc
import pytest
from portway_proto.v1.mesh_pb2 import ReservePortsRequest
from portway_relay.errors import RenewalFailed
from portway_testkit.fakes.fake_mesh import MakeNode, Serve
from portway_testkit.links.carrier_link import until


async def test_a_label_is_resolved_over_the_same_connection(serve: Serve, node: MakeNode) -> None:
    """The node that has it; None when nobody has."""
    registry = await serve()
    registry.mesh.tunnels["a"] = "relay-2"
    end = node(registry)
    assert await end.questions.ask("a") is None  # it is not connected yet
    await until(lambda: end.calls.connected)
    answer = await end.questions.ask("a")
    assert answer is not None
    assert answer.tunnel.node == "relay-2"
    assert await end.questions.ask("b") is None
    assert registry.mesh.asked == ["a", "b"]


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED])
async def test_a_registry_that_cannot_say_is_one_that_knows_nobody(
    serve: Serve, node: MakeNode, caplog: pytest.LogCaptureFixture, code: grpc.StatusCode
) -> None:
    """The operator hears of it; others can be asked."""
    registry = await serve()
    registry.mesh.trouble = code
    end = node(registry)
    await until(lambda: end.calls.connected)
    assert await end.questions.ask("a") is None
    assert "a label could not be resolved" in caplog.text


async def asked_in_vain(serve: Serve, node: MakeNode) -> tuple[Any, asyncio.Future[Any]]:
    """A registry that has been asked and does not answer, and the question."""
    registry = await serve()
    registry.mesh.thinks = True
    end = node(registry)
    await until(lambda: end.calls.connected)
    asking = asyncio.ensure_future(end.questions.ask("a"))
    await until(lambda: registry.mesh.asked == ["a"])
    return registry, asking


@pytest.mark.parametrize("how", ["registry stops", "stream ends"])
async def test_a_question_ends_with_its_connection(serve: Serve, node: MakeNode, how: str) -> None:
    """Whoever asked goes on without, and is not cancelled."""
    registry, asking = await asked_in_vain(serve, node)
    if how == "registry stops":
        await registry.stop()
    else:
        registry.mesh.hang_up()
    assert await asking is None


@pytest.mark.parametrize("how", ["registry stops", "stream ends"])
async def test_other_calls_end_with_their_connection_too(serve: Serve, node: MakeNode, how: str) -> None:
    """No ports, and an error that says why there is no certificate; neither who asked is cancelled."""
    registry = await serve()
    registry.mesh.thinks = True
    end = node(registry)
    await until(lambda: end.calls.connected)
    ports = asyncio.ensure_future(end.calls.reserve_ports(ReservePortsRequest()))
    certificate = asyncio.ensure_future(end.calls.renew_certificate(b""))
    await until(lambda: sorted(registry.mesh.asked) == ["certificate", "ports"])
    if how == "registry stops":
        await registry.stop()
    else:
        registry.mesh.hang_up()
    assert await ports is None
    with pytest.raises(RenewalFailed):
        await certificate


async def test_a_question_that_is_cancelled_is_cancelled(serve: Serve, node: MakeNode) -> None:
    """By whoever asked."""
    _, asking = await asked_in_vain(serve, node)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
