"""API tokens, and how the one in a call is known."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from portway_registry.access import tokens
from portway_registry.access.tokens import TokenCheck
from portway_registry.errors import Busy, StoreUnavailable, TokenMalformed, TokenMissing, TokenRevoked, TokenUnknown
from portway_registry.state import keys
from portway_registry.state.records import Role, TokenRecord, decoder, encode
from portway_registry.state.views import View
from portway_registry.store.contract import Entry
from portway_registry.store.embedded import EmbeddedStore


def made(**changed: object) -> tokens.NewToken:
    given = {"tenant": "demo", "role": Role.CLIENT, "now_ms": 1} | changed
    return tokens.make(**given)  # type: ignore[arg-type]


def test_a_token_has_the_documented_form() -> None:
    """pw_<id>_<secret>, of 40 and 160 random bits; the record has all but the secret."""
    token = made(description="ci", max_tunnels=3)
    token_id, secret = tokens.parse(token.text)
    assert (len(token_id), len(secret)) == (8, 32)
    assert token.record.id == token_id
    assert (token.record.tenant, token.record.description, token.record.max_tunnels) == ("demo", "ci", 3)
    assert secret.encode() not in encode(token.record)


def test_no_two_tokens_are_alike() -> None:
    """Ids and secrets are random."""
    texts = {made().text for _ in range(200)}
    assert len({text.split("_")[1] for text in texts}) == len({text.split("_")[2] for text in texts}) == 200


@pytest.mark.parametrize(
    "text",
    [
        *("", "pw", "pw__", "pw_a", "pw_a_b", "pw_a_" + "a" * 31, "pw_a_" + "a" * 33),
        *("PW_a_" + "a" * 32, "pw_A_" + "a" * 32, "pw_é_" + "a" * 32, "pw_a_" + "1" * 32),
        *(" pw_a_" + "a" * 32, "pw_a_" + "a" * 32 + "\n"),
    ],
)
def test_other_forms_are_malformed(text: str) -> None:
    """A cut, doubled, padded or foreign text is no token."""
    with pytest.raises(TokenMalformed, match="pw_<id>_<secret>"):
        tokens.parse(text)


def test_only_its_own_secret_fits() -> None:
    """A record knows its secret again, and no other."""
    token, other = made(), made()
    assert tokens.fits(token.record, tokens.parse(token.text)[1])
    assert not tokens.fits(token.record, tokens.parse(other.text)[1])
    renewed = tokens.with_secret(token.record, tokens.parse(other.text)[1])
    assert tokens.fits(renewed, tokens.parse(other.text)[1])
    assert renewed.id == token.record.id


@pytest.fixture
async def view(memory: EmbeddedStore) -> AsyncIterator[View[TokenRecord]]:
    view: View[TokenRecord] = View(memory, keys.TOKENS, decoder(TokenRecord), on_failure=print)
    await view.start()
    yield view
    await view.close()


@pytest.fixture
def check(memory: EmbeddedStore, view: View[TokenRecord]) -> TokenCheck:
    return TokenCheck(memory, view)


async def keep(memory: EmbeddedStore, record: TokenRecord) -> None:
    await memory.put(keys.token(record.id), encode(record))


async def test_the_holder_is_known(memory: EmbeddedStore, check: TokenCheck) -> None:
    """The record of the token is found, however the scheme is written."""
    token = made()
    await keep(memory, token.record)
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert await check.authenticate(f"{scheme} {token.text}") == token.record


@pytest.mark.parametrize("header", [None, ""])
async def test_no_token_is_missing(check: TokenCheck, header: str | None) -> None:
    """A call without the header is told how to send one."""
    with pytest.raises(TokenMissing, match="authorization: Bearer"):
        await check.authenticate(header)


@pytest.mark.parametrize("header", ["Basic x", "pw_a_" + "a" * 32, "Bearer", "Bearer x y"])
async def test_another_header_is_malformed(check: TokenCheck, header: str) -> None:
    """Another scheme, or none, is malformed."""
    with pytest.raises(TokenMalformed):
        await check.authenticate(header)


async def test_unknown_and_wrong_secret_look_alike(memory: EmbeddedStore, check: TokenCheck) -> None:
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


async def test_a_revoked_token_is_told_so_to_its_holder(memory: EmbeddedStore, check: TokenCheck) -> None:
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
    check = TokenCheck(slow, view)
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
        await TokenCheck(closed, view).authenticate(f"Bearer {made().text}")
