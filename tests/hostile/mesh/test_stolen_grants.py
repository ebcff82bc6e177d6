"""A node that has a client's grant, greeting and statements acts in the client's name."""

import dataclasses

import pytest
from portway_proto.v1.lane_pb2 import FAILURE_CODE_GRANT
from portway_proto.wire.frames import FrameType
from portway_proto.wire.limits import PROTOCOL_VERSION
from portway_proto.wire.statements import SigningKey
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.clusters.hand_grants import HandGrant
from portway_testkit.links.hand_lane import HandLane
from portway_testkit.links.hand_tunnel import Bind
from portway_testkit.links.thief import Client, Thief
from portway_testkit.signers import SessionSigner, label_of
from portway_testkit.visitors.onlookers import answered_at_last

# A mesh of three nodes starts for each test.
pytestmark = pytest.mark.timeout(120)

HONEST = ("fra-1", "iad-1")


@pytest.mark.parametrize("at", HONEST)
@pytest.mark.parametrize("replayed", [True, False])
def test_a_grant_begins_no_session_at_another_node(
    mesh: Cluster, bind: Bind, thief: Thief, at: str, replayed: bool
) -> None:
    """With the greeting that the client has sent to the thief, or with one that the thief signs itself."""
    victim = bind(mesh, thief.name, "victim")
    with HandLane(mesh.nodes[thief.name], mesh.ca) as seen, HandLane(mesh.nodes[at], mesh.ca) as stolen:
        signer = victim.grant.signer if replayed else SessionSigner(victim.grant.signer.cluster)
        grant = HandGrant(victim.grant.token, signer)
        hello = grant.hello(thief.name, seen.certificate, version=PROTOCOL_VERSION)
        if not replayed:
            hello = grant.hello(at, stolen.certificate, version=PROTOCOL_VERSION)
        stolen.say(FrameType.HELLO, hello.SerializeToString())
        failure = stolen.ending()
    assert failure is not None
    assert failure.code == FAILURE_CODE_GRANT


def test_tunnels_made_in_a_clients_name_lead_nowhere(mesh: Cluster, bind: Bind, thief: Thief) -> None:
    """The thief signs claims with keys of its own for the client's session, and shows them with the client's grant and
    newest presence, or with one that it signs itself. No sibling and no registry takes them up, and the client's quota
    and its tunnel are untouched."""
    victim = bind(mesh, thief.name, "victim")
    grant = victim.grant
    made = dataclasses.replace(grant, signer=SessionSigner(grant.signer.cluster, grant.signer.key), presented=[])
    forger, keys = SessionSigner(grant.signer.cluster), [SigningKey() for _ in range(10)]
    for key in keys:
        claim = made.claim(key, 1, thief.name)
        thief.claims(
            Client(claim, grant.presented[-1], grant.token),
            Client(claim, forger.present(thief.name, claim, time_ms=grant.presented[-1].time_ms + 1), grant.token),
        )
    thief.was_heard()
    for key in keys:
        host = victim.host.replace(victim.host.partition(".")[0], label_of(key))
        assert {answered_at_last(mesh, at, host) for at in HONEST} == {""}
    listed = {tunnel.label for tunnel in mesh.admin.tunnels()}
    assert not listed & {label_of(key) for key in keys}
    assert {answered_at_last(mesh, at, victim.host) for at in HONEST} == {"victim"}
