"""The sessions of each token on this node, those included whose client is away, and how many one token may have.

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

    @property
    def tokens(self) -> Set[str]:
        """The tokens that have sessions."""
        return self._all.keys()

    def is_full(self, grant: Grant) -> bool:
        """Whether the token has as many sessions as it may have: a few more than tunnels, of which each session that
        is of any use has one."""
        most = min(self._most, grant.max_tunnels + _SPARE) if grant.max_tunnels else self._most
        return len(self._all.get(grant.token_id, ())) >= most

    def lanes(self, token_id: str) -> int:
        """The data lanes of this token's sessions, idle and busy."""
        counts = [session.pool.counts for session in self._all.get(token_id, ())]
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

    def discard(self, session: Session) -> None:
        """It has ended. May be called again."""
        self.set_back(session)
        sessions = self._all.get(session.token_id)
        if sessions is not None:
            sessions.discard(session)
            if not sessions:
                del self._all[session.token_id]
