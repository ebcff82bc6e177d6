"""The sessions of each token on this node, and how many one token may have: those included whose client is away, and
apart from them those that their client has left while visits are in progress.

Not here: which sessions exist, and how they end (sessions.py).
"""

from collections.abc import Set
from typing import Final

from portway_relay.sessions.grants import Grant
from portway_relay.sessions.session import Session

# Beside one for each tunnel of the token's quota: programs that have opened none yet or are about to be told that the
# quota is used up, and sessions that a client has begun anew instead of resuming them.
_SPARE: Final = 16


class TokenSessions:
    """Sessions by token."""

    def __init__(self, most: int) -> None:
        """most: sessions of one token, whatever its quota."""
        self._most = most
        self._all: dict[str, set[Session]] = {}
        self._away: dict[str, dict[Session, None]] = {}  # the one that is away for the longest time first
        self._left: dict[str, set[Session]] = {}

    @property
    def tokens(self) -> Set[str]:
        """The tokens that have sessions, or visits of such as were left."""
        return self._all.keys() | self._left.keys()

    def is_full(self, grant: Grant) -> bool:
        """Whether the token has as many sessions as it may have: a few more than tunnels, of which each session that
        is of any use has one."""
        most = min(self._most, grant.max_tunnels + _SPARE) if grant.max_tunnels else self._most
        return len(self._all.get(grant.token_id, ())) >= most

    def lanes(self, token_id: str) -> int:
        """The data lanes of this token's sessions, idle and busy, those included that were left."""
        sessions = (*self._all.get(token_id, ()), *self._left.get(token_id, ()))
        counts = [session.pool.counts for session in sessions]
        return sum(count.idle + count.busy for count in counts)

    def longest_away(self, token_id: str) -> Session | None:
        """The session of this token whose client is away for the longest time."""
        return next(iter(self._away.get(token_id, ())), None)

    def add(self, session: Session) -> None:
        self._all.setdefault(session.token_id, set()).add(session)

    def set_away(self, session: Session) -> None:
        """Its client is away. No effect on a session that was discarded."""
        if session in self._all.get(session.token_id, ()):
            self._away.setdefault(session.token_id, {})[session] = None

    def set_back(self, session: Session) -> None:
        """Its client is not away, or not any more."""
        away = self._away.get(session.token_id)
        if away is not None and session in away:
            del away[session]
            if not away:
                del self._away[session.token_id]

    def left(self) -> list[Session]:
        """The sessions that were left, as far as their visits may be in progress."""
        return [session for sessions in self._left.values() for session in sessions]

    def set_left(self, session: Session) -> None:
        """Its client has left for good; it is one of the token's no more. No effect without visits in progress."""
        self.discard(session)
        if session.pool.counts.busy:
            self._left.setdefault(session.token_id, set()).add(session)

    def forget_idle(self) -> None:
        """Forget those that were left whose visits have ended."""
        for session in self.left():
            if not session.pool.counts.busy:
                self.discard(session)

    def discard(self, session: Session) -> None:
        """It has ended. May be called again."""
        self.set_back(session)
        for by_token in (self._all, self._left):
            sessions = by_token.get(session.token_id)
            if sessions is not None:
                sessions.discard(session)
                if not sessions:
                    del by_token[session.token_id]
