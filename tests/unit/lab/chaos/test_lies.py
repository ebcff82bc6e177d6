"""What the hostile node of scripts/chaos says: of the right form, so that it is heard, and never with another's key."""

import random

import pytest
from portway_lab.chaos.lies import Lies
from portway_proto.records import tunnel_record
from portway_proto.v1.mesh_pb2 import Announce
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.limits import MAX_CONTROL
from portway_proto.wire.statements import Claim, SigningKey, StatementInvalid, read_presence
from portway_relay.raw_ports.tickets import Ticket
from portway_relay.routing.tunnel import HomeNode, claim_of
from portway_testkit.signers import CLUSTER, NOW_MS, SessionSigner, tunnel_info

HOSTILE = "fra-3"
PORTS = range(20_000, 20_004)
MINE = 20_003
ROUNDS = 20


@pytest.fixture
def lies() -> Lies:
    return Lies(
        HomeNode(HOSTILE, "fra", "fra.tunnels.test"),
        lambda: CLUSTER,
        lambda: NOW_MS,
        lambda label, port: Ticket(label, port, NOW_MS, HOSTILE, f"{label} {port}".encode()),
        lambda port: port == MINE,
        random.Random(1),
    )


@pytest.fixture
def client(lies: Lies) -> SessionSigner:
    """One with four raw tunnels at another node, which it had at the hostile one before."""
    client = SessionSigner()
    for port in PORTS:
        key = SigningKey()
        lies.heard_claim(client.claim(key, node=HOSTILE, epoch=1).encoded)
        lies.heard_tunnel(tunnel_info(client.claim(key, node="fra", epoch=2, unencrypted=True), "fra", port=port))
    for node in (HOSTILE, "fra"):
        lies.heard_presence(client.present(node).encoded)
    lies.heard_grant("grant")
    return client


def test_a_round_fits_in_frames_and_names_what_was_heard(lies: Lies, client: SessionSigner) -> None:
    """Others' tunnels as they were heard and at itself, presences, and that tunnels are gone."""
    rounds = [routes for _ in range(ROUNDS) for routes in lies.routes()]
    assert max(routes.ByteSize() for routes in rounds) <= MAX_CONTROL
    labels = {claim.label for claim in client.held}
    said = [tunnel_record(tunnel) for routes in rounds for tunnel in routes.bound]
    assert labels == {tunnel.label for tunnel in said if tunnel.node == HOSTILE and tunnel.label in labels}
    assert {gone.label for routes in rounds for gone in routes.gone} == labels
    shown = {read_presence(presence).node for routes in rounds for presence in routes.presences}
    assert shown == {HOSTILE, "fra"}


def test_it_has_no_key_of_anybody_else(lies: Lies, client: SessionSigner) -> None:
    """What verifies is a client's own statement, or of a label that nobody else has."""
    labels, own = {claim.label for claim in client.held}, {claim.encoded for claim in client.held}
    genuine, forged = 0, 0
    for tunnel in (tunnel for _ in range(5) for routes in lies.routes() for tunnel in routes.bound):
        claim = _claim(tunnel)
        if claim is None or claim.encoded in own:
            continue
        if claim.signed(CLUSTER).is_genuine():
            genuine += 1
            assert claim.label not in labels
        else:
            forged += claim.label in labels
    assert genuine > 20
    assert forged > 20


def test_others_raw_ports_are_claimed_and_its_own_ones_are_not(lies: Lies, client: SessionSigner) -> None:
    """Those of its own blocks are its own to give."""
    said = [tunnel for _ in range(ROUNDS) for routes in lies.routes() for tunnel in routes.bound]
    labels = {claim.label for claim in client.held}
    claimed = {tunnel.unencrypted_port for tunnel in said if tunnel.label not in labels and tunnel.unencrypted_port}
    assert claimed == set(PORTS) - {MINE}
    assert any(tunnel.ticket == f"{tunnel.label} {tunnel.unencrypted_port}".encode() for tunnel in said)


def test_what_is_invented_ends(lies: Lies) -> None:
    """The load of an attack is bounded: tens of thousands of labels."""
    invented = [tunnel.label for _ in range(110) for routes in lies.routes() for tunnel in routes.bound]
    assert len(set(invented)) == 30_000


def test_a_registry_is_told_of_it_too(lies: Lies, client: SessionSigner) -> None:
    """With the grants of clients."""
    batch = Announce()
    lies.announce(batch)
    assert {withdrawal.label for withdrawal in batch.withdrawn} == {claim.label for claim in client.held}
    assert {session.grant for session in batch.sessions} == {"grant"}
    assert any(tunnel.node == HOSTILE for tunnel in batch.bound)


def test_who_asks_is_told_something_old_or_forged(lies: Lies, client: SessionSigner) -> None:
    """The answer names the label and the node, so that it is believed to be one; of unknown labels nothing is said."""
    label = client.held[0].label
    answers = [lies.answer(label) for _ in range(50)]
    tunnels = [answer.tunnel for answer in answers if answer.HasField("tunnel")]
    assert {(tunnel.label, tunnel.node) for tunnel in tunnels} == {(label, HOSTILE)}
    assert len({tunnel.claim for tunnel in tunnels}) > 1
    assert any(answer.closed_epoch for answer in answers)
    assert not lies.answer("a" * 16).HasField("tunnel")


def _claim(tunnel: TunnelInfo) -> Claim | None:
    try:
        return claim_of(tunnel)
    except StatementInvalid:
        return None
