"""What a node believes of other nodes' records, and what a client believes of a registry's, whatever their size."""

import asyncio

from portway.engine.grpc_registries import well_formed
from portway_proto.v1.discovery_pb2 import Candidate
from portway_proto.v1.lane_pb2 import Routes
from portway_proto.v1.types_pb2 import NodeInfo, TunnelInfo
from portway_testkit.links.carrier_link import until
from portway_testkit.links.mesh_lanes import Make, authority, make

__all__ = ["authority", "make"]

HUGE = "a" * 300_000


async def test_a_peer_with_a_huge_record_costs_the_others_nothing(make: Make) -> None:
    """A registry's list names it: it is not dialled, what was known of it stays, and the others are taken up."""
    one, two, three = make("one"), make("two"), make("three")
    evil = [
        NodeInfo(name="evil", region="fra", host=HUGE, port=1, server_name="evil.node.portway.internal"),
        NodeInfo(name="evil-2", region="fra", host="127.0.0.1", port=1, version=HUGE),
        NodeInfo(name=HUGE, region="fra", host="127.0.0.1", port=1),
    ]
    one.update_peers([two.info, *evil])
    await until(lambda: one.peers.answers("two"))
    pool = one.peers.pool_of("two")
    changed = two.info
    changed.version = HUGE
    one.update_peers([changed, three.info])
    await until(lambda: one.peers.answers("three"))
    assert one.peers.pool_of("two") is pool
    assert len(one.peers) == 2


async def test_routes_without_their_form_close_the_lane(make: Make) -> None:
    """A frame has 16 KiB, but a node could fill another one's memory with labels of that length: none is kept."""
    one, two = make("one"), make("two")
    one.update_peers([two.info])
    await until(lambda: bool(two.wholes))
    one.peers.tell_siblings(Routes(bound=[TunnelInfo(label="a" * 16_000, node="one", unencrypted_port=20_000)]))
    await until(lambda: len(two.wholes) == 2)
    assert [list(routes.bound) for _, routes in two.heard] == [[], []]


async def test_unknown_fields_of_routes_go_no_further(make: Make) -> None:
    """The route is taken up without them."""
    one, two = make("one"), make("two")
    one.update_peers([two.info])
    await until(lambda: bool(two.wholes))
    tunnel = TunnelInfo(label="a" * 16, node="one", epoch=1, claim=bytes(32))
    known = TunnelInfo.FromString(tunnel.SerializeToString())
    tunnel.MergeFromString(b"\xc2\x3e\x03abc")
    one.peers.tell_siblings(Routes(bound=[tunnel]))
    await until(lambda: len(two.heard) == 2)
    assert two.heard[1][1].bound[0].SerializeToString() == known.SerializeToString()


async def test_an_answer_without_its_form_is_none(make: Make) -> None:
    """The node that gave it is not asked again on that lane."""
    one, two = make("one"), make("two")
    two.hold("a" * 16).tenant = "t" * 10_000
    one.update_peers([two.info])
    await until(lambda: one.peers.answers("two"))
    async with asyncio.timeout(10):
        assert await one.peers.ask_region("fra", "a" * 16, None) == []


def test_a_client_passes_over_a_candidate_without_its_form() -> None:
    """The others are raced, and what the client shows of a node has known fields in their form."""
    good = Candidate(node=NodeInfo(name="good", region="fra", host="127.0.0.1", port=443), distance_km=1.5)
    bad = [
        Candidate(node=NodeInfo(name="e\x1b[2J", region="fra", host="127.0.0.1", port=443)),
        Candidate(node=NodeInfo(name="evil", region="fra", host=HUGE, port=443)),
    ]
    state = Candidate(node=NodeInfo(name="later", region="fra", host="127.0.0.1", port=443, state=99))  # type: ignore[arg-type]
    state.node.MergeFromString(b"\xc2\x3e\x03abc")
    found = well_formed([bad[0], good, bad[1], state])
    assert [one.node.name for one in found] == ["good", "later"]
    assert found[0] == good
    assert found[1].node.state == 0
    assert found[1].node.ByteSize() < 50
