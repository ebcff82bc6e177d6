"""Who is admitted to a node, who comes back, who has been away for too long, and how it ends for each."""

import asyncio
from collections.abc import Callable

import pytest
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_GRANT,
    FAILURE_CODE_OVERLOADED,
    FAILURE_CODE_REVOKED,
    FAILURE_CODE_SESSION,
    FAILURE_CODE_SHUTDOWN,
    Goaway,
    Hello,
)
from portway_proto.wire.statements import SigningKey
from portway_relay.errors import Refused
from portway_testkit.fakes.node_lanes import FakeLane, FakeVisit
from portway_testkit.fakes.node_sessions import NodeSessions, new_key
from portway_testkit.links.carrier_link import until
from portway_testkit.signers import label_of

MakeNode = Callable[..., NodeSessions]


async def refusal(node: NodeSessions, hello: Hello) -> Refused:
    with pytest.raises(Refused) as caught:
        await node.sessions.hello(FakeLane(), hello)
    return caught.value


async def test_welcome_says_who_answers_and_what_the_session_may(node: NodeSessions) -> None:
    """Everything that a client needs to know of its session and its node is in WELCOME."""
    welcome = (await node.attach()).welcome
    assert (welcome.node, welcome.region) == ("relay-1", "fra")
    assert (welcome.resume_seconds, welcome.max_lanes) == (60, 4096)
    assert welcome.node_time_ms == int(node.clock() * 1000)
    assert not welcome.resumed
    assert len(node.sessions) == 1


async def test_each_session_has_an_id_and_a_secret_of_its_own(node: NodeSessions) -> None:
    """16 and 32 random bytes: neither is to be guessed from another."""
    first, second = (await node.attach()).welcome, (await node.attach()).welcome
    assert len(first.session_id) == len(second.session_id) == 16
    assert len(first.session_secret) == len(second.session_secret) == 32
    assert first.session_id != second.session_id
    assert first.session_secret != second.session_secret


async def test_a_bad_grant_makes_no_session(node: NodeSessions) -> None:
    """The client is told to get another one, and nothing is kept of it."""
    assert (await refusal(node, node.hello("nonsense"))).code == FAILURE_CODE_GRANT
    assert len(node.sessions) == 0
    assert not node.carrier.pools


async def test_a_revoked_token_makes_no_session(node: NodeSessions) -> None:
    """A revocation that came before the client did is remembered."""
    node.grants.revoke(["t1"])
    assert (await refusal(node, node.hello(node.grant("t1")))).code == FAILURE_CODE_REVOKED
    assert len(node.sessions) == 0


async def test_a_node_that_has_its_fill_of_sessions_says_so(make_node: MakeNode) -> None:
    """The client is sent to another node; those that are here stay."""
    node = make_node(max_sessions=1)
    first = await node.attach()
    refused = await refusal(node, node.hello(node.grant()))
    assert refused.code == FAILURE_CODE_OVERLOADED
    assert "another" in refused.message
    assert first.lane.failed is None
    assert (await node.attach(resume=first.welcome)).welcome.resumed, "coming back takes no further place"


async def test_no_new_client_comes_while_memory_is_scarce(node: NodeSessions) -> None:
    """It is sent to another node; those that are here stay, and may come back."""
    first = await node.attach()
    node.scarce = True
    assert (await refusal(node, node.hello(node.grant()))).code == FAILURE_CODE_OVERLOADED
    assert (await node.attach(resume=first.welcome)).welcome.resumed
    node.scarce = False
    await node.attach()


async def test_one_token_does_not_have_all_sessions_of_a_node(make_node: MakeNode) -> None:
    """Those whose client is away count, and the one that is away for the longest time makes room for the next one."""
    node = make_node(max_sessions=5, max_sessions_per_token=2)
    first, second = await node.attach(), await node.attach()
    assert (await refusal(node, node.hello(node.grant()))).code == FAILURE_CODE_OVERLOADED
    other = await node.attach(node.grant("t2"))
    second.lose()
    first.lose()
    third = await node.attach()
    assert len(node.sessions) == 3
    assert node.carrier.pools[1].closed, "the pool of the session that was away first"
    assert not (await node.attach(resume=second.welcome)).welcome.resumed, (
        "in the place of the first one, which was away too"
    )
    for client in (first, third, other):
        client.leave()
    assert len(node.sessions) == 1
    await node.attach()


async def test_a_token_with_a_small_quota_has_few_sessions(make_node: MakeNode) -> None:
    """One for each of its tunnels and a few to spare, however often it comes and goes."""
    node = make_node()
    grant = node.grant(max_tunnels=1)
    for _ in range(100):
        (await node.attach(grant)).lose()
    assert len(node.sessions) == node.sessions.away == 17
    staying = [await node.attach(grant) for _ in range(17)]
    assert node.sessions.away == 0
    assert (await refusal(node, node.hello(grant))).code == FAILURE_CODE_OVERLOADED
    staying[0].leave()
    await node.attach(grant)


async def test_clients_that_come_all_at_once_are_told_when_to_come(make_node: MakeNode) -> None:
    """After a burst each is told its own turn; who comes back to its session is let in all the same."""
    node = make_node(session_burst=2, sessions_per_second=10)
    first = await node.attach()
    await node.attach()
    hello = node.hello()
    told = [(await refusal(node, hello)).failure for _ in range(3)]
    assert {failure.code for failure in told} == {FAILURE_CODE_OVERLOADED}
    assert [failure.retry_after_ms for failure in told] == pytest.approx([100, 200, 300], abs=1)
    assert len(node.sessions) == 2
    assert node.sessions.postponed == 3
    assert (await node.attach(resume=first.welcome)).welcome.resumed
    node.clock.now += 1
    assert not (await node.attach()).welcome.resumed


async def test_a_data_lane_that_shows_the_secret_is_parked(node: NodeSessions) -> None:
    """It belongs to its session's pool from then on, unanswered."""
    client = await node.attach()
    lane = node.park(client.welcome)
    assert node.carrier.pools[0].lanes == [lane]
    assert not lane.said
    assert not lane.closed


@pytest.mark.parametrize("secret", [b"", b"x" * 32])
async def test_a_data_lane_with_a_wrong_secret_is_refused(node: NodeSessions, secret: bytes) -> None:
    """It is answered like an unknown session: nobody learns which ids exist."""
    client = await node.attach()
    with pytest.raises(Refused) as wrong:
        node.park(client.welcome, secret=secret)
    node.sessions.revoke(["t1"])
    with pytest.raises(Refused) as unknown:
        node.park(client.welcome)
    assert wrong.value.code == unknown.value.code == FAILURE_CODE_SESSION
    assert wrong.value.message == unknown.value.message
    assert not node.carrier.pools[0].lanes


async def test_one_token_does_not_have_all_lanes_of_a_node(make_node: MakeNode) -> None:
    """Those of all its sessions count; another token's client gets its own."""
    node = make_node(max_lanes_per_token=3)
    first, second, other = await node.attach(), await node.attach(), await node.attach(node.grant("t2"))
    node.park(first.welcome)
    node.park(first.welcome)
    node.park(second.welcome)
    with pytest.raises(Refused, match="lanes") as caught:
        node.park(second.welcome)
    assert caught.value.code == FAILURE_CODE_OVERLOADED
    node.park(other.welcome)


async def test_a_session_gets_no_more_lanes_than_it_was_told(make_node: MakeNode) -> None:
    """Lanes with a visit count: `max_lanes` is all of them."""
    node = make_node(max_lanes=3)
    client = await node.attach()
    assert client.welcome.max_lanes == 3
    node.park(client.welcome)
    node.carrier.pools[0].busy = 2
    with pytest.raises(Refused) as caught:
        node.park(client.welcome)
    assert caught.value.code == FAILURE_CODE_OVERLOADED


async def test_a_client_that_was_asked_to_leave_takes_its_tunnels_along(node: NodeSessions, key: SigningKey) -> None:
    """They are withdrawn here and not closed: their visitors wait for the news of where they are."""
    client = await node.attach()
    await client.bind(key)
    node.sessions.ask_to_leave("this node is stopping")
    client.leave()
    assert node.tunnels.live(label_of(key)) is None
    assert node.announced.news[-1] == ("withdrawn", label_of(key), 1)


async def test_a_node_that_stops_closes_no_tunnel(node: NodeSessions, key: SigningKey) -> None:
    """Clients that are still here lose it, and come back elsewhere."""
    await (await node.attach()).bind(key)
    node.sessions.close()
    assert node.announced.news[-1] == ("withdrawn", label_of(key), 1)


async def test_the_tunnels_of_a_revoked_token_are_closed(node: NodeSessions, key: SigningKey) -> None:
    """No node takes them in."""
    await (await node.attach()).bind(key)
    node.sessions.revoke(["t1"])
    assert node.announced.news[-1] == ("closed", label_of(key), 1)


async def test_a_client_that_leaves_is_gone_at_once(node: NodeSessions, key: SigningKey) -> None:
    """GOAWAY: tunnels over, control lane closed without a reason, data lanes let go as they become idle."""
    client = await node.attach()
    await client.bind(key)
    client.leave()
    assert len(node.sessions) == 0
    assert node.tunnels.live(label_of(key)) is None
    assert node.announced.news[-2:] == [("withdrawn", label_of(key), 1), ("closed", label_of(key), 1)]
    assert client.lane.closed
    assert client.lane.failed is None
    assert node.carrier.pools[0].retired
    assert not node.carrier.pools[0].closed, "visits in progress may finish"
    client.lose()
    assert node.sessions.away == 0


async def test_visits_of_a_tunnel_that_was_closed_may_finish_for_a_while(make_node: MakeNode, key: SigningKey) -> None:
    """After UNBIND they have `leave_grace`; then they are cut."""
    node = make_node(leave_grace=0.01)
    client = await node.attach()
    await client.bind(key)
    visit = FakeVisit()
    tunnel = node.tunnels.live(label_of(key))
    assert tunnel is not None
    tunnel.visits.add(visit)
    client.unbind(key)
    assert not visit.is_cut
    await until(lambda: visit.is_cut)


async def test_revoking_a_token_ends_its_sessions_and_no_other(node: NodeSessions) -> None:
    """Each is told why; tunnels and visits are over, also of one that is away."""
    mine, away, other = (
        await node.attach(node.grant("t1")),
        await node.attach(node.grant("t1")),
        await node.attach(node.grant("t2")),
    )
    keys = [new_key() for _ in range(3)]
    for client, key in zip((mine, away, other), keys, strict=True):
        await client.bind(key)
    away.lose()
    node.sessions.revoke(["t1", "t5"])
    assert mine.lane.failed is not None
    assert mine.lane.failed.code == FAILURE_CODE_REVOKED
    assert other.lane.failed is None
    assert len(node.sessions) == 1
    assert node.sessions.away == 0
    assert [tunnel.label for tunnel in node.tunnels.all_live()] == [label_of(keys[2])]
    assert [pool.closed for pool in node.carrier.pools] == [True, True, False]


async def test_a_node_that_stops_asks_its_clients_to_leave(node: NodeSessions, key: SigningKey) -> None:
    """GOAWAY to each; what they have works on, and new clients are sent elsewhere."""
    client = await node.attach()
    await client.bind(key)
    node.sessions.ask_to_leave("this node is stopping")
    assert client.lane.take(Goaway).failure.code == FAILURE_CODE_SHUTDOWN
    assert not client.lane.closed
    assert node.tunnels.live(label_of(key)) is not None
    assert (await refusal(node, node.hello(node.grant()))).code == FAILURE_CODE_SHUTDOWN
    node.park(client.welcome)
    await client.bind(key, 2)


async def test_many_clients_are_asked_to_leave_one_after_the_other(make_node: MakeNode) -> None:
    """A burst of them at once, the others at the pace that another node takes them."""
    node = make_node(session_burst=2, sessions_per_second=10)
    clients = []
    for _ in range(5):
        clients.append(await node.attach())
        node.clock.now += 0.1
    node.sessions.ask_to_leave("this node is stopping")
    moments = [client.lane.take(Goaway).failure.retry_after_ms for client in clients]
    assert moments == [0, 0, 0, 100, 200]


async def test_the_last_client_is_asked_to_leave_in_time(make_node: MakeNode) -> None:
    """However many there are, the last one has more than half of the time that a node waits for it."""
    node = make_node(session_burst=1, sessions_per_second=1, stop_grace=10.0)
    clients = []
    for _ in range(20):
        clients.append(await node.attach())
        node.clock.now += 1
    node.sessions.ask_to_leave("this node is stopping")
    moments = [client.lane.take(Goaway).failure.retry_after_ms for client in clients]
    assert moments == sorted(moments)
    assert 3_000 < moments[-1] <= 4_000


async def test_a_node_that_stops_waits_for_nobody_who_is_away(node: NodeSessions) -> None:
    """A client that is here is waited for; one that is away comes back to another node."""
    here, away = await node.attach(), await node.attach()
    away.lose()
    node.sessions.ask_to_leave("this node is stopping")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(node.sessions.over(), 0.01)
    here.lose()
    await asyncio.wait_for(node.sessions.over(), 5)
    assert node.sessions.away == 2


async def test_a_node_that_has_stopped_tells_who_is_left(node: NodeSessions, key: SigningKey) -> None:
    """FAIL with SHUTDOWN, so that they attach elsewhere at once; tunnels, ports and visits are over."""
    client = await node.attach()
    await client.bind(key, unencrypted=True)
    node.sessions.close()
    assert client.lane.failed is not None
    assert client.lane.failed.code == FAILURE_CODE_SHUTDOWN
    assert len(node.sessions) == 0
    assert len(node.tunnels) == 0
    assert node.raw_ports.account.held == 0
    assert node.carrier.pools[0].closed
    client.lose()
    assert node.sessions.away == 0
    node.sessions.close()


async def test_a_revoked_session_cannot_be_resumed(node: NodeSessions) -> None:
    """Neither with the old grant nor by its secret alone."""
    client = await node.attach()
    node.grants.revoke(["t1"])
    node.sessions.revoke(["t1"])
    welcome = client.welcome
    hello = node.hello(resume=welcome)
    assert (await refusal(node, hello)).code == FAILURE_CODE_REVOKED
    assert not (await node.attach(node.grant("t2"), resume=welcome)).welcome.resumed
