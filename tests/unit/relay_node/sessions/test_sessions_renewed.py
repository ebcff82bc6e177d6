"""How long a session lasts: as long as its client shows newer grants, and a day longer."""

from collections.abc import Callable

import pytest
from portway_proto.v1.lane_pb2 import FAILURE_CODE_GRANT, FAILURE_CODE_QUOTA, BindRefused, Goaway, Renewed
from portway_proto.wire.frames import FrameType
from portway_proto.wire.labels import Chain
from portway_relay.sessions.grants import Grant
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.node_sessions import Client, NodeSessions, new_chain

MakeNode = Callable[..., NodeSessions]

HOUR = 3600


def renew(client: Client, grant: str) -> None:
    client.send(FrameType.RENEWED, Renewed(grant=grant))


async def test_a_session_without_a_newer_grant_ends_after_a_day(node: NodeSessions, chain: Chain) -> None:
    """Its client is told to get a fresh one; a session that was resumed, or showed one, goes on, and so does one whose
    day is not over."""
    shown, resumed, silent = (node.attach(node.grant(f"t{number}")) for number in range(3))
    silent.bind(chain)
    node.clock.now += 12 * HOUR
    renew(shown, node.grant("t0"))
    resumed.lose()
    resumed = node.attach(node.grant("t1"), resume=resumed.welcome)
    node.clock.now += 13 * HOUR - 1
    node.sessions.end_unrenewed()
    assert len(node.sessions) == 3
    node.clock.now += 1
    node.sessions.end_unrenewed()
    assert silent.lane.failed is not None
    assert silent.lane.failed.code == FAILURE_CODE_GRANT
    assert "get a fresh one" in silent.lane.failed.message
    assert node.tunnels.live(chain.label) is None
    assert len(node.sessions) == 2
    node.clock.now += 12 * HOUR
    node.sessions.end_unrenewed()
    assert len(node.sessions) == 0


async def test_a_session_whose_client_is_away_ends_too(make_node: MakeNode) -> None:
    """However long it may be resumed."""
    node = make_node(resume_time=100 * HOUR)
    node.attach().lose()
    node.clock.now += 25 * HOUR
    node.sessions.end_unrenewed()
    assert (len(node.sessions), node.sessions.away) == (0, 0)


async def test_a_clock_that_is_set_ends_no_session(node: NodeSessions) -> None:
    """What counts is the time that has passed."""
    wall = ManualClock(node.clock.now)
    node.grants._clock = node.sessions._wall_clock = wall
    node.attach()
    wall.now += 1_000 * HOUR
    node.sessions.end_unrenewed()
    assert len(node.sessions) == 1


async def test_a_renewed_grant_counts_from_then_on(node: NodeSessions, chain: Chain) -> None:
    """Its quota is that of the session's next tunnels."""
    client = node.attach(node.grant(max_tunnels=1))
    client.bind(chain)
    client.ask(new_chain())
    assert client.lane.take(BindRefused).failure.code == FAILURE_CODE_QUOTA
    renew(client, node.grant(max_tunnels=2))
    client.bind(new_chain())


@pytest.mark.parametrize("other", ["token", "revoked", "forged"])
async def test_a_renewed_grant_that_is_not_accepted_changes_nothing(node: NodeSessions, other: str) -> None:
    """The session goes on with the one before, for as long as that lasts."""
    client = node.attach()
    node.clock.now += 24 * HOUR
    if other == "revoked":
        node.grants.revoke(["t1"])
    renew(client, {"token": node.grant("t2"), "revoked": node.grant(), "forged": "x"}[other])
    assert not client.lane.closed
    node.clock.now += HOUR
    node.sessions.end_unrenewed()
    assert len(node.sessions) == 0


async def test_a_flood_of_renewed_grants_is_not_verified(node: NodeSessions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs a signature; a few at once are looked at, then one a minute."""
    client, grant, verified = node.attach(), node.grant(), []
    verify = node.grants.verify

    def count(text: str) -> Grant:
        verified.append(text)
        return verify(text)

    monkeypatch.setattr(node.grants, "verify", count)
    for _ in range(100):
        renew(client, grant)
    assert len(verified) == 5
    node.clock.now += 60
    for _ in range(100):
        renew(client, grant)
    assert len(verified) == 6
    assert not client.lane.closed


async def test_the_tokens_of_all_sessions_are_known(node: NodeSessions) -> None:
    """Each once, those of clients that are away too; not those of sessions that have ended."""
    clients = [node.attach(node.grant(token)) for token in ("t1", "t1", "t2", "t3")]
    clients[2].lose()
    clients[3].send(FrameType.GOAWAY, Goaway())
    assert set(node.sessions.tokens) == {"t1", "t2"}
