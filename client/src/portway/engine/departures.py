"""Departures: the sessions that are being left for another node, and serve until that one has the tunnels.

Their nodes have asked for it, or a nearer one is ready. Here: what they are still told. Not here: which session is the
current one (link.py).
"""

from portway_proto.wire.labels import Label
from portway_proto.wire.statements import Claim, Presence

from portway.engine.session import Session


class Departures:
    """The sessions with nodes that visitors may still arrive at."""

    def __init__(self) -> None:
        self._sessions: tuple[Session, ...] = ()

    @property
    def latest(self) -> Session | None:
        """The one that was the current session last."""
        return self._sessions[-1] if self._sessions else None

    def add(self, session: Session) -> None:
        """It is left from now on. Two serve at most: that of a node which was gone to in vain, and the one before."""
        kept = self._sessions[-1:]
        for other in self._sessions[:-1]:
            other.leave()
        self._sessions = (*kept, session)

    def unbind(self, label: Label) -> None:
        """A tunnel was closed."""
        for session in self._sessions:
            session.unbind(label)

    def moved(self, claim: Claim, presence: Presence) -> None:
        """A tunnel is bound elsewhere: visitors that arrive at the nodes of before are forwarded there."""
        for session in self._sessions:
            session.moved(claim, presence)

    def leave(self) -> None:
        """The next node has the tunnels, or none is needed."""
        for session in self._sessions:
            session.leave()
        self._sessions = ()
