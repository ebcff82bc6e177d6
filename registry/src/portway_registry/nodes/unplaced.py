"""Tunnels of the store that nothing places any more: their session's presence ended, or leaves them out, or their token
was revoked.

Here: finding them, for the nodes whose streams are here. Not here: removing them (session.py).

An honest node withdraws such tunnels itself. One that does not must not keep a tenant's places for ever.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.statements import Claim, Presence, StatementInvalid, read_claim, read_presence
from portway_runtime.backoff import jittered

from portway_registry.errors import StoreUnavailable
from portway_registry.nodes.session import NodeSession
from portway_registry.state.records import PresenceRecord, TokenRecord
from portway_registry.state.views import Item, Views

logger = logging.getLogger(__name__)

# Seconds at most between two looks. What both find unplaced is removed, and only if the node waited for nothing at
# either: after an outage of the store its renewed presences come first.
_LOOKED_EVERY: Final = 60.0
# Tunnels looked at before other tasks get their turn.
_PER_TURN: Final = 128


class UnplacedTunnels:
    """Looks at all tunnels of the nodes with a stream here."""

    def __init__(self, views: Views, sessions: Mapping[str, NodeSession], now_ms: Callable[[], int]) -> None:
        self._views = views
        self._sessions = sessions
        self._now_ms = now_ms
        self._found: dict[NodeSession, set[tuple[str, int]]] = {}  # label and epoch, at the last look

    async def run(self) -> None:
        """Look and remove, for ever."""
        while True:
            await asyncio.sleep(jittered(_LOOKED_EVERY))
            await self.look()

    async def look(self) -> None:
        """Remove what was found unplaced at the last look, too."""
        found: dict[NodeSession, set[tuple[str, int]]] = {}
        for node, session in list(self._sessions.items()):
            if not session.is_idle:
                continue
            before = self._found.get(session, set())
            unplaced = await self._unplaced(node)
            found[session] = {(item.name, item.value.epoch) for item in unplaced}
            twice = [item for item in unplaced if (item.name, item.value.epoch) in before]
            confirmed = await self._confirmed(twice)
            if session.is_idle:
                for item in confirmed:
                    session.remove_unplaced(item)
        self._found = found

    async def _unplaced(self, node: str) -> list[Item[TunnelInfo]]:
        presences: dict[bytes, Presence | None] = {}  # a session with many tunnels has a long list, read once
        unplaced: list[Item[TunnelInfo]] = []
        for number, item in enumerate(list(self._views.tunnels.of_node(node).values())):
            if number % _PER_TURN == 0:
                await asyncio.sleep(0)
            if not self._is_placed(item.value, presences):
                unplaced.append(item)
        return unplaced

    def _is_placed(self, tunnel: TunnelInfo, presences: dict[bytes, Presence | None]) -> bool:
        if not _is_good(self._views.tokens.get(tunnel.token_id)):
            return False
        claim = _claim_of(tunnel)
        if claim is None:
            return False
        if claim.session_key not in presences:
            presences[claim.session_key] = self._fresh(self._views.presences.of_session(claim.session_key))
        presence = presences[claim.session_key]
        return presence is not None and presence.places(claim)

    async def _confirmed(self, unplaced: list[Item[TunnelInfo]]) -> list[Item[TunnelInfo]]:
        """Those that the store itself does not place: a view that is behind lacks the newest presences and tokens. None
        during an outage of it."""
        claims = {item.name: _claim_of(item.value) for item in unplaced}
        try:
            tokens = await self._views.tokens.read({item.value.token_id for item in unplaced})
            presences = await self._views.presences.read({one.session_key.hex() for one in claims.values() if one})
        except StoreUnavailable as error:
            logger.warning("unplaced tunnels not removed", extra={"reason": str(error)})
            return []
        confirmed: list[Item[TunnelInfo]] = []
        for number, item in enumerate(unplaced):
            if number % _PER_TURN == 0:
                await asyncio.sleep(0)
            claim, token = claims[item.name], tokens[item.value.token_id]
            presence = None if claim is None else self._fresh(presences[claim.session_key.hex()])
            is_placed = claim is not None and presence is not None and presence.places(claim)
            if not is_placed or not _is_good(None if token is None else token.value):
                confirmed.append(item)
        return confirmed

    def _fresh(self, stored: Item[PresenceRecord] | None) -> Presence | None:
        """The presence, if it is fresh."""
        presence = None if stored is None else read_presence(stored.value.encoded)
        return presence if presence is not None and presence.is_fresh(self._now_ms()) else None


def _is_good(token: TokenRecord | None) -> bool:
    return token is not None and not token.revoked_at_ms


def _claim_of(tunnel: TunnelInfo) -> Claim | None:
    try:
        return read_claim(tunnel.claim)
    except StatementInvalid:
        return None
