"""HELLO with a grant that is not good at this node: FAIL says why, and the lane ends."""

import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_GRANT,
    FailureCode,
)
from portway_registry.access.grant_keys import new_key
from portway_registry.state import keys
from portway_registry.state.records import GrantKeyRecord, encode
from portway_registry.store.open import open_store
from portway_registry.store.spec import EmbeddedSpec
from portway_testkit.clusters.cluster import Cluster, NodePlan
from portway_testkit.clusters.hand_grants import Grants, HandGrant, grants_of
from portway_testkit.links.hand_lane import HandLane

# `tunnel` is of a client that behaves: that one is served before and after each test.
pytestmark = [pytest.mark.shares_sockets, pytest.mark.usefixtures("tunnel")]


def refused(lane: HandLane, grant: str, code: "FailureCode.ValueType" = FAILURE_CODE_GRANT) -> str:
    """What the node says of a grant that it must not take."""
    lane.say_hello(grant)
    failure = lane.ending()
    assert failure is not None
    assert failure.code == code
    return failure.message


def header_and_claims(grant: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return jwt.get_unverified_header(grant), jwt.decode(grant, options={"verify_signature": False})


@pytest.fixture
def token(grant: Grants) -> str:
    """A grant as it is sent."""
    return grant.new().token


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "\N{SNOWMAN}" * 100, "." * 5_000])
def test_no_grant_at_all(lane: HandLane, token: str) -> None:
    """What is no grant is refused as malformed."""
    assert "malformed" in refused(lane, token)


def test_a_forged_grant(lane: HandLane, token: str) -> None:
    """The right claims under another key's signature are worth nothing."""
    header, claims = header_and_claims(token)
    forged = jwt.encode(claims, Ed25519PrivateKey.generate(), algorithm="EdDSA", headers=header)
    assert "signature" in refused(lane, forged)


def test_an_unsigned_grant(lane: HandLane, token: str) -> None:
    """Nor are they without a signature."""
    header, claims = header_and_claims(token)
    assert "signature" in refused(lane, jwt.encode(claims, "", algorithm="none", headers=header | {"alg": "none"}))


def test_a_changed_grant(lane: HandLane, token: str) -> None:
    """A signature does not hold for other claims."""
    head, _, signature = token.split(".")
    _, claims = header_and_claims(token)
    raised = jwt.utils.base64url_encode(json.dumps(claims | {"max_tunnels": 10**6}).encode()).decode()
    assert "signature" in refused(lane, f"{head}.{raised}.{signature}")


def test_a_grant_of_another_cluster(lane: HandLane, tmp_path: Path) -> None:
    """A grant that another cluster signed is none here."""
    with Cluster(tmp_path, (NodePlan("fra-1", "fra"),)) as other:
        assert "not accepted" in refused(lane, grants_of(other).new().token)


def test_a_grant_of_somebody_else(lane: HandLane, token: str) -> None:
    """A node that sees a grant cannot begin a session with it at another one: it is not signed with its key."""
    assert "session key" in refused(lane, token)


@pytest.fixture
async def known_key(tmp_path: Path) -> GrantKeyRecord:
    """A key that is in the store of a cluster before it first starts."""
    record = new_key("1", active_from_ms=0)
    failures: list[BaseException] = []
    store = open_store(EmbeddedSpec(tmp_path / "registry.db"), on_failure=failures.append)
    assert await store.put(keys.grant_key("1"), encode(record))
    await store.close()
    return record


def test_an_expired_grant(tmp_path: Path, known_key: GrantKeyRecord) -> None:
    """One that ended longer ago than clocks may differ is refused, rightly signed as it is; one within that is not."""
    private = Ed25519PrivateKey.from_private_bytes(known_key.private_key)
    with Cluster(tmp_path, store=f"embedded:{tmp_path / 'registry.db'}") as cluster:
        grant = grants_of(cluster).new()
        header, claims = header_and_claims(grant.token)

        def ended(seconds: float) -> str:
            times = {"iat": claims["iat"] - 7_200, "exp": int(time.time() - seconds)}
            return jwt.encode(claims | times, private, algorithm="EdDSA", headers=header)

        with HandLane(cluster.node, cluster.ca) as lane:
            assert "expired" in refused(lane, ended(16 * 60))
        with HandLane(cluster.node, cluster.ca) as lane:
            lane.begin(HandGrant(ended(14 * 60), grant.signer))
