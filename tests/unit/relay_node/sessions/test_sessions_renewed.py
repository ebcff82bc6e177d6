"""How long a session lasts: as long as its client shows newer grants, and a day longer."""

from collections.abc import Callable

import pytest
from portway_proto.v1.lane_pb2 import FAILURE_CODE_GRANT, FAILURE_CODE_QUOTA
from portway_proto.wire.statements import SigningKey
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.node_sessions import Client, NodeSessions, new_key
from portway_testkit.links.carrier_link import until
from portway_testkit.signers import label_of

MakeNode = Callable[..., NodeSessions]

HOUR = 3600


async def renew(client: Client, grant: str) -> None:
    """Show a newer grant, and wait until it was verified."""
    client.show(grant=grant)
    await until(lambda: client.session._tunnels.grant_token == grant)


async def test_a_session_without_a_newer_grant_ends_after_a_day(node: NodeSessions, key: SigningKey) -> None:
    """Its client is told to get a fresh one; a session that was resumed, or showed one, goes on, and so does one whose
    day is not over."""
    shown, resumed, silent = [await node.attach(node.grant(f"t{number}")) for number in range(3)]
    await silent.bind(key)
    node.clock.now += 12 * HOUR
    await renew(shown, node.grant("t0", signer=shown.signer))
    resumed.lose()
    resumed = await node.attach(node.grant("t1", signer=resumed.signer), resume=resumed.welcome)
    node.clock.now += 13 * HOUR - 1
    node.sessions.end_unrenewed()
    assert len(node.sessions) == 3
    node.clock.now += 1
    node.sessions.end_unrenewed()
    assert silent.lane.failed is not None
    assert silent.lane.failed.code == FAILURE_CODE_GRANT
    assert "get a fresh one" in silent.lane.failed.message
    assert node.tunnels.live(label_of(key)) is None
    assert len(node.sessions) == 2
    node.clock.now += 12 * HOUR
    node.sessions.end_unrenewed()
    assert len(node.sessions) == 0


async def test_a_session_whose_client_is_away_ends_too(make_node: MakeNode) -> None:
    """However long it may be resumed."""
    node = make_node(resume_time=100 * HOUR)
    (await node.attach()).lose()
    node.clock.now += 25 * HOUR
    node.sessions.end_unrenewed()
    assert (len(node.sessions), node.sessions.away) == (0, 0)


async def test_a_clock_that_is_set_ends_no_session(node: NodeSessions) -> None:
    """What counts is the time that has passed."""
    wall = ManualClock(node.clock.now)
    node.grants._clock = node.sessions._wall_clock = wall
    await node.attach()
    wall.now += 1_000 * HOUR
    node.sessions.end_unrenewed()
    assert len(node.sessions) == 1


async def test_a_renewed_grant_counts_from_then_on(node: NodeSessions, key: SigningKey) -> None:
    """Its quota is that of the session's next tunnels."""
    client = await node.attach(node.grant(max_tunnels=1))
    await client.bind(key)
    client.ask(new_key())
    assert (await client.refused()).code == FAILURE_CODE_QUOTA
    await renew(client, node.grant(max_tunnels=2, signer=client.signer))
    await client.bind(new_key())


@pytest.mark.parametrize("other", ["token", "revoked", "forged", "session key"])
async def test_a_renewed_grant_that_is_not_accepted_changes_nothing(
    node: NodeSessions, key: SigningKey, other: str
) -> None:
    """The session goes on with the one before, for as long as that lasts."""
    client = await node.attach()
    node.clock.now += 24 * HOUR
    if other == "revoked":
        node.grants.revoke(["t1"])
    grants = {
        "token": node.grant("t2", signer=client.signer),
        "revoked": node.grant(signer=client.signer),
        "forged": node.grant(signer=client.signer)[:-4] + "AAAA",
        "session key": node.grant(),
    }
    client.show(grant=grants[other])
    await client.bind(key)  # answered after the grant's signature was checked
    node.clock.now += HOUR
    node.sessions.end_unrenewed()
    assert len(node.sessions) == 0


async def test_a_renewed_grant_above_its_tokens_budget_is_passed_over(make_node: MakeNode) -> None:
    """A grant and a presence cost a signature each. The session keeps the grant before, and may show one again."""
    node = make_node(signature_check_burst=2, signature_checks_per_second=2)
    client = await node.attach()
    renewed, above, later = (node.grant(signer=client.signer, jti=str(number)) for number in range(3))
    await renew(client, renewed)
    client.show(grant=above)
    assert node.checks.unchecked == {"token": 2}
    node.clock.now += 1
    await renew(client, later)
    assert node.checks.unchecked == {"token": 2}


async def test_the_tokens_of_all_sessions_are_known(node: NodeSessions) -> None:
    """Each once, those of clients that are away too; not those of sessions that have ended."""
    clients = [await node.attach(node.grant(token)) for token in ("t1", "t1", "t2", "t3")]
    clients[2].lose()
    clients[3].leave()
    assert set(node.sessions.tokens) == {"t1", "t2"}
