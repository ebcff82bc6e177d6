"""A client that comes back to its session, and one that does not."""

from collections.abc import Callable

import pytest
from portway_proto.wire.statements import SigningKey
from portway_testkit.fakes.node_sessions import NodeSessions, new_key
from portway_testkit.links.carrier_link import until
from portway_testkit.signers import label_of

MakeNode = Callable[..., NodeSessions]


async def test_a_client_that_comes_back_goes_on_with_its_session(node: NodeSessions, key: SigningKey) -> None:
    """Same session, same lanes; its tunnel is away with it and back with it, under the epoch it had."""
    client = await node.attach()
    await client.bind(key)
    node.park(client.welcome)
    client.lose()
    assert node.sessions.away == 1
    assert node.tunnels.live(label_of(key)) is None
    again = await node.attach(resume=client.welcome)
    assert again.welcome.resumed
    assert again.session is client.session
    assert (again.welcome.session_id, again.welcome.session_secret) == (
        client.welcome.session_id,
        client.welcome.session_secret,
    )
    assert node.sessions.away == 0
    tunnel = node.tunnels.live(label_of(key))
    assert tunnel is not None
    assert tunnel.epoch == 1
    assert node.announced.news == [
        ("bound", label_of(key), 1),
        ("withdrawn", label_of(key), 1),
        ("bound", label_of(key), 1),
    ]
    assert len(node.carrier.pools) == 1
    assert len(node.carrier.pools[0].lanes) == 1


async def test_who_comes_back_while_the_old_connection_seems_alive_takes_over(
    node: NodeSessions, key: SigningKey
) -> None:
    """The old control lane is closed, and nothing that it says or does afterwards has an effect."""
    client = await node.attach()
    await client.bind(key)
    again = await node.attach(resume=client.welcome)
    assert again.welcome.resumed
    assert client.lane.closed
    client.unbind(key)
    client.lose()
    assert node.tunnels.live(label_of(key)) is not None
    assert node.sessions.away == 0
    assert node.carrier.pools[0].control is again.lane


@pytest.mark.parametrize("secret", [b"", b"x" * 32])
async def test_a_wrong_secret_begins_a_new_session(node: NodeSessions, key: SigningKey, secret: bytes) -> None:
    """The session that was named is not touched."""
    client = await node.attach()
    await client.bind(key)
    client.welcome.session_secret, right = secret, client.welcome.session_secret
    other = await node.attach(resume=client.welcome)
    assert not other.welcome.resumed
    assert other.welcome.session_id != client.welcome.session_id
    assert other.welcome.session_secret != right
    assert not client.lane.closed
    assert node.tunnels.live(label_of(key)) is not None


async def test_a_session_of_another_token_is_not_resumed(node: NodeSessions, key: SigningKey) -> None:
    """Its quota and its revocation are the other token's; the secret alone does not change hands."""
    client = await node.attach(node.grant("t1"))
    await client.bind(key)
    client.lose()
    other = await node.attach(node.grant("t2"), resume=client.welcome)
    assert not other.welcome.resumed
    assert other.session is not client.session
    assert node.tunnels.live(label_of(key)) is None


async def test_a_session_is_judged_by_the_grant_that_was_shown_last(node: NodeSessions) -> None:
    """A fresh grant may bring another quota."""
    client = await node.attach(node.grant(max_tunnels=1))
    client.lose()
    again = await node.attach(node.grant(max_tunnels=2), resume=client.welcome)
    for _ in range(2):
        await again.bind(new_key())


async def test_a_session_that_is_away_for_too_long_is_given_up(make_node: MakeNode, key: SigningKey) -> None:
    """Its tunnels are free, its visits are cut, and a client that comes later begins anew."""
    node = make_node(resume_time=0.01)
    client = await node.attach()
    await client.bind(key, unencrypted=True)
    client.lose()
    await until(lambda: len(node.sessions) == 0)
    assert node.sessions.away == 0
    assert node.carrier.pools[0].closed
    assert node.raw_ports.account.held == 0
    late = await node.attach(resume=client.welcome)
    assert not late.welcome.resumed
    await late.bind(key, 2)


async def test_nobody_waits_for_tunnels_whose_client_did_not_come_back(make_node: MakeNode, key: SigningKey) -> None:
    """While it is away it may be on its way to another node; after that its tunnels are closed."""
    node = make_node(resume_time=0.01)
    client = await node.attach()
    await client.bind(key)
    client.lose()
    assert node.announced.news[-1] == ("withdrawn", label_of(key), 1)
    await until(lambda: len(node.sessions) == 0)
    assert node.announced.news[-1] == ("closed", label_of(key), 1)


async def test_a_session_that_came_back_is_not_given_up(node: NodeSessions, key: SigningKey) -> None:
    """The time limit of an earlier absence has no effect on who is here."""
    client = await node.attach()
    await client.bind(key)
    client.lose()
    (time_limit,) = node.sessions._away.values()
    again = await node.attach(resume=client.welcome)
    assert again.welcome.resumed
    assert time_limit.cancelled()
    assert not again.lane.closed
    assert node.tunnels.live(label_of(key)) is not None
