"""API tokens: what is stored of one, how the one in a call is known, and how they are made and revoked."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from portway_registry.access.tokens import NewToken, Tokens, new_token, parse_token
from portway_registry.errors import (
    Busy,
    InvalidRequest,
    NotFound,
    StoreUnavailable,
    TokenMalformed,
    TokenMissing,
    TokenRevoked,
    TokenUnknown,
)
from portway_registry.state import keys
from portway_registry.state.audit import Audit
from portway_registry.state.records import Role, TokenRecord, decoder, encode
from portway_registry.state.views import View
from portway_registry.store.contract import Entry
from portway_registry.store.embedded import EmbeddedStore
from portway_testkit.clusters.replicas import LateUntilRead

NOW_MS = 1_800_000_000_000


def made(**changed: object) -> NewToken:
    given = {"tenant": "demo", "role": Role.CLIENT, "now_ms": 1} | changed
    return new_token(**given)  # type: ignore[arg-type]


def test_a_token_has_the_documented_form() -> None:
    """pw_<id>_<secret>, of 40 and 160 random bits; the record has all but the secret."""
    token = made(description="ci", max_tunnels=3)
    shown = parse_token(token.text)
    assert (len(shown.id), len(shown.secret)) == (8, 32)
    assert token.record.id == shown.id
    assert (token.record.tenant, token.record.description, token.record.max_tunnels) == ("demo", "ci", 3)
    assert shown.secret.encode() not in encode(token.record)


@pytest.fixture
async def view(memory: EmbeddedStore) -> AsyncIterator[View[TokenRecord]]:
    view: View[TokenRecord] = View(memory, keys.TOKENS, decoder(TokenRecord), on_failure=print)
    await view.start()
    yield view
    await view.close()


@pytest.fixture
def check(memory: EmbeddedStore, view: View[TokenRecord]) -> Tokens:
    return tokens_of(memory, view)


def tokens_of(store: EmbeddedStore, view: View[TokenRecord]) -> Tokens:
    return Tokens(store, view, Audit(store, lambda: NOW_MS), lambda: NOW_MS)


async def keep(memory: EmbeddedStore, record: TokenRecord) -> None:
    await memory.put(keys.token(record.id), encode(record))


async def test_the_holder_is_known(memory: EmbeddedStore, check: Tokens) -> None:
    """The record of the token is found, however the scheme is written."""
    token = made()
    await keep(memory, token.record)
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert await check.authenticate(f"{scheme} {token.text}") == token.record


@pytest.mark.parametrize("header", [None, ""])
async def test_no_token_is_missing(check: Tokens, header: str | None) -> None:
    """A call without the header is told how to send one."""
    with pytest.raises(TokenMissing, match="authorization: Bearer"):
        await check.authenticate(header)


@pytest.mark.parametrize("header", ["Basic x", "pw_a_" + "a" * 32, "Bearer", "Bearer x y"])
async def test_another_header_is_malformed(check: Tokens, header: str) -> None:
    """Another scheme, or none, is malformed."""
    with pytest.raises(TokenMalformed):
        await check.authenticate(header)


async def test_unknown_and_wrong_secret_look_alike(memory: EmbeddedStore, check: Tokens) -> None:
    """Whoever guesses an id learns nothing, not even that it is revoked."""
    token = made()
    wrong = f"pw_{token.record.id}_{'a' * 32}"
    told = []
    for stage in ("not there", "good", "revoked"):
        if stage != "not there":
            await keep(memory, msgspec.structs.replace(token.record, revoked_at_ms=int(stage == "revoked")))
        with pytest.raises(TokenUnknown) as raised:
            await check.authenticate(f"Bearer {wrong}")
        told.append(str(raised.value))
    assert len(set(told)) == 1


async def test_a_revoked_token_is_told_so_to_its_holder(memory: EmbeddedStore, check: Tokens) -> None:
    """Who shows the secret is told that the token was revoked."""
    token = made()
    await keep(memory, msgspec.structs.replace(token.record, revoked_at_ms=5))
    with pytest.raises(TokenRevoked, match="ask for a new one"):
        await check.authenticate(f"Bearer {token.text}")


class Slow(EmbeddedStore):
    """Answers nobody until it is told to."""

    def __init__(self) -> None:
        super().__init__(None, on_failure=print)
        self.asked = 0
        self.go = asyncio.Event()

    async def get(self, key: str) -> Entry | None:
        self.asked += 1
        await self.go.wait()
        return await super().get(key)


async def test_strangers_cannot_load_the_store(view: View[TokenRecord]) -> None:
    """Few unknown tokens are looked up at once; further ones are told to try again, not that they are unknown."""
    slow = Slow()
    check = tokens_of(slow, view)
    calls = [asyncio.ensure_future(check.authenticate(f"Bearer {made().text}")) for _ in range(8)]
    await asyncio.sleep(0)
    with pytest.raises(Busy, match="try again"):
        await check.authenticate(f"Bearer {made().text}")
    assert slow.asked == 8
    slow.go.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(result) for result in results} == {TokenUnknown}
    with pytest.raises(TokenUnknown):
        await check.authenticate(f"Bearer {made().text}")
    await slow.close()


async def test_an_unknown_token_while_the_store_is_away_is_not_called_unknown(view: View[TokenRecord]) -> None:
    """Without the store nothing can be said of a token that this replica has not heard of."""
    closed = EmbeddedStore(None, on_failure=print)
    await closed.close()
    with pytest.raises(StoreUnavailable):
        await tokens_of(closed, view).authenticate(f"Bearer {made().text}")


async def create(tokens: Tokens, **changed: object) -> NewToken:
    given = {"tenant": "demo", "role": Role.CLIENT, "description": "", "max_tunnels": 0, "by": "admin"} | changed
    return await tokens.create(**given)  # type: ignore[arg-type]


async def test_a_created_token_is_known_at_once_and_in_the_audit(memory: EmbeddedStore, check: Tokens) -> None:
    """It is in the replica's view when `create` returns, listed for its tenant, and audited with its maker."""
    token = await create(check)
    assert await check.authenticate(f"Bearer {token.text}") == token.record
    assert check.find(tenant="demo", revoked=False) == check.find(tenant="", revoked=False) == [token.record]
    assert check.find(tenant="other", revoked=True) == []
    (entry,) = (await Audit(memory, lambda: 0).page(10))[0]
    assert (entry.actor, entry.action, entry.target) == ("admin", "token.create", token.record.id)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"tenant": "no tenant"}, "tenant name"),
        ({"description": "x" * 201}, "200 characters"),
        ({"max_tunnels": 1_000_001}, "max_tunnels"),
    ],
)
async def test_a_token_that_cannot_be_is_refused(check: Tokens, changed: dict[str, object], says: str) -> None:
    """The tenant's form and the limits are checked before anything is stored."""
    with pytest.raises(InvalidRequest, match=says):
        await create(check, **changed)
    assert check.find(tenant="", revoked=True) == []


async def test_a_token_is_revoked_once(memory: EmbeddedStore, check: Tokens) -> None:
    """The view shows it when `revoke` returns; revoking again changes nothing, and is not audited."""
    token = await create(check)
    first = await check.revoke(token.record.id, by="admin")
    assert first.revoked_at_ms == NOW_MS
    assert await check.revoke(token.record.id, by="other") == first
    assert check.find(tenant="", revoked=False) == []
    assert check.find(tenant="", revoked=True) == [first]
    assert [one.action for one in (await Audit(memory, lambda: 0).page(10))[0]].count("token.revoke") == 1
    with pytest.raises(NotFound, match="token list"):
        await check.revoke("zzzz", by="admin")


async def test_a_store_that_goes_away_is_waited_for_once(
    memory: EmbeddedStore, check: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that is stored is shown after one time limit of the store: `portway-admin` does not wait for two."""
    put, asked = memory.put, []

    async def put_token(key: str, value: bytes, **conditions: Any) -> bool:
        asked.append(key)
        if not key.startswith(keys.TOKENS):
            raise StoreUnavailable("away")
        return await put(key, value, **conditions)

    async def get(key: str) -> Entry | None:
        asked.append(key)
        raise StoreUnavailable("away")

    monkeypatch.setattr(memory, "put", put_token)
    monkeypatch.setattr(memory, "get", get)
    token = await create(check)
    assert asked[0] == keys.token(token.record.id)
    assert len(asked) == 2


async def test_the_last_admin_token_stays(check: Tokens) -> None:
    """Without one nobody could administer the cluster; with another it can be revoked."""
    first = await create(check, role=Role.ADMIN)
    with pytest.raises(InvalidRequest, match="last admin token"):
        await check.revoke(first.record.id, by=first.record.id)
    second = await create(check, role=Role.ADMIN)
    await check.revoke(first.record.id, by=second.record.id)


async def test_the_last_admin_token_stays_where_the_view_is_behind(memory: EmbeddedStore) -> None:
    """Another replica has just revoked the other one."""
    late: Any = LateUntilRead(memory, owned=False)
    view: View[TokenRecord] = View(late, keys.TOKENS, decoder(TokenRecord), on_failure=print)
    first, second = made(role=Role.ADMIN), made(role=Role.ADMIN)
    for one in (first, second):
        await keep(memory, one.record)
    await view.start()
    late.hold(keys.TOKENS)
    await keep(memory, msgspec.structs.replace(second.record, revoked_at_ms=NOW_MS))
    with pytest.raises(InvalidRequest, match="last admin token"):
        await tokens_of(memory, view).revoke(first.record.id, by=first.record.id)
    await view.close()
