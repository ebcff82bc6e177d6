"""Streams that end with the token that opened them."""

import asyncio

import pytest
from portway_registry.errors import TokenRevoked
from portway_registry.services.token_streams import TokenStreams
from portway_registry.state.records import Role, TokenRecord
from portway_testkit.clusters.views import ViewedStore

TOKEN = TokenRecord("one", "demo", Role.ADMIN, b"")


async def endless(streams: TokenStreams, token: TokenRecord = TOKEN) -> None:
    async with streams.until_revoked(token):
        await asyncio.Event().wait()


async def test_a_revocation_ends_the_streams_of_its_token(cluster: ViewedStore) -> None:
    """All of them and no others; what they raise says why."""
    await cluster.put_token("one")
    streams = TokenStreams(cluster.views.tokens)
    ended = [asyncio.ensure_future(endless(streams)) for _ in range(2)]
    other = asyncio.ensure_future(endless(streams, TokenRecord("two", "demo", Role.ADMIN, b"")))
    await asyncio.sleep(0)
    assert len(streams) == 3
    await cluster.put_token("one", max_tunnels=7)
    await asyncio.sleep(0)
    assert len(streams) == 3
    await cluster.put_token("one", revoked_at_ms=1)
    for stream in ended:
        with pytest.raises(TokenRevoked):
            await stream
    assert len(streams) == 1
    other.cancel()
    with pytest.raises(asyncio.CancelledError):
        await other
    assert len(streams) == 0
    await streams.close()


async def test_a_stream_that_is_being_ended_is_left_alone(cluster: ViewedStore) -> None:
    """A revoked token's record may change again while a stream of it takes time to end."""
    await cluster.put_token("one")
    streams = TokenStreams(cluster.views.tokens)
    ending, may_end = asyncio.Event(), asyncio.Event()

    async def slow_to_end() -> None:
        async with streams.until_revoked(TOKEN):
            try:
                await asyncio.Event().wait()
            finally:
                ending.set()
                await may_end.wait()

    stream = asyncio.ensure_future(slow_to_end())
    await asyncio.sleep(0)
    await cluster.put_token("one", revoked_at_ms=1)
    await ending.wait()
    await cluster.put_token("one", revoked_at_ms=2)
    may_end.set()
    with pytest.raises(TokenRevoked):
        await stream
    await streams.close()


async def test_a_token_that_is_revoked_opens_no_stream(cluster: ViewedStore) -> None:
    """It may have been revoked since the call was authenticated."""
    await cluster.put_token("one", revoked_at_ms=1)
    streams = TokenStreams(cluster.views.tokens)
    with pytest.raises(TokenRevoked):
        await endless(streams)
    assert len(streams) == 0
    await streams.close()


async def test_errors_of_a_stream_are_its_own(cluster: ViewedStore) -> None:
    """A TimeoutError inside is not taken for a revocation."""
    streams = TokenStreams(cluster.views.tokens)
    with pytest.raises(TimeoutError, match="inside"):
        async with streams.until_revoked(TOKEN):
            raise TimeoutError("inside")
    assert len(streams) == 0
    await streams.close()
