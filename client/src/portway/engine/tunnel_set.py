"""TunnelSet: the tunnels of one link, bound on the session that the link has.

A BIND that is refused for now is repeated in the background for as long as the session lasts; a tunnel that is refused
for good is lost. Not here: keeping a session (link.py).
"""

import asyncio
from collections.abc import Callable
from typing import Final

from portway_carrier.contract import LocalService
from portway_proto.wire.labels import Label
from portway_runtime.clocks import Monotonic, monotonic
from portway_runtime.tasks import Tasks

from portway.engine.failures import Failure, pauses, spread_hint
from portway.engine.held_tunnel import HeldTunnel
from portway.engine.session import BindRefused, Session, SessionOver
from portway.errors import Error, RemoteError

# Epochs tried in all when BIND is answered with EPOCH: an answer that was lost may have used one up, and only a lost
# connection loses one. Beyond that somebody else has the chain's seed.
EPOCH_TRIES: Final = 4
# Seconds. UNBIND has no answer, and a lost connection, noticed within 10 s, loses what was sent shortly before. UNBINDs
# of this long before the loss are sent again.
UNBIND_AGAIN: Final = 30.0


class TunnelSet:
    """Made and used on the engine's loop."""

    def __init__(self, tasks: Tasks, emptied: Callable[[], None], clock: Monotonic = monotonic) -> None:
        """`emptied` is called when the last tunnel is closed or lost."""
        self.table: dict[str, LocalService] = {}  # the local server of each label, for the carrier
        self._tasks = tasks
        self._emptied = emptied
        self._clock = clock
        self._tunnels: dict[Label, HeldTunnel] = {}
        self._withdrawn: dict[Label, float] = {}  # when each was closed, while its node may not know

    def __len__(self) -> int:
        return len(self._tunnels)

    @property
    def any_open(self) -> bool:
        """Whether a tunnel is open, so that visitors may know its name."""
        return any(held.tunnel is not None for held in self._tunnels.values())

    def add(self, held: HeldTunnel) -> None:
        """Serve it from now on, and keep it bound once it was bound for the first time."""
        self._tunnels[held.label] = held
        self.table[held.label] = held.service

    async def bind(self, session: Session, held: HeldTunnel) -> None:
        """Send BIND and wait for the answer; repeat it with the next epoch while the epoch is taken.

        Raises BindRefused, SessionOver, and RemoteError when the epochs are used up. Cancelled, the node may have it.
        """
        for tries_left in reversed(range(EPOCH_TRIES)):
            try:
                answer = await session.bind(held.bind_on(session.credentials))
            except BindRefused as refused:
                held.refused()
                if not refused.failure.epoch_taken or not tries_left or not self._has(held):
                    raise
            else:
                held.bound(session.credentials, answer)
                return

    def missing_on(self, session: Session) -> list[HeldTunnel]:
        """The open tunnels that this session does not hold."""
        opened = (held for held in self._tunnels.values() if held.tunnel is not None)
        return [held for held in opened if not held.held_by(session.credentials)]

    async def bind_again(self, session: Session, held: HeldTunnel) -> None:
        """Bind it on a session that does not hold it. After a refusal for now, further tries are made in the
        background."""
        hint = await self._try_again(session, held)
        if hint is not None:
            self._tasks.spawn(self._keep_trying(session, held, hint), name="bind again")

    def unbound(self, session: Session, label: str, failure: Failure) -> bool:
        """The node of `session` unbound a tunnel. Returns whether to bind it again: it is open and was not lost."""
        held = self._tunnels.get(Label(label))
        if held is None or not held.held_by(session.credentials):
            return False  # it was closed, or is bound at another node by now
        held.unbound()
        if failure.passing:
            return True
        self.lose(held, failure.error())
        return False

    def withdraw(self, held: HeldTunnel) -> bool:
        """Close a tunnel. Returns whether a node may have it, so that UNBIND must be sent."""
        if not self._has(held):
            return False
        self._remove(held)
        if held.bind_sent:
            self._withdrawn[held.label] = self._clock()
        return held.bind_sent

    def forget_withdrawn(self) -> None:
        """The session is up: UNBINDs that were sent on it UNBIND_AGAIN seconds ago or earlier have arrived."""
        before = self._clock() - UNBIND_AGAIN
        self._withdrawn = {label: at for label, at in self._withdrawn.items() if at >= before}

    def withdraw_again(self, session: Session, *, resumed: bool) -> None:
        """Repeat the UNBINDs that the node of a resumed session may have missed; a new session has no tunnels."""
        if resumed:
            for label in self._withdrawn:
                session.unbind(label)
        else:
            self._withdrawn.clear()

    def lose(self, held: HeldTunnel, error: Error) -> None:
        """A tunnel is lost for good."""
        if self._has(held):
            self._remove(held)
            held.lose(error)

    def lose_all(self, error: Error) -> None:
        """Every open tunnel is lost for good."""
        for held in list(self._tunnels.values()):
            if held.tunnel is not None:
                self.lose(held, error)

    async def _keep_trying(self, session: Session, held: HeldTunnel, first_hint: float) -> None:
        tries = pauses()
        next(tries)  # the first try was made
        hint: float | None = first_hint
        while hint is not None:
            await asyncio.sleep(max(next(tries), spread_hint(hint)))
            hint = await self._try_again(session, held)

    async def _try_again(self, session: Session, held: HeldTunnel) -> float | None:
        """None when nothing more is to be done on this session; else the node's hint in seconds, 0 without one."""
        if not session.up or not self._has(held) or held.held_by(session.credentials):
            return None
        try:
            await self.bind(session, held)
        except SessionOver:
            return None  # it is bound on the next session
        except BindRefused as refused:
            if refused.failure.passing:
                return refused.failure.retry_after
            self.lose(held, refused.failure.error())
        except RemoteError as error:
            self.lose(held, error)
        return None

    def _has(self, held: HeldTunnel) -> bool:
        return self._tunnels.get(held.label) is held

    def _remove(self, held: HeldTunnel) -> None:
        del self._tunnels[held.label]
        self.table.pop(held.label, None)
        if not self._tunnels:
            self._emptied()
