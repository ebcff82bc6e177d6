"""Values that no clock and no message has, where nobody has checked a signature yet or where their sender may sign what
he likes: the node refuses them and goes on."""

import base64
import json

import pytest
from portway_proto.v1.lane_pb2 import FAILURE_CODE_CLAIM, FAILURE_CODE_GRANT, BindRefused, Presence
from portway_proto.wire.frames import FrameType
from portway_proto.wire.statements import SigningKey
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.clusters.hand_grants import grants_of
from portway_testkit.links.hand_lane import HandLane
from portway_testkit.links.hand_tunnel import Bind
from portway_testkit.visitors.onlookers import answered_at_last

# A mesh of three nodes starts for each test.
pytestmark = pytest.mark.timeout(120)

NODE = "fra-1"
NO_TIMES = {"beyond any float": 10**400, "infinite": float("inf"), "NaN": float("nan"), "negative": -(10**400)}


def with_claim(token: str, name: str, value: object) -> str:
    """A grant that says something else; its signature is that of the grant before."""
    header, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    claims[name] = value
    changed = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"{header}.{changed}.{signature}"


@pytest.mark.parametrize("name", ["iat", "exp"])
@pytest.mark.parametrize("kind", NO_TIMES)
def test_a_grant_with_a_time_that_is_none_is_refused(mesh: Cluster, bind: Bind, kind: str, name: str) -> None:
    """In HELLO, where a stranger needs no token to make one up, and as the newer grant of a session, which goes on with
    the one that it has."""
    grants = grants_of(mesh)
    grant = grants.new()
    forged = with_claim(grant.token, name, NO_TIMES[kind])
    with HandLane(mesh.nodes[NODE], mesh.ca) as stranger:
        stranger.say_hello(forged)
        failure = stranger.ending()
    assert failure is not None
    assert failure.code == FAILURE_CODE_GRANT
    with HandLane(mesh.nodes[NODE], mesh.ca) as client:
        client.begin(grant)
        statement = grant.present(NODE).encoded
        client.say(FrameType.PRESENCE, Presence(statement=statement, grant=forged).SerializeToString())
        assert client.answers()
    tunnel = bind(mesh, NODE, "served")
    assert answered_at_last(mesh, NODE, tunnel.host) == "served"


def test_a_claim_whose_options_cannot_be_read_is_not_followed(mesh: Cluster, bind: Bind) -> None:
    """Signed by the tunnel's key, and so genuine, and presented: in MOVED, for another node. Visitors find the tunnel
    where it was."""
    key = SigningKey()
    tunnel = bind(mesh, NODE, "served", key)
    claim = tunnel.grant.signer.claim(key, node="iad-1", epoch=2, unreadable=True)
    tunnel.says_moved(claim, tunnel.grant.present("iad-1", claim))
    tunnel.leave()
    assert answered_at_last(mesh, NODE, bind(mesh, NODE, "other").host) == "other"


def test_a_claim_whose_options_cannot_be_read_is_not_bound(mesh: Cluster, bind: Bind) -> None:
    """By nobody: its client is told so."""
    with HandLane(mesh.nodes[NODE], mesh.ca) as client:
        client.begin(grants_of(mesh))
        client.say_claim(client.grant.signer.claim(node=NODE, epoch=1, unreadable=True))
        frame_type, payload = client.hear()
    assert frame_type == FrameType.BIND_REFUSED
    assert BindRefused.FromString(payload).failure.code == FAILURE_CODE_CLAIM
    assert answered_at_last(mesh, NODE, bind(mesh, NODE, "other").host) == "other"
