"""A node that has seen a client's statements, or held its tunnel, uses them after the client has gone elsewhere."""

import time
from collections.abc import Callable

import pytest
from portway_proto.v1.lane_pb2 import FAILURE_CODE_CLAIM, BindRefused
from portway_proto.wire.frames import FrameType
from portway_proto.wire.limits import CLOCK_LEEWAY, PRESENCE_FRESH
from portway_proto.wire.statements import SigningKey
from portway_testkit.clusters.cluster import Cluster, NodePlan
from portway_testkit.clusters.hand_grants import HandGrant, grants_of
from portway_testkit.clusters.mesh import connected
from portway_testkit.links.hand_lane import HandLane
from portway_testkit.links.hand_tunnel import Bind, HandTunnel
from portway_testkit.links.thief import SEEN, Client, Thief
from portway_testkit.signers import label_of
from portway_testkit.visitors.onlookers import Onlookers, answered_at_last
from portway_testkit.waiting import PATIENCE, eventually

# A mesh of three nodes starts for each test.
pytestmark = pytest.mark.timeout(120)

HONEST = ("fra-1", "iad-1")


def shown(cluster: Cluster, key: SigningKey) -> list[tuple[str, int]]:
    """Node and epoch of the tunnel, as the registry has it."""
    return [(tunnel.node, tunnel.epoch) for tunnel in cluster.admin.tunnels() if tunnel.label == label_of(key)]


def moved(thief: Thief, home: str) -> tuple[SigningKey, HandTunnel, list[Client]]:
    """A tunnel that was at the hostile node, and is at its home in every honest node's eyes."""
    key = SigningKey()
    own, said = thief.lure(key, home)
    eventually(lambda: shown(thief.cluster, key) == [(home, SEEN)])
    for at in HONEST:
        eventually(lambda: answered_at_last(thief.cluster, at, own.host) == "own")
    return key, own, said


@pytest.mark.parametrize("home", HONEST)
def test_it_gets_no_visitor_of_a_tunnel_that_is_elsewhere(mesh: Cluster, thief: Thief, home: str) -> None:
    """Replayed, presented in a session of its own, raised, and taken back: all go on being served by their client."""
    key, own, said = moved(thief, home)
    with Onlookers(mesh, {own.host: "own"}, HONEST) as onlookers:
        for _ in range(3):
            for client in said:
                thief.claims(client)
            thief.takes_back(label_of(key), SEEN)
            thief.was_heard()
        before = onlookers.answers.copy()
        eventually(lambda: all((onlookers.answers - before)[at, "own"] > 3 for at in HONEST))
    assert shown(mesh, key) == [(home, SEEN)]
    assert own.unbound is None


@pytest.mark.parametrize("home", HONEST)
def test_it_gets_no_visitor_of_a_tunnel_that_is_gone(mesh: Cluster, bind: Bind, thief: Thief, home: str) -> None:
    """The label is nobody's now, and its own client's with the next epoch."""
    key, own, said = moved(thief, home)
    own.leave()
    eventually(lambda: shown(mesh, key) == [])
    with Onlookers(mesh, {own.host: "own"}, HONEST):
        for client in said:
            thief.claims(client)
            thief.was_heard()
            assert {answered_at_last(mesh, at, own.host) for at in HONEST} == {""}
        again = bind(mesh, home, "own", key, SEEN + 1, grant=own.grant)
        assert again.refused is None
        for at in HONEST:
            eventually(lambda: answered_at_last(mesh, at, own.host) == "own")


def test_without_a_registry_it_gets_nobody_either(mesh: Cluster, thief: Thief) -> None:
    """What it shows is told apart without asking anybody."""
    _, own, said = moved(thief, "fra-1")
    mesh.stop_registry()
    try:
        with Onlookers(mesh, {own.host: "own"}, HONEST, PATIENCE) as onlookers:
            for _ in range(2):
                for client in said:
                    thief.claims(client)
                before = onlookers.answers.copy() + onlookers.unanswered
                eventually(
                    lambda: all((onlookers.answers + onlookers.unanswered - before)[at, "own"] > 3 for at in HONEST)
                )
            assert not onlookers.unanswered["fra-1", "own"]
    finally:
        mesh.start_registry()
    for at in HONEST:
        eventually(lambda: answered_at_last(mesh, at, own.host) == "own")
    assert own.unbound is None


def test_a_claim_is_its_own_sessions_alone(mesh: Cluster, bind: Bind, thief: Thief) -> None:
    """A client of the thief's presents a victim's claim to the honest node that it was made for: it is refused, whoever
    signs the presence. The victim keeps its tunnel."""
    key = SigningKey()
    own = bind(mesh, "fra-1", "own", key)
    (claim,) = own.grant.signer.held
    grants = grants_of(mesh)
    with HandLane(mesh.nodes["fra-1"], mesh.ca) as accomplice:
        accomplice.begin(grants)
        accomplice.say_claim(claim)
        frame_type, payload = accomplice.hear()
        assert frame_type == FrameType.BIND_REFUSED
        assert BindRefused.FromString(payload).failure.code == FAILURE_CODE_CLAIM
    assert {answered_at_last(mesh, at, own.host) for at in HONEST} == {"own"}
    assert own.unbound is None


def test_silence_about_a_client_that_has_left_ends_by_the_clock(mesh: Cluster, bind: Bind, thief: Thief) -> None:
    """The client has gone to another region, whose node tells siblings here nothing. The thief says neither that it has
    gone nor where it is. A sibling that was led there asks when the presence was not renewed."""
    key = SigningKey()
    before = bind(mesh, "fra-2", "before", key, SEEN - 1)
    seen = thief.seen(before.grant, key)
    assert answered_at_last(mesh, "fra-1", before.host) == "before"
    thief.is_silent_about(key)
    thief.claims(seen)
    bind(mesh, "iad-1", "own", key, SEEN, grant=before.grant)
    eventually(lambda: shown(mesh, key) == [("iad-1", SEEN)])
    thief.was_heard()
    assert answered_at_last(mesh, "fra-1", before.host) == "thief"
    mesh.nodes["fra-1"].pass_time(PRESENCE_FRESH + 1)
    assert {answered_at_last(mesh, at, before.host) for at in HONEST} == {"own"}
    thief.claims(seen)
    thief.was_heard()
    assert {answered_at_last(mesh, at, before.host) for at in HONEST} == {"own"}


def test_silence_without_a_registry_ends_when_no_clock_may_be_that_wrong(
    mesh: Cluster, bind: Bind, thief: Thief
) -> None:
    """No registry is there to ask, and the home in the other region is cut off with it: the label leads nowhere."""
    key = SigningKey()
    before = bind(mesh, "fra-2", "before", key, SEEN - 1)
    seen = thief.seen(before.grant, key)
    assert answered_at_last(mesh, "fra-1", before.host) == "before"
    thief.is_silent_about(key)
    thief.claims(seen)
    mesh.nodes["iad-1"].stop()
    mesh.stop_registry()
    try:
        mesh.nodes["fra-1"].pass_time(PRESENCE_FRESH + CLOCK_LEEWAY + 5, everywhere=True)
        thief.claims(seen)
        assert answered_at_last(mesh, "fra-1", before.host) == ""
    finally:
        mesh.start_registry()


@pytest.mark.parametrize("minutes", [-23, -8, 16, 60 * 24 * 365 * 70])
def test_a_presence_that_is_shown_late_or_is_of_another_time_is_no_newer_for_it(
    mesh: Cluster, bind: Bind, thief: Thief, minutes: int
) -> None:
    """A thief that withholds a presence, and shows it to a sibling that has never heard of the label when the client
    has gone: 8 minutes later it is asked about, 23 minutes later it counts for nothing. One of the future that a
    program with a wrong clock has signed counts for nothing, either."""
    key = SigningKey()
    grant = grants_of(mesh).new()
    claim = grant.claim(key, SEEN - 1, "fra-2")
    presence = grant.signer.present("fra-2", claim, time_ms=int((time.time() + 60 * minutes) * 1000))
    other = HandGrant(grants_of(mesh).new().token, grant.signer)
    own = bind(mesh, "iad-1", "own", key, SEEN)
    eventually(lambda: shown(mesh, key) == [("iad-1", SEEN)])
    thief.claims(Client(claim, presence, other.token))
    thief.was_heard()
    assert {answered_at_last(mesh, at, own.host) for at in HONEST} == {"own"}
    assert own.unbound is None


@pytest.mark.parametrize("minutes", [14, -14])
def test_a_node_whose_clock_is_wrong_within_the_leeway_is_misled_no_more(
    make_mesh: Callable[..., Cluster], bind: Bind, minutes: int
) -> None:
    """A sibling of the thief, until a registry tells it the time and after."""
    plans = [NodePlan(name, name.partition("-")[0]) for name in ("fra-2", "iad-1")]
    mesh = make_mesh(NodePlan("fra-1", "fra", clock_ahead=60.0 * minutes), *plans)
    thief = Thief(mesh, "fra-2", bind)
    mesh.nodes["fra-1"].pass_time(60 * minutes, everywhere=True)
    _, own, said = moved(thief, "iad-1")
    for client in said:
        thief.claims(client)
        thief.was_heard()
        assert {answered_at_last(mesh, at, own.host) for at in HONEST} == {"own"}


def test_a_tunnel_that_was_closed_alone_does_not_stay_with_its_sessions_others(
    make_mesh: Callable[..., Cluster], bind: Bind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client has two tunnels at the thief, and closes one. The thief has to show the presence that places the other,
    and it says that the first is closed, whatever else the thief says to siblings, the registry and those who ask."""
    monkeypatch.setattr("portway_registry.nodes.unplaced._LOOKED_EVERY", 0.1)  # in place of a minute
    mesh = make_mesh()
    thief = Thief(mesh, "fra-2", bind)
    grants, first, second = grants_of(mesh), SigningKey(), SigningKey()
    with HandLane(mesh.nodes["fra-2"], mesh.ca) as client:
        client.begin(grants)
        client.bind(first)
        host = client.bind(second).host
        both, one = thief.seen(client.grant, first), thief.seen(client.grant, second)
        gone = host.replace(label_of(second), label_of(first))
        thief.is_silent_about(first)
        thief.claims(both, one)
        assert {answered_at_last(mesh, at, gone) for at in HONEST} == {"thief"}
        client.grant.signer.held.remove(both.claim)
        client.grant.present("fra-2")
        after = thief.seen(client.grant, second)
        thief.claims(after)
        thief.was_heard()
        for _ in range(2):
            assert {answered_at_last(mesh, at, gone) for at in HONEST} == {""}
            thief.claims(both, Client(both.claim, after.presence, after.grant_token))
            thief.was_heard()
        assert {answered_at_last(mesh, at, gone) for at in HONEST} == {""}
        assert shown(mesh, second) == [("fra-2", 1)]
        eventually(lambda: shown(mesh, first) == [])


def test_a_node_that_was_just_started_asks_first(mesh: Cluster, thief: Thief) -> None:
    """It knows nothing of what was said before its start. What the thief shows it first, from a minute ago, is asked
    about before anybody is led there."""
    _, own, (seen, *_) = moved(thief, "iad-1")
    mesh.nodes["fra-1"].restart()
    eventually(lambda: connected(mesh))
    thief.claims(seen)
    thief.was_heard()
    assert {answered_at_last(mesh, at, own.host) for at in HONEST} == {"own"}
    assert own.unbound is None
