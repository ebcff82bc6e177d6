"""The stream with a registry, against one that does what a test tells it, over real gRPC and mutual TLS."""

import asyncio
import logging

import pytest
from portway_proto.v1.mesh_pb2 import (
    ClusterSettings,
    Peers,
    Revocations,
)
from portway_proto.v1.types_pb2 import NODE_STATE_DRAINING, NODE_STATE_READY
from portway_runtime import clocks as clock
from portway_testkit.fakes.fake_mesh import MakeNode, Serve
from portway_testkit.links.carrier_link import until
from portway_testkit.processes.threads import no_more_threads


async def test_a_node_registers_and_tells_everything(serve: Serve, node: MakeNode) -> None:
    """Register, with no lease; then all tunnels in one batch, and a keep-alive with the counts of now."""
    registry = await serve()
    end = node(registry)
    mesh = registry.mesh
    await until(lambda: bool(mesh.keep_alives))
    assert mesh.registers[0].node == end.info
    assert mesh.registers[0].lease_id == 0
    assert [batch.full for batch in mesh.batches] == [True]
    alive = mesh.keep_alives[0]
    assert (alive.sessions, alive.tunnels, alive.visits, alive.state) == (3, 2, 1, NODE_STATE_READY)
    assert (alive.certificate_end_s, alive.lacking_regions) == (4, 5)
    times = [one.time_ms for one in (*mesh.registers, alive)]
    assert times == pytest.approx([clock.wall_clock() * 1000] * 2, abs=30_000)
    assert end.calls.connected
    assert end.events.away == [False]


async def test_a_node_without_threads_tries_again(
    serve: Serve, node: MakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    """gRPC would end it; the log says what to raise."""
    registry = await serve()
    with no_more_threads():
        end = node(registry)
        await until(lambda: "no registry" in caplog.text)
    assert "can't start new thread: raise the limit" in caplog.records[-1].__dict__["reason"]
    await until(lambda: end.calls.connected)


async def test_the_tokens_of_its_sessions_are_named_once_in_a_stream(serve: Serve, node: MakeNode) -> None:
    """In messages of a thousand; those that a registry does not hold valid come back as revocations."""
    registry = await serve()
    end = node(registry)
    await until(lambda: bool(registry.mesh.keep_alives))
    assert registry.mesh.tokens == []
    end.tokens = [f"t{number}" for number in range(2_001)]
    registry.mesh.hang_up()
    await until(lambda: sum(map(len, registry.mesh.tokens)) == 2_001)
    assert [len(some) for some in registry.mesh.tokens] == [1_000, 1_000, 1]
    assert [one for some in registry.mesh.tokens for one in some] == end.tokens


async def test_news_are_passed_on_in_order(serve: Serve, node: MakeNode) -> None:
    """All but Registered, which is the link's own."""
    registry = await serve()
    end = node(registry)
    await until(lambda: end.calls.connected)
    registry.mesh.say(settings=ClusterSettings(cluster_id="c1"))
    registry.mesh.say(revocations=Revocations(token_ids=["t1"]))
    registry.mesh.say(peers=Peers())
    await until(lambda: len(end.events.messages) == 3)
    kinds = [message.WhichOneof("message") for message in end.events.messages]
    assert kinds == ["settings", "revocations", "peers"]


async def test_changes_are_announced_as_they_come(serve: Serve, node: MakeNode) -> None:
    """At once, not with the next keep-alive."""
    registry = await serve()
    end = node(registry)
    await until(lambda: bool(registry.mesh.batches))
    end.outbox.withdrawn("a" * 16, 3)
    await until(lambda: len(registry.mesh.batches) == 2)
    withdrawn = registry.mesh.batches[1].withdrawn
    assert [(one.label, one.epoch) for one in withdrawn] == [("a" * 16, 3)]
    assert len(registry.mesh.keep_alives) == 1


async def test_a_lease_is_kept_alive(serve: Serve, node: MakeNode) -> None:
    """Three times a lease, so that two may be lost."""
    registry = await serve()
    registry.mesh.lease_seconds = 1
    node(registry)
    await until(lambda: len(registry.mesh.keep_alives) >= 3)


async def test_a_lease_of_no_time_is_no_flood(serve: Serve, node: MakeNode) -> None:
    """A registry that names none is told a few times a second."""
    registry = await serve()
    registry.mesh.lease_seconds = 0
    loop = asyncio.get_running_loop()
    began = loop.time()
    node(registry)
    await until(lambda: len(registry.mesh.keep_alives) >= 3)
    assert loop.time() - began >= 0.4


async def test_a_change_of_state_is_told_at_once(serve: Serve, node: MakeNode) -> None:
    """A node that stops must get no new clients."""
    registry = await serve()
    end = node(registry)
    await until(lambda: len(registry.mesh.keep_alives) == 1)
    end.info.state = NODE_STATE_DRAINING
    end.outbox.state_changed()
    await until(lambda: len(registry.mesh.keep_alives) == 2)
    assert registry.mesh.keep_alives[1].state == NODE_STATE_DRAINING


async def test_a_node_that_was_registered_and_is_out_asks_no_more(serve: Serve, node: MakeNode) -> None:
    """Every registry would say the same: the reason is the registry's own."""
    first, second = await serve(), await serve()
    end = node(first, second)
    await until(lambda: end.calls.connected)
    first.mesh.out = "an operator removed it"
    first.mesh.say(settings=ClusterSettings(cluster_id="c1"))
    await until(lambda: bool(end.events.removals))
    assert ["an operator removed it" in reason for reason in end.events.removals] == [True]
    assert end.events.away == [False, True]
    assert not end.calls.connected
    assert end.stream._keeper is not None
    await until(end.stream._keeper.done)
    assert (first.mesh.streams, second.mesh.streams) == (1, 0)


async def test_a_node_that_has_just_started_believes_it_only_when_it_lasts(serve: Serve, node: MakeNode) -> None:
    """A replica that does not know yet that the node was invited anew stops none; nor does it count with an earlier
    one."""
    registry = await serve()
    registry.mesh.out = "an operator removed it"
    end = node(registry)
    await until(lambda: registry.mesh.streams >= 2)
    assert not end.events.removals
    registry.mesh.out = ""
    await until(lambda: end.calls.connected)
    assert end.stream._out_since is None


async def test_a_node_that_is_out_from_the_start_is_told_after_a_while(
    serve: Serve, node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By all registries that it asks meanwhile."""
    monkeypatch.setattr("portway_relay.registry_link.stream._OUT_FOR", 0.3)
    registry = await serve()
    registry.mesh.out = "an operator removed it"
    end = node(registry)
    await until(lambda: bool(end.events.removals))
    assert registry.mesh.streams >= 2


@pytest.mark.parametrize("ahead", [None, -30.0, 30.0, -600.0, 144_000.0])
async def test_a_clock_that_is_not_the_registry_s_is_told_of(
    serve: Serve, node: MakeNode, caplog: pytest.LogCaptureFixture, ahead: float | None
) -> None:
    """How far it is off, to the node's operator. Seconds are nobody's concern, nor a registry that says no time."""
    registry = await serve()
    registry.mesh.time_ms = 0 if ahead is None else int((clock.wall_clock() - ahead) * 1000)
    with caplog.at_level(logging.WARNING):
        end = node(registry)
        await until(lambda: end.calls.connected)
    told = [record.__dict__["seconds_ahead"] for record in caplog.records if "differ" in record.message]
    assert told == pytest.approx([ahead] if ahead is not None and abs(ahead) > 60 else [], abs=10)
