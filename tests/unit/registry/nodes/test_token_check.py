"""Which tokens of a node's sessions are not valid."""

from portway_registry.nodes.token_check import invalid_tokens
from portway_registry.state import keys
from portway_registry.state.records import Role, TokenRecord, encode
from portway_testkit.clusters.views import ViewedStore


async def test_those_that_are_revoked_or_unknown_are_not_valid(cluster: ViewedStore) -> None:
    """Whenever they were revoked; a token is looked for in the store before it is called unknown."""
    await cluster.put_token("good")
    await cluster.put_token("old", revoked_at_ms=1)
    for name, revoked in (("new", 0), ("gone", 1)):
        record = TokenRecord(name, "demo", Role.CLIENT, b"", revoked_at_ms=revoked)
        await cluster.store.put(keys.token(name), encode(record))  # the view does not show it yet
    named = ["good", "old", "new", "gone", *(f"invented{number}" for number in range(40))]
    found = await invalid_tokens(cluster.views.tokens, named)
    assert found == [name for name in named if name not in ("good", "new")]
