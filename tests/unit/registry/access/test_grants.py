"""Grants: what they say, and which key signs them."""

from collections.abc import AsyncIterator

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jwt.types import Options
from portway_proto.v1.discovery_pb2 import Grant
from portway_registry.access.grant_keys import new_key
from portway_registry.access.grants import Grants
from portway_registry.errors import NoGrantKey
from portway_registry.state import grant_reader, keys
from portway_registry.state.records import GrantKeyRecord, Role, TokenRecord, decode_grant_key, encode
from portway_registry.state.tunnel_limits import TunnelLimits
from portway_registry.state.views import View
from portway_registry.store.embedded import EmbeddedStore
from portway_testkit.clusters.views import ViewedStore, settle

TOKEN = TokenRecord(id="abc", tenant="demo", role=Role.CLIENT, secret_sha256=b"", max_tunnels=5)
SESSION_KEY = b"\x01" * 32
HOUR = 3_600_000
NOW = 1_800_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def known(memory: EmbeddedStore) -> AsyncIterator[View[GrantKeyRecord]]:
    view: View[GrantKeyRecord] = View(memory, keys.GRANT_KEYS, decode_grant_key, on_failure=print)
    await view.start()
    yield view
    await view.close()


@pytest.fixture
def signer(known: View[GrantKeyRecord], cluster: ViewedStore, clock: Clock) -> Grants:
    limits = TunnelLimits(cluster.views.tokens, cluster.views.tenants, default=100)
    return Grants("cluster", known, limits, clock)


async def add(memory: EmbeddedStore, known: View[GrantKeyRecord], kid: str, active_from_ms: int) -> GrantKeyRecord:
    record = new_key(kid, active_from_ms=active_from_ms)
    await memory.put(keys.grant_key(kid), encode(record))
    await settle(memory, known.mirror)
    return record


def claims(grant: Grant, key: GrantKeyRecord) -> dict[str, object]:
    public = Ed25519PublicKey.from_public_bytes(key.public_key)
    # The clock of these tests is not the one that PyJWT looks at.
    checks: Options = {"verify_exp": False, "verify_iat": False}
    return dict(jwt.decode(grant.token, public, ["EdDSA"], options=checks, audience="portway-node", issuer="cluster"))


def kid_of(grant: Grant) -> str:
    return str(jwt.get_unverified_header(grant.token)["kid"])


async def test_a_grant_says_who_may_what_until_when(
    memory: EmbeddedStore, known: View[GrantKeyRecord], signer: Grants
) -> None:
    """Tenant, token and quota are in it; it is good for an hour and renewed after half of it."""
    key = await add(memory, known, "1", 0)
    grant = signer.sign(TOKEN, SESSION_KEY)
    found = claims(grant, key)
    assert (found["sub"], found["tid"]) == ("demo", "abc")
    assert (found["max_tunnels"], found["tenant_max_tunnels"]) == (5, 100)
    assert (found["iat"], found["exp"]) == (NOW // 1000, (NOW + HOUR) // 1000)
    assert (grant.expires_at_ms, grant.renew_at_ms) == (NOW + HOUR, NOW + HOUR // 2)
    assert jwt.get_unverified_header(grant.token) == {"alg": "EdDSA", "typ": grant_reader.TYPE, "kid": "1"}


async def test_a_token_without_a_quota_has_its_tenant_s(
    memory: EmbeddedStore, known: View[GrantKeyRecord], cluster: ViewedStore, signer: Grants
) -> None:
    """Which is the registry's default, or its own; a token cannot have more. A quota that was set counts at once."""
    key = await add(memory, known, "1", 0)

    def limits(most: int) -> tuple[object, object]:
        found = claims(signer.sign(msgspec.structs.replace(TOKEN, max_tunnels=most), SESSION_KEY), key)
        return found["max_tunnels"], found["tenant_max_tunnels"]

    assert [limits(0), limits(5), limits(500)] == [(100, 100), (5, 100), (100, 100)]
    await cluster.put_tenant("demo", 3)
    assert [limits(500), limits(5), limits(2)] == [(3, 3), (3, 3), (2, 3)]


async def test_each_session_key_has_a_grant_of_its_own(
    memory: EmbeddedStore, known: View[GrantKeyRecord], signer: Grants
) -> None:
    """Nobody else's grant is of use to it; asked again it gets another one."""
    key = await add(memory, known, "1", 0)
    one, other = signer.sign(TOKEN, SESSION_KEY), signer.sign(TOKEN, bytes(32))
    assert claims(one, key)["key"] == "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE"
    assert claims(other, key)["key"] == "A" * 43
    assert signer.sign(TOKEN, SESSION_KEY).token != one.token


async def test_the_youngest_active_key_signs(
    memory: EmbeddedStore, known: View[GrantKeyRecord], signer: Grants, clock: Clock
) -> None:
    """A key that is published for later does not sign before its time; every key is published."""
    for kid, active in (("1", 0), ("2", NOW - 5), ("10", NOW + 60_000)):
        await add(memory, known, kid, active)
    assert kid_of(signer.sign(TOKEN, SESSION_KEY)) == "2"
    clock.now += 60_000
    assert kid_of(signer.sign(TOKEN, SESSION_KEY)) == "10"
    assert {key.kid for key in signer.public_keys()} == {"1", "2", "10"}


async def test_a_clock_that_is_behind_signs_with_the_oldest_key(
    memory: EmbeddedStore, known: View[GrantKeyRecord], signer: Grants
) -> None:
    """Where by this clock no key is active yet, the one that every node has had longest is used."""
    for kid, active in (("1", NOW + 600_000), ("2", NOW + 500_000)):
        await add(memory, known, kid, active)
    assert kid_of(signer.sign(TOKEN, SESSION_KEY)) == "2"


async def test_without_a_key_nothing_is_signed(signer: Grants) -> None:
    """A registry that knows no key says so, and not that its store is away."""
    with pytest.raises(NoGrantKey, match="lost the keys"):
        signer.sign(TOKEN, SESSION_KEY)
