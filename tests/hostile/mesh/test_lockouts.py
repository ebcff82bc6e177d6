"""Nobody can keep a key's holder from its label: not by an epoch of the far future, not by a refusal without reason."""

import time
from pathlib import Path

import pytest
from portway.engine.key_file import KeyFile
from portway_proto.v1.lane_pb2 import FAILURE_CODE_EPOCH, FAILURE_CODE_TIME, BindRefused, Failure
from portway_proto.wire.frames import FrameType
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.clusters.hand_grants import grants_of
from portway_testkit.fixtures import AsClient
from portway_testkit.links.hand_lane import HandLane
from portway_testkit.links.thief import Thief
from portway_testkit.signers import SessionSigner
from portway_testkit.visitors.onlookers import answered_at_last, home_of, named_at
from portway_testkit.visitors.recovery import label_of
from portway_testkit.waiting import eventually

# A mesh of three nodes starts for each test.
pytestmark = pytest.mark.timeout(120)

HONEST = ("fra-1", "iad-1")
YEAR_2100 = 4_102_444_800_000
HUGE = 2**62


@pytest.mark.parametrize("home", HONEST)
@pytest.mark.parametrize("epoch", [YEAR_2100, HUGE])
def test_a_claim_of_the_far_future_locks_nobody_out(
    mesh: Cluster, as_client: AsClient, thief: Thief, tmp_path: Path, epoch: int, home: str
) -> None:
    """Signed with the tunnel's own key, by a program whose clock was wrong or to which somebody has lent the key: no
    node binds it, nobody believes it, and the program with the key file opens its tunnel, at whatever node."""
    key = KeyFile(tmp_path / "key").key
    with HandLane(mesh.nodes["fra-1"], mesh.ca) as lane:
        lane.begin(grants_of(mesh))
        lane.say_claim(lane.grant.claim(key, epoch, "fra-1"))
        frame_type, payload = lane.hear()
        assert frame_type == FrameType.BIND_REFUSED
        assert BindRefused.FromString(payload).failure.code == FAILURE_CODE_TIME
    thief.grant.claim(key, epoch, thief.name)
    thief.grant.present(thief.name)
    far = thief.seen(thief.grant, key)
    thief.claims(far)
    thief.was_heard()
    as_client(mesh.environment())
    with named_at(mesh, home, "own", key=tmp_path / "key") as tunnel:
        for at in HONEST:
            eventually(lambda: answered_at_last(mesh, at, tunnel.host) == "own")
        thief.claims(far)
        thief.was_heard()
        assert {answered_at_last(mesh, at, tunnel.host) for at in HONEST} == {"own"}


def test_a_claim_of_half_an_hour_ahead_is_outbid(
    mesh: Cluster, as_client: AsClient, thief: Thief, tmp_path: Path
) -> None:
    """As far ahead as is believed, bound at the thief: a program that starts in its region outbids it."""
    key = KeyFile(tmp_path / "key").key
    ahead = int((time.time() + 29 * 60) * 1000)
    thief.bind(mesh, thief.name, "ahead", key, ahead)
    as_client(mesh.environment())
    with named_at(mesh, "fra-1", "own", key=tmp_path / "key") as tunnel:
        for at in HONEST:
            eventually(lambda: answered_at_last(mesh, at, tunnel.host) == "own")


@pytest.mark.parametrize("shown", ["nothing", "a replay", "another key's"])
def test_a_refusal_without_a_claim_of_higher_rank_ends_no_tunnel(
    mesh: Cluster, as_client: AsClient, shown: str
) -> None:
    """The home says EPOCH, and shows nothing, the client's own claim, or one of another label: the client goes to
    another node under its label."""
    as_client(mesh.environment())
    with named_at(mesh, "fra-2", "own") as tunnel:
        mesh.run(lambda: refuse(mesh, label_of(tunnel), shown))
        for at in HONEST:
            eventually(lambda: answered_at_last(mesh, at, tunnel.host) == "own")
        eventually(lambda: home_of(mesh, tunnel) in HONEST)


async def refuse(mesh: Cluster, label: str, shown: str) -> None:
    """The thief lets the tunnel go, and binds it no more."""
    node = mesh.nodes["fra-2"].node
    tunnel = node._routing.tunnels.live(label)
    assert tunnel is not None
    claims = {
        "nothing": b"",
        "a replay": tunnel.claim.encoded,
        "another key's": SessionSigner().claim(node="fra-1", epoch=tunnel.epoch + 1).encoded,
    }
    failure = Failure(code=FAILURE_CODE_EPOCH, message="so it says")
    node._serving.table.evict(label, tunnel.epoch, failure, claims[shown])
