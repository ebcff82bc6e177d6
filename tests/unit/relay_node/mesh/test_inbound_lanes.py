"""Lanes that other nodes dialled: handshakes, limits, stopping, certificates that are refused."""

import asyncio
import socket

import pytest
import trustme
from portway_carrier.contract import VisitEnd
from portway_carrier.values import ClientTls, Outcome
from portway_proto.wire.frames import RefusalReason
from portway_proto.wire.limits import MESH_ALPN
from portway_relay.mesh import inbound_lanes as inbound_lanes_module
from portway_runtime.endpoints import Endpoint
from portway_testkit.links.carrier_link import until
from portway_testkit.links.mesh_lanes import OPENING, SUFFIX, Make, certificates
from portway_testkit.waiting import PATIENCE


async def test_lanes_are_dialled_anew_to_another_address(make: Make) -> None:
    """The pool of before takes nobody new."""
    one, two, moved = make("one"), make("two"), make("two")
    one.update_peers([two.info])
    await until(lambda: one.peers.answers("two"))
    before = one.peers.pool_of("two")
    one.update_peers([two.info])
    assert one.peers.pool_of("two") is before
    one.update_peers([moved.info])
    await until(lambda: len(moved.inbound_lanes) == 2 and not len(two.inbound_lanes))
    assert one.peers.pool_of("two") is not before


async def test_a_new_certificate_is_for_new_lanes(make: Make, authority: trustme.CA) -> None:
    """What is up stays up, the control lane and warm lanes alike; what is dialled later shows the new one."""
    one, two = make("one"), make("two")
    one.hold("a" * 16)
    one.update_peers([two.info])
    await until(lambda: len(two.inbound_lanes) == 2 and len(two.heard) == 1)
    before, lanes = one.peers.pool_of("two"), set(two.inbound_lanes)
    assert before is not None
    one.loaded = certificates(authority, "renamed" + SUFFIX)
    one.peers.certificates_changed()
    assert one.peers.pool_of("two") is before
    before.want(1)
    await until(lambda: len(two.inbound_lanes) == 3)
    assert lanes < set(two.inbound_lanes)
    assert two.inbound_lanes.count("renamed") == 1
    for lane in lanes:
        lane.abort()
    await until(lambda: [name for name, _ in two.heard] == ["one", "renamed"])


async def test_a_node_that_stops_is_left_by_those_who_opened_lanes(make: Make) -> None:
    """A visit that was on its way is refused, not cut off: it may be tried elsewhere."""
    one, two = make("one"), make("two")
    one.update_peers([two.info])
    pool = one.peers.pool_of("two")
    assert pool is not None
    await until(lambda: pool.counts.idle == 1 and len(two.inbound_lanes) == 2 and not two.inbound_lanes.greeting)
    near, far = socket.socketpair()
    visitor = one.carrier.accept(near, None)
    await visitor.ready()
    two.stop_listening()
    ends: list[VisitEnd] = []
    one.carrier.join(visitor, pool, OPENING, lambda _, end: ends.append(end))
    await asyncio.sleep(0)  # its OPEN leaves in the next turn, and so does the wish to be left
    closing = one.tasks.spawn(two.inbound_lanes.close(), name="close")
    await until(lambda: bool(ends))
    assert (ends[0].outcome, ends[0].reason) == (Outcome.REFUSED, RefusalReason.NOT_HERE)
    await closing
    assert pool.counts.idle == 0
    far.close()
    assert ends[0].visitor is not None
    ends[0].visitor.abort()
    await until(lambda: near.fileno() == -1)


async def test_a_node_that_does_not_leave_is_waited_for_a_moment(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lanes are cut then."""
    monkeypatch.setattr(inbound_lanes_module, "_RETIRED_WITHIN", 0.05)
    one, two = make("one"), make("two")
    one.update_peers([two.info])
    await until(lambda: len(two.inbound_lanes) == 2 and not two.inbound_lanes.greeting)
    monkeypatch.setattr("portway_carrier.python.lanes.pool.PyPool.lane_retires", lambda pool, lane: None)
    two.stop_listening()
    await two.inbound_lanes.close()
    await until(lambda: len(two.inbound_lanes) == 0)


async def test_a_visit_goes_over_a_warm_lane(make: Make) -> None:
    """One is there before the first visitor comes; what it says arrives unchanged."""
    one, two = make("one"), make("two")
    one.update_peers([two.info])
    pool = one.peers.pool_of("two")
    assert pool is not None
    await until(lambda: pool.counts.idle == 1)
    ours, theirs = socket.socketpair()
    ended: asyncio.Future[VisitEnd] = asyncio.get_running_loop().create_future()
    stream = one.carrier.accept(ours, None)
    one.carrier.join(stream, pool, OPENING, lambda visit, end: ended.set_result(end))
    end = await ended
    assert (end.outcome, end.reason) == (Outcome.REFUSED, RefusalReason.NOT_HERE)
    assert two.visits == [OPENING]
    assert end.visitor is stream
    stream.abort()
    theirs.close()


@pytest.mark.parametrize(
    "names", [("registry.example.com",), ("a" + SUFFIX, "b" + SUFFIX), ("127.0.0.1",)], ids=["none", "two", "address"]
)
async def test_who_is_not_one_node_is_refused(make: Make, authority: trustme.CA, names: tuple[str, ...]) -> None:
    """The cluster's CA signs for others too."""
    stranger, two = make("stranger", loaded=certificates(authority, *names)), make("two")
    stranger.hold("a" * 16)
    stranger.update_peers([two.info])
    await until(lambda: stranger.carrier.counters.lanes_closed > 0)
    assert len(two.inbound_lanes) == 0
    assert two.heard == []


async def test_a_lane_that_says_nothing_is_closed(make: Make, authority: trustme.CA) -> None:
    """It has to say PEER in time, and is counted until it has."""
    patient, two = make("two", time_limit=PATIENCE), make("two", time_limit=0.05)
    context = certificates(authority, "one" + SUFFIX)
    one = make("one")
    tls = ClientTls(context.ca, "two" + SUFFIX, MESH_ALPN, context.node.chain, context.node.key)
    streams = [one.carrier.connect(Endpoint("127.0.0.1", node.info.port), tls) for node in (patient, two)]
    await until(lambda: len(patient.inbound_lanes.greeting) == 1)
    await until(lambda: two.carrier.counters.lanes_closed == 1 and len(two.inbound_lanes) == 0)
    assert not two.inbound_lanes.greeting
    for stream in streams:
        stream.abort()
    await until(lambda: len(patient.inbound_lanes) == 0)
    assert not patient.inbound_lanes.greeting


async def test_handshakes_in_progress_are_bounded(make: Make) -> None:
    """What is above is closed unread."""
    two = make("two", capacity=1)
    first = socket.create_connection(("127.0.0.1", two.info.port))
    await until(lambda: two.inbound_lanes.handshakes == 1)
    reader, writer = await asyncio.open_connection("127.0.0.1", two.info.port)
    assert await reader.read() == b""
    assert two.settled == 1, "who is turned away has left no handshake unfinished"
    writer.close()
    await writer.wait_closed()
    first.close()


async def test_a_certificate_of_before_is_refused(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Once its name was given anew: lanes that are up are closed, new ones not taken."""
    one, two = make("one"), make("two")
    one.update_peers([two.info])
    two.update_peers([one.info])
    await until(lambda: two.peers.answers("one") and one.peers.answers("two"))
    two.update_peers([one.info], certified_since={"one": 1 << 50})
    await until(lambda: not len(two.inbound_lanes))
    refused = one.carrier.counters.lanes_closed
    await until(lambda: one.carrier.counters.lanes_closed > refused + 1)
    assert not len(two.inbound_lanes)
    told = [record.__dict__ for record in caplog.records if "mesh lanes are refused" in record.message]
    assert {(one["node"], one["peer"], one["message"]) for one in told} == {
        ("one", told[0]["peer"], told[0]["message"])
    }, "it dials again and again: one fact, which the log counts"
    two.update_peers([one.info], certified_since={"one": 1})
    await until(lambda: len(two.inbound_lanes) == 2)


async def test_a_certificate_of_another_region_is_refused(make: Make, authority: trustme.CA) -> None:
    """A registry has told which region the node is of, and its certificate says another."""
    loaded = certificates(authority, "one" + SUFFIX, "far.region.portway.internal")
    one, two = make("one", loaded=loaded), make("two")
    two.update_peers([one.info])
    one.update_peers([two.info])
    await until(lambda: one.carrier.counters.lanes_closed > 0)
    assert not len(two.inbound_lanes)
