"""Labels that come thick: which go together, and what becomes of each."""

import asyncio
import logging
from typing import Any

import grpc
import pytest
from portway_testkit.fakes.fake_mesh import MakeNode, NodeEnd, Serve
from portway_testkit.links.carrier_link import until

# Labels that are asked for one by one when they come at once (registry_link/label_questions.py), and those of one call.
ALONE = 100
TOGETHER = 256


async def connected(serve: Serve, node: MakeNode) -> tuple[Any, NodeEnd]:
    registry = await serve()
    end = node(registry)
    await until(lambda: end.calls.connected)
    return registry.mesh, end


async def ask(end: NodeEnd, labels: list[str]) -> list[str | None]:
    """All at the same time, and then a second passes; the node that has each."""
    asking = asyncio.gather(*map(end.questions.ask, labels))
    await asyncio.sleep(0)  # each is asked for, or waits
    end.questions_clock.now += 1
    return [answer and answer.tunnel.node for answer in await asking]


async def test_few_are_asked_for_alone_and_more_together(serve: Serve, node: MakeNode) -> None:
    """Each is asked for once, and whoever asked gets the answer for its own."""
    mesh, end = await connected(serve, node)
    labels = [f"label-{number}" for number in range(ALONE + 2 * TOGETHER)]
    mesh.tunnels = {label: f"node of {label}" for label in labels[::3]}
    assert await ask(end, labels) == [mesh.tunnels.get(label) for label in labels]
    together = [label for batch in mesh.asked_together for label in batch]
    assert sorted(mesh.asked + together) == sorted(labels)
    assert len(mesh.asked) == ALONE
    assert list(map(len, mesh.asked_together)) == [TOGETHER, TOGETHER]


async def test_a_registry_of_the_release_before_is_asked_one_by_one(serve: Serve, node: MakeNode) -> None:
    """It does not know the call for many."""
    mesh, end = await connected(serve, node)
    mesh.trouble_of_many = grpc.StatusCode.UNIMPLEMENTED
    labels = [f"label-{number}" for number in range(ALONE + 20)]
    mesh.tunnels = {label: f"node of {label}" for label in labels}
    assert await ask(end, labels) == [mesh.tunnels[label] for label in labels]
    assert mesh.asked_together


async def test_a_call_that_fails_leaves_nobody_waiting(
    serve: Serve, node: MakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    """Each that was asked for in it is one that the registry does not know, and the operator hears of it once."""
    mesh, end = await connected(serve, node)
    mesh.trouble_of_many = grpc.StatusCode.UNAVAILABLE
    with caplog.at_level(logging.WARNING):
        assert await ask(end, ["a"] * (ALONE + 20)) == [None] * (ALONE + 20)
    assert {record.message for record in caplog.records} == {"a label could not be resolved"}
    assert len(caplog.records) == len(mesh.asked_together)


@pytest.mark.parametrize("how", ["the stream ends", "the node stops"])
async def test_who_waits_is_told_when_the_connection_is_lost(serve: Serve, node: MakeNode, how: str) -> None:
    """Those of a call that is not answered, and those that were to be in the next one."""
    mesh, end = await connected(serve, node)
    mesh.thinks = True
    asking = [asyncio.ensure_future(end.questions.ask("a")) for _ in range(ALONE + 20)]
    await asyncio.sleep(0)
    end.questions_clock.now += 0.03  # one call may be made
    await until(lambda: len(mesh.asked_together) == 1)
    asking += [asyncio.ensure_future(end.questions.ask("b")) for _ in range(20)]
    await asyncio.sleep(0)
    if how == "the stream ends":
        mesh.hang_up()
    else:
        await end.close()
    end.questions_clock.now += 1
    assert await asyncio.gather(*asking) == [None] * len(asking)


async def test_one_that_does_not_want_to_know_any_more_changes_nothing_for_others(serve: Serve, node: MakeNode) -> None:
    mesh, end = await connected(serve, node)
    mesh.tunnels["a"] = "relay-2"
    asking = [asyncio.ensure_future(end.questions.ask("a")) for _ in range(ALONE + 2)]
    await asyncio.sleep(0)
    asking[-2].cancel()
    end.questions_clock.now += 1
    answer = await asking[-1]
    assert answer is not None
    assert answer.tunnel.node == "relay-2"
    assert [one.cancelled() for one in asking[-2:]] == [True, False]
    await asyncio.gather(*asking[:-2])
