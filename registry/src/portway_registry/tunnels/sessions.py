"""The sessions that a node announces: whose grant, which presence, and whether both are genuine.

Here: which grants and presences may count, the one look at the store for a token or presence that is not in view, and
storing presences. Not here: tunnels (announcements.py), forms of grants and statements.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from portway_proto.v1.mesh_pb2 import AnnouncedSession
from portway_proto.wire.limits import KEY_SIZE
from portway_proto.wire.statements import Claim, Presence, StatementInvalid, read_presence

from portway_registry.state.grant_reader import GrantReader, GrantRefused, ReadGrant
from portway_registry.state.records import TokenRecord
from portway_registry.state.views import View
from portway_registry.tunnels.admission import newest
from portway_registry.tunnels.presences import Presences
from portway_registry.tunnels.statement_checks import TURN, NodeChecks

logger = logging.getLogger(__name__)

# Bytes of the presences of one node's sessions in the store. Those of 20,000 sessions with one tunnel each take 3 MB.
# One whose tunnels are closed stays for half an hour: this allows 80 new sessions a second.
MAX_PRESENCES: Final = 32 << 20


class _Refused(ValueError):
    """A session that does not count, and why."""


@dataclass(slots=True)
class Session:
    """A session of a batch.

    presence: the newest one; it is fresh. is_stored: the store has it, so it was checked before. is_newest: the store
    itself has said so, and not only the view, which may be behind. is_checked: grant and presence are genuine.
    is_forged: one of them is not.
    """

    key: bytes
    grant: ReadGrant
    presence: Presence
    is_stored: bool
    is_newest: bool = False
    is_checked: bool = False
    is_forged: bool = False

    def objection(self, claim: Claim) -> str | None:
        """Why its presence does not place the claim."""
        return None if self.presence.places(claim) else "a later presence of its session does not place it here"


@dataclass(frozen=True, slots=True)
class SessionRules:
    """What the sessions of all nodes are checked against. cluster: the tag of what clients sign."""

    cluster: bytes
    grants: GrantReader
    tokens: View[TokenRecord]
    presences: Presences
    now_ms: Callable[[], int]


class AnnouncedSessions:
    """The sessions of one batch, by session key. Each is read when a tunnel needs it, or at the end."""

    def __init__(self, rules: SessionRules, checks: NodeChecks, node: str, sent: Iterable[AnnouncedSession]) -> None:
        self._rules = rules
        self._checks = checks
        self._node = node
        # The key is the first of a presence; one that lies about it is not genuine.
        self._unread = {one.presence[:KEY_SIZE]: one for one in sent}
        self._read: dict[bytes, Session | None] = {}
        self._problems: Counter[str] = Counter()

    async def of(self, session_key: bytes) -> Session | None:
        """The session, if it may count; None for one that may not, or that is not in the batch.

        Raises StoreUnavailable.
        """
        sent = self._unread.pop(session_key, None)
        if sent is not None:
            try:
                self._read[session_key] = await self._admitted(sent)
            except (_Refused, GrantRefused, StatementInvalid) as problem:
                self._read[session_key] = None
                self._problems[str(problem)] += 1
        return self._read.get(session_key)

    async def check(self, sessions: Iterable[Session], with_new_tunnels: Collection[bytes]) -> None:
        """Check the grants of these sessions, and those of their presences that the store does not have.

        A session whose presence the store has, and that is to have no new tunnel, gets nothing by its grant: that of
        one that is announced again costs no check.
        """
        unknown = {one.key: one for one in sessions if not one.is_stored or one.key in with_new_tunnels}
        to_check = [one for one in unknown.values() if not one.is_checked]
        grants = await self._checks.genuine([one.grant.signed for one in to_check])
        new = [one for one in to_check if not one.is_stored]
        presences = await self._checks.genuine([one.presence.signed(self._rules.cluster) for one in new])
        for one, is_genuine in (*zip(to_check, grants, strict=True), *zip(new, presences, strict=True)):
            one.is_checked = True
            one.is_forged |= not is_genuine

    async def store(self, sessions: Iterable[Session]) -> None:
        """Store the presences of these genuine sessions; each has the newest one then. Raises StoreUnavailable."""
        new = {session.key: session for session in sessions if not session.is_stored}
        held = await self._rules.presences.put(session.presence for session in new.values())
        for key, session in new.items():
            if held[key].encoded != session.presence.encoded:
                session.presence = read_presence(held[key].encoded)
            session.is_stored = session.is_newest = True

    async def confirm(self, sessions: Iterable[Session]) -> None:
        """Take up a later presence of one of these sessions that the store has and the view does not show yet: what its
        client has closed, or taken elsewhere, must not come back by what was signed before. Raises StoreUnavailable."""
        unsure = {session.key: session for session in sessions if not session.is_newest}
        for key, item in (await self._rules.presences.read(unsure)).items():
            session = unsure[key]
            session.is_newest = True
            if item is not None and item.value.time_ms > session.presence.time_ms:
                session.presence = read_presence(item.value.encoded)

    async def renew_the_others(self) -> None:
        """Store the presences that no tunnel of the batch needed, of sessions that the store knows.

        Those of others would be of no use: nothing is placed by them. Raises StoreUnavailable.
        """
        keys = list(self._unread)
        for start in range(0, len(keys), TURN):
            await asyncio.sleep(0)
            found = [await self.of(key) for key in keys[start : start + TURN]]
            new = [session for session in found if session is not None and not session.is_stored]
            await self.check(new, ())
            genuine = [session for session in new if not session.is_forged]
            known = await self._known_to_store(genuine)
            await self.store([session for session in genuine if session.key in known])
        for problem, number in self._problems.items():
            extra = {"node": self._node, "sessions": number, "reason": problem}
            logger.warning("announced sessions refused", extra=extra)

    async def _known_to_store(self, sessions: Iterable[Session]) -> set[bytes]:
        presences = self._rules.presences
        keys = [session.key for session in sessions]
        unseen = await presences.read(key for key in keys if presences.of_session(key) is None)
        return {key for key in keys if key not in unseen or unseen[key] is not None}

    async def _admitted(self, sent: AnnouncedSession) -> Session:
        """The session with its newest presence. Raises _Refused, GrantRefused or StatementInvalid, unless nothing but
        signatures is open."""
        rules = self._rules
        grant = rules.grants.read(sent.grant)
        announced = read_presence(sent.presence)
        if grant.session_key != announced.session_key:
            raise _Refused("the grant is for another session")
        if announced.node != self._node:
            raise _Refused("the presence is at another node")
        if not await self._is_good(grant):
            raise _Refused("the token is revoked or unknown")
        stored = rules.presences.of_session(grant.session_key)
        presence = newest(announced, stored)
        if not presence.is_fresh(rules.now_ms()):
            raise _Refused("the presence is not of now")
        if stored is None and not self._has_room(announced):
            raise _Refused("the node has too many sessions")
        is_stored = stored is not None and stored.encoded == presence.encoded
        return Session(grant.session_key, grant, presence, is_stored)

    async def _is_good(self, grant: ReadGrant) -> bool:
        """Whether the grant's token exists and is not revoked."""
        tokens = self._rules.tokens
        token = tokens.get(grant.token_id)
        # Made at another replica a moment ago, or made up, which must not cost the store anything. The view is not
        # waited for: while it is behind, the node's other tunnels would wait too.
        if token is None and await self._checks.genuine([grant.signed]) == [True]:
            item = (await tokens.read([grant.token_id]))[grant.token_id]
            token = None if item is None else item.value
        return token is not None and not token.revoked_at_ms

    def _has_room(self, presence: Presence) -> bool:
        return self._rules.presences.bytes_of_node(self._node) + len(presence.encoded) <= MAX_PRESENCES
