"""Grants at a node: judged by signature, kind, cluster, time and revocation, without asking anyone."""

import base64
import json
from collections.abc import Callable
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_GRANT,
    FAILURE_CODE_OVERLOADED,
    FAILURE_CODE_REVOKED,
    FAILURE_CODE_TIME,
)
from portway_relay.errors import GrantRefused, Refused
from portway_relay.sessions.grants import LEEWAY, OUTAGE_LEEWAY, Grant, GrantVerifier, refused
from portway_testkit.fakes.clock import ManualClock

CLUSTER = "cluster-1"
KEY = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
FORGER = Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)
HOUR = 3600
SESSION_KEY = bytes(range(32))
NOW = 1_700_000_000.0

Sign = Callable[..., str]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def check(clock: ManualClock) -> GrantVerifier:
    """A node that a registry is talking to."""
    check = GrantVerifier(clock)
    check.learn_keys(CLUSTER, {"k1": KEY.public_key().public_bytes_raw()})
    check.registry_away = False
    return check


# A stranger writes what he likes into a grant: nobody has checked its signature when its times are read.
_NO_TIMES: Final[dict[str, Any]] = {
    "beyond any float": 10**400,
    "beyond any clock": 1e18,
    "negative": -1,
    "NaN": float("nan"),
    "infinite": float("inf"),
    "a text": "soon",
}


def claims(**changes: Any) -> dict[str, Any]:
    made = {
        "iss": CLUSTER,
        "aud": "portway-node",
        "sub": "acme",
        "tid": "t1",
        "key": base64.urlsafe_b64encode(SESSION_KEY).decode().rstrip("="),
        "max_tunnels": 3,
        "tenant_max_tunnels": 5,
        "iat": int(NOW),
        "exp": int(NOW) + HOUR,
        "jti": "1",
    }
    return {name: value for name, value in (made | changes).items() if value is not None}


def sign(signer: Any = KEY, *, algorithm: str = "EdDSA", header: dict[str, Any] | None = None, **changes: Any) -> str:
    headers = {"typ": "portway-grant", "kid": "k1"} | (header or {})
    headers = {name: value for name, value in headers.items() if value is not None}
    return jwt.encode(claims(**changes), signer, algorithm=algorithm, headers=headers)


def without(claim: str) -> str:
    changes: dict[str, Any] = {claim: None}
    return sign(**changes)


def verify(check: GrantVerifier, token: str) -> Grant:
    """The grant, when its signature is right as well."""
    grant = check.read(token)
    if not grant.signed.is_genuine():
        raise refused("forged")
    return grant


def refusal(check: GrantVerifier, token: str) -> Refused:
    with pytest.raises(Refused) as caught:
        verify(check, token)
    return caught.value


def test_a_grant_says_whose_it_is_and_how_many_tunnels_it_allows(check: GrantVerifier) -> None:
    """Tenant, token and quota are those that the registry signed."""
    grant = verify(check, sign())
    assert (grant.tenant, grant.token_id, grant.max_tunnels, grant.tenant_max_tunnels) == ("acme", "t1", 3, 5)
    assert grant.lasts == 25 * HOUR
    assert grant.session_key == SESSION_KEY


def test_a_session_lasts_a_day_longer_than_its_grant(check: GrantVerifier, clock: ManualClock) -> None:
    """From the moment at which the grant is shown on; whether or not a registry can be reached."""
    grant = sign()
    clock.now += HOUR
    assert verify(check, grant).lasts == 24 * HOUR
    check.registry_away = True
    clock.now += 24 * HOUR
    assert verify(check, grant).lasts == 0


def test_a_grant_without_a_quota_has_no_limit(check: GrantVerifier) -> None:
    """A claim that is not there is no limit, as is 0."""
    unlimited = verify(check, sign(max_tunnels=None, tenant_max_tunnels=None))
    assert (unlimited.max_tunnels, unlimited.tenant_max_tunnels) == (0, 0)


def test_a_node_that_has_no_keys_yet_does_not_call_the_grant_bad(clock: ManualClock) -> None:
    """The client is to try again, not to get another grant: nothing is wrong with this one."""
    refused = refusal(GrantVerifier(clock), sign())
    assert refused.code == FAILURE_CODE_OVERLOADED
    assert not isinstance(refused, GrantRefused)


@pytest.mark.parametrize(("age", "good"), [(HOUR, True), (HOUR + LEEWAY, True), (HOUR + LEEWAY + 1, False)])
def test_a_grant_is_honoured_to_its_end_and_a_leeway_past_it(
    check: GrantVerifier, clock: ManualClock, age: float, good: bool
) -> None:
    """Fifteen minutes past the end are for clocks that differ; then a fresh grant is needed."""
    token = sign()
    clock.now = NOW + age
    if good:
        assert verify(check, token).token_id == "t1"
    else:
        refused = refusal(check, token)
        assert refused.code == FAILURE_CODE_GRANT
        assert "expired" in refused.message
        assert "get a fresh one" in refused.message


@pytest.mark.parametrize(("age", "good"), [(HOUR + OUTAGE_LEEWAY, True), (HOUR + OUTAGE_LEEWAY + 1, False)])
def test_while_no_registry_is_there_a_grant_is_honoured_for_a_day_more(
    check: GrantVerifier, clock: ManualClock, age: float, good: bool
) -> None:
    """An outage of the registries keeps nobody from attaching again for 24 hours."""
    check.registry_away = True
    token = sign()
    clock.now = NOW + age
    if good:
        assert verify(check, token).token_id == "t1"
    else:
        assert refusal(check, token).code == FAILURE_CODE_GRANT


def test_the_day_more_ends_when_a_registry_is_back(check: GrantVerifier, clock: ManualClock) -> None:
    """It is the outage that stretches grants, not the grant."""
    check.registry_away = True
    token = sign()
    clock.now = NOW + HOUR + LEEWAY + 1
    verify(check, token)
    check.registry_away = False
    assert refusal(check, token).code == FAILURE_CODE_GRANT


@pytest.mark.parametrize("apart", [-600, 600])
def test_clocks_ten_minutes_apart_do_not_matter(check: GrantVerifier, clock: ManualClock, apart: float) -> None:
    """A grant that was just signed is good at a node whose clock is ten minutes ahead or behind."""
    clock.now = NOW + apart
    assert verify(check, sign()).token_id == "t1"


@pytest.mark.parametrize("ahead", [2 * HOUR, -2 * HOUR])
def test_a_wrong_clock_is_not_the_grant_s_fault(check: GrantVerifier, clock: ManualClock, ahead: int) -> None:
    """As the registry's time shows; its client is told so, and what is over by either clock is over."""
    encoded = sign(iat=NOW, exp=NOW + HOUR)
    check = GrantVerifier(clock, lambda: clock.now - ahead)
    check.learn_keys(CLUSTER, {"k1": KEY.public_key().public_bytes_raw()})
    check.registry_away = False
    clock.now += ahead
    way = "ahead of" if ahead > 0 else "behind"
    refused = refusal(check, encoded)
    assert (refused.code, refused.message) == (
        FAILURE_CODE_TIME,
        f"this node's clock is 7200 s {way} the registry's: its operator has to set it right",
    )
    clock.now += 5 * HOUR
    assert refusal(check, encoded).code == FAILURE_CODE_GRANT


def test_a_grant_from_the_future_is_refused(check: GrantVerifier) -> None:
    """More than the leeway ahead is no matter of clocks that are a little off; the message says where to look."""
    assert verify(check, sign(iat=int(NOW) + LEEWAY)).token_id == "t1"
    refused = refusal(check, sign(iat=int(NOW) + LEEWAY + 1))
    assert refused.code == FAILURE_CODE_GRANT
    assert "clocks" in refused.message


def test_a_grant_for_another_cluster_is_refused(check: GrantVerifier) -> None:
    """Even when its signature holds: two clusters may have come from one backup."""
    refused = refusal(check, sign(iss="cluster-2"))
    assert refused.code == FAILURE_CODE_GRANT
    assert "another cluster" in refused.message


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(sign(FORGER), id="another key"),
        pytest.param(sign(header={"kid": "k2"}), id="a kid nobody published"),
        pytest.param(sign(header={"kid": None}), id="no kid"),
        pytest.param(sign(header={"typ": "JWT"}), id="another typ"),
        pytest.param(sign(header={"typ": "portway-ticket"}), id="a ticket"),
        pytest.param(sign(None, algorithm="none"), id="alg none"),
        pytest.param(sign("s" * 64, algorithm="HS256"), id="alg HS256"),
        pytest.param(sign(aud="portway-registry"), id="for somebody else"),
        *(pytest.param(without(name), id=f"no {name}") for name in ("iss", "aud", "sub", "tid", "key", "iat", "exp")),
        pytest.param(sign(key="short"), id="a session key of another length"),
        pytest.param(sign(key="a" * 44), id="a session key that is too long"),
        pytest.param(sign(key=7), id="a session key that is no text"),
        pytest.param(sign(tid=5), id="a token id that is no text"),
        pytest.param(sign(max_tunnels=-1), id="a negative quota"),
        pytest.param(sign(tenant_max_tunnels=-1), id="a negative quota of the tenant"),
        pytest.param(sign(max_tunnels="many"), id="a quota that is no number"),
        *(
            pytest.param(sign(**{name: time}), id=f"{name} {shown}")
            for name in ("iat", "exp")
            for shown, time in _NO_TIMES.items()
        ),
    ],
)
def test_what_no_registry_of_this_cluster_signed_for_nodes_is_refused(check: GrantVerifier, token: str) -> None:
    """Each with the code that makes the client ask for a fresh grant."""
    refused = refusal(check, token)
    assert isinstance(refused, GrantRefused)
    assert refused.code == FAILURE_CODE_GRANT


def test_the_public_key_is_no_secret_to_sign_with(check: GrantVerifier) -> None:
    """The classic confusion, HS256 keyed with the public key, is refused as any other algorithm."""
    header = _part({"alg": "HS256", "typ": "portway-grant", "kid": "k1"})
    body = f"{header}.{_part(claims())}"
    forged = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    signature = forged.sign(body.encode(), KEY.public_key().public_bytes_raw())
    token = f"{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    assert refusal(check, token).code == FAILURE_CODE_GRANT


def test_a_revoked_token_is_told_apart_from_a_bad_grant(check: GrantVerifier) -> None:
    """A fresh grant would not help, so the client is told something else."""
    check.revoke(["t1", "t9"])
    refused = refusal(check, sign())
    assert refused.code == FAILURE_CODE_REVOKED
    assert verify(check, sign(tid="t2")).token_id == "t2"


def test_keys_are_replaced_whole(check: GrantVerifier) -> None:
    """After a rotation the old key is good only as long as the registry publishes it."""
    fresh = Ed25519PrivateKey.from_private_bytes(b"\x03" * 32)
    check.learn_keys(CLUSTER, {"k2": fresh.public_key().public_bytes_raw()})
    assert verify(check, sign(fresh, header={"kid": "k2"})).token_id == "t1"
    assert refusal(check, sign()).code == FAILURE_CODE_GRANT


def test_a_key_that_is_none_leaves_the_others_in_use(check: GrantVerifier) -> None:
    """Nothing has changed when what was told cannot be used."""
    with pytest.raises(ValueError):
        check.learn_keys("cluster-2", {"k2": b"too short"})
    assert verify(check, sign()).token_id == "t1"


@given(token=st.one_of(st.text(max_size=200), st.from_regex(r"\A[\w-]{0,80}\.[\w-]{0,80}\.[\w-]{0,80}\Z")))
def test_no_text_at_all_raises_anything_but_a_refusal(token: str) -> None:
    """Whatever is sent for a grant, the node says no and goes on."""
    check = GrantVerifier(ManualClock(NOW))
    check.learn_keys(CLUSTER, {"k1": KEY.public_key().public_bytes_raw()})
    assert refusal(check, token).code == FAILURE_CODE_GRANT


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("[" * 9_000, id="nested beyond what a parser follows"),
        pytest.param('{"alg":"EdDSA","typ":"portway-grant","kid":["k1"]}', id="a kid that is a list"),
        pytest.param('{"alg":["EdDSA"],"typ":"portway-grant","kid":"k1"}', id="an alg that is a list"),
        pytest.param('{"alg":"EdDSA","typ":"portway-grant","kid":"k1","crit":["x"]}', id="a critical extension"),
        pytest.param('{"alg":"EdDSA","typ":"portway-grant","kid":"k1","b64":false}', id="a detached payload"),
        pytest.param("null", id="no object"),
    ],
)
def test_headers_made_to_break_the_parser_are_refused(check: GrantVerifier, header: str) -> None:
    """They are read before any signature is, so anybody can send them."""
    token = f"{_encoded(header)}.{_part(claims())}.{_encoded('x' * 64)}"
    assert refusal(check, token).code == FAILURE_CODE_GRANT


def _part(content: dict[str, Any]) -> str:
    return _encoded(json.dumps(content))


def _encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        pytest.param(["a", "b"], {"a", "b"}, id="two"),
        pytest.param(None, set(), id="a registry of an earlier release"),
        pytest.param("ab", set(), id="no list"),
        pytest.param(["a", 1, None], {"a"}, id="no texts"),
    ],
)
def test_a_grant_says_which_cas_its_client_was_told_of(check: GrantVerifier, said: object, told: set[str]) -> None:
    """Whatever else is there is as if nothing was said: a registry waits for such a client."""
    assert check.read(sign(cas=said)).told == told
