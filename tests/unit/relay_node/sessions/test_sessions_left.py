"""Clients that leave for another node while visits are in progress: what these visits get, and what ends them."""

from collections.abc import Callable

import pytest
from portway_proto.v1.lane_pb2 import FAILURE_CODE_OVERLOADED, Moved, Unbound
from portway_proto.wire.frames import FrameType
from portway_proto.wire.statements import SigningKey
from portway_relay.errors import Refused
from portway_relay.routing.tunnel import Tunnel
from portway_testkit.fakes.node_lanes import FakeVisit
from portway_testkit.fakes.node_sessions import Client, NodeSessions, new_key
from portway_testkit.links.carrier_link import until
from portway_testkit.signers import label_of

MakeNode = Callable[..., NodeSessions]
DAY = 24 * 3600.0


def visited(node: NodeSessions, key: SigningKey) -> tuple[Tunnel, FakeVisit]:
    """A tunnel with a visit, which occupies a lane of the node's first pool."""
    tunnel, visit = node.tunnels.live(label_of(key)), FakeVisit()
    assert tunnel is not None
    tunnel.visits.add(visit)
    node.carrier.pools[0].busy += 1
    return tunnel, visit


async def visited_twice(
    node: NodeSessions, key: SigningKey, other: SigningKey
) -> tuple[Client, Tunnel, FakeVisit, FakeVisit]:
    """A client with a tunnel of each key: the tunnel of the first, its visit, and a visit of the other."""
    client = await node.attach()
    await client.bind(key)
    await client.bind(other)
    return client, *visited(node, key), visited(node, other)[1]


def move_with_forgery(client: Client, key: SigningKey, part: str) -> None:
    """MOVED, with a signature that is not the client's."""
    claim = client.claim(key, 2, node="relay-2")
    shown = {"claim": claim.encoded, "presence": client.present("relay-2", claim).encoded}
    shown[part] = shown[part][:-1] + bytes([shown[part][-1] ^ 1])
    client.send(FrameType.MOVED, Moved(label=claim.label, **shown))


async def left_for_another_node(node: NodeSessions, key: SigningKey) -> Client:
    """A client that has left while there is a visit of its tunnel."""
    client = await node.attach()
    await client.bind(key)
    visited(node, key)
    client.move(key, "relay-2")
    client.leave()
    assert len(node.sessions) == 0
    return client


async def test_a_client_that_went_to_another_node_has_closed_nothing(make_node: MakeNode, key: SigningKey) -> None:
    """MOVED, then GOAWAY at once, before what MOVED shows is checked: nobody hears that the tunnel is closed, and its
    visits may finish."""
    node = make_node(leave_grace=0.01)
    closed = new_key()
    client, tunnel, visit, other = await visited_twice(node, key, closed)
    client.move(key, "relay-2")
    client.leave()
    assert len(node.sessions) == 0
    await until(lambda: other.is_cut and node.routes.highest(label_of(key)) != tunnel.claim)
    assert not visit.is_cut
    assert ("closed", label_of(closed), 1) in node.announced.news
    assert ("withdrawn", label_of(key), 1) in node.announced.news
    assert ("closed", label_of(key), 1) not in node.announced.news


async def test_it_matters_not_whether_the_check_or_the_client_was_first(make_node: MakeNode, key: SigningKey) -> None:
    """Nor whether the other node is known here: a client may know of it sooner."""
    node = make_node(leave_grace=0.01)
    client, tunnel, visit, other = await visited_twice(node, key, new_key())
    client.move(key, "relay-2")
    await until(lambda: node.routes.is_elsewhere(tunnel.claim))
    assert node.tunnels.live(label_of(key)) is tunnel
    client.leave()
    await until(lambda: other.is_cut)
    assert not visit.is_cut
    assert ("closed", label_of(key), 1) not in node.announced.news


@pytest.mark.parametrize("part", ["claim", "presence"])
async def test_who_shows_a_forgery_has_closed_its_tunnels(make_node: MakeNode, key: SigningKey, part: str) -> None:
    """MOVED counts once it is checked. Without that the tunnel is closed, and its visits have `leave_grace`."""
    node = make_node(leave_grace=0.01)
    client = await node.attach()
    await client.bind(key)
    _, visit = visited(node, key)
    move_with_forgery(client, key, part)
    client.leave()
    assert not visit.is_cut
    await until(lambda: visit.is_cut)
    assert node.announced.news[-2:] == [("withdrawn", label_of(key), 1), ("closed", label_of(key), 1)]


async def test_a_client_that_was_asked_to_leave_shows_where_it_is_too(make_node: MakeNode, key: SigningKey) -> None:
    """Visits of a tunnel that moved have no limit at a node that is drained either; others have `drain_grace`."""
    node = make_node(drain_grace=0.01, leave_grace=3600.0)
    client, tunnel, visit, other = await visited_twice(node, key, new_key())
    node.sessions.ask_to_leave("this node is being drained")
    client.move(key, "relay-2")
    client.leave()
    await until(lambda: other.is_cut and node.routes.is_elsewhere(tunnel.claim))
    assert not visit.is_cut
    assert [kind for kind, *_ in node.announced.news].count("closed") == 0


async def test_visits_that_a_client_has_left_end_with_its_token(node: NodeSessions, key: SigningKey) -> None:
    """Its token is named to a registry as long as they last, and they are cut when it is revoked."""
    await left_for_another_node(node, key)
    assert list(node.sessions.tokens) == ["t1"]
    node.sessions.revoke(["t2"])
    assert not node.carrier.pools[0].closed
    node.sessions.revoke(["t1"])
    assert node.carrier.pools[0].closed
    assert not node.sessions.tokens


async def test_visits_of_a_tunnel_that_was_taken_end_with_its_token(node: NodeSessions, key: SigningKey) -> None:
    """What MOVED shows is checked before the client leaves: the session holds the tunnel no more."""
    node.pools["relay-2"] = object()
    client = await node.attach()
    await client.bind(key)
    visited(node, key)
    client.move(key, "relay-2")
    await until(lambda: bool(client.lane.said))
    client.lane.take(Unbound)
    client.leave()
    assert not node.carrier.pools[0].closed
    node.sessions.revoke(["t1"])
    assert node.carrier.pools[0].closed


async def test_visits_that_a_client_has_left_end_a_day_after_its_grant(node: NodeSessions, key: SigningKey) -> None:
    """As a session does whose grant is not renewed: a node that no registry reaches hears of no revocation."""
    await left_for_another_node(node, key)
    node.clock.now += DAY
    node.sessions.end_unrenewed()
    assert not node.carrier.pools[0].closed
    node.clock.now += 3600
    node.sessions.end_unrenewed()
    assert node.carrier.pools[0].closed


async def test_a_session_that_was_left_is_forgotten_after_its_last_visit(node: NodeSessions, key: SigningKey) -> None:
    """One without visits is not remembered in the first place."""
    (await node.attach()).leave()
    assert not node.sessions.tokens
    node.carrier.pools.clear()
    await left_for_another_node(node, key)
    node.sessions.end_unrenewed()
    assert node.sessions.tokens
    node.carrier.pools[0].busy = 0
    node.sessions.end_unrenewed()
    assert not node.sessions.tokens
    node.sessions.revoke(["t1"])
    assert not node.carrier.pools[0].closed


async def test_lanes_that_a_client_has_left_are_its_tokens(make_node: MakeNode, key: SigningKey) -> None:
    """Whoever leaves again and again does not get around the most lanes of a token."""
    node = make_node(max_lanes_per_token=2)
    client = await left_for_another_node(node, key)
    node.carrier.pools[0].busy = 2
    again = await node.attach(node.grant("t1"))
    with pytest.raises(Refused) as caught:
        node.park(again.welcome)
    assert caught.value.code == FAILURE_CODE_OVERLOADED
    assert client.lane.closed
    node.carrier.pools[0].busy = 0
    node.clock.now += 1
    node.park(again.welcome)


async def test_a_node_that_ends_cuts_visits_that_were_left(node: NodeSessions, key: SigningKey) -> None:
    """With all others."""
    await left_for_another_node(node, key)
    node.sessions.close()
    assert node.carrier.pools[0].closed
