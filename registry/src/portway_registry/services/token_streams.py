"""Streams that callers opened with API tokens, ended when the token is revoked.

A call is authenticated when it begins, and a stream may go on for days. Every replica follows the tokens of the store,
so a stream ends at whichever replica it is.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from portway_registry.errors import TokenRevoked
from portway_registry.state.records import TokenRecord
from portway_registry.state.views import Item, View


class TokenStreams:
    """The streams of this replica, by token."""

    def __init__(self, tokens: View[TokenRecord]) -> None:
        """Follow `tokens`, which must be filled already."""
        self._tokens = tokens
        self._open: dict[str, set[asyncio.Timeout]] = {}
        self._unsubscribe = tokens.subscribe(self._changed)

    async def close(self) -> None:
        """Stop following; streams are ended by the server that runs them."""
        self._unsubscribe()

    def __len__(self) -> int:
        """The number of open streams."""
        return sum(map(len, self._open.values()))

    @asynccontextmanager
    async def until_revoked(self, token: TokenRecord) -> AsyncIterator[None]:
        """Run the block until `token` is revoked, then cancel it. Raises TokenRevoked, at once if it is revoked by now.

        A token that this replica's view does not show yet, made at another replica a moment ago, counts as valid.
        """
        known = self._tokens.get(token.id)
        if known is not None and known.revoked_at_ms:
            raise TokenRevoked
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._open.setdefault(token.id, set()).add(limit)
                try:
                    yield
                finally:
                    self._discard(token.id, limit)
        except TimeoutError:
            if limit.expired():
                raise TokenRevoked from None
            raise

    def _changed(self, old: Item[TokenRecord] | None, new: Item[TokenRecord] | None) -> None:
        changed = new or old
        if changed is not None and (new is None or new.value.revoked_at_ms):
            for limit in self._open.get(changed.name, ()):
                if limit.when() is None:  # a stream that is being ended already cannot be ended again
                    limit.reschedule(asyncio.get_running_loop().time())

    def _discard(self, token_id: str, limit: asyncio.Timeout) -> None:
        limits = self._open[token_id]
        limits.discard(limit)
        if not limits:
            del self._open[token_id]
