"""The tunnels of one link, and binding them on the session that it has.

What a node refuses for now is tried again in the background, as long as the session lasts; what it refuses for good
is lost. Not here: having a session (reconnect.py).
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from portway_carrier.contract import LocalService
from portway_proto.wire.labels import Label
from portway_runtime.tasks import Tasks

from portway.engine.failures import Failure
from portway.engine.held_tunnel import HeldTunnel
from portway.engine.retry import pauses, spread
from portway.engine.session import BindRefused, Session, SessionOver
from portway.errors import Error, RemoteError

# After EPOCH in answer to a BIND, so many epochs are tried in all: an answer that was lost may have used one up, and
# it takes a lost connection to lose one. Beyond that somebody else has the seed.
EPOCH_TRIES: Final = 4
# A lost connection is noticed within 10 s, and takes with it what was sent in the seconds before: UNBIND has no
# answer, so those of this long before the loss are said again.
UNBIND_AGAIN: Final = 30.0


class TunnelSet:
    """All methods are called on the engine's loop. `emptied` is called when the last tunnel is gone."""

    def __init__(self, tasks: Tasks, emptied: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.table: dict[str, LocalService] = {}  # what each label leads to, for the carrier
        self._tasks = tasks
        self._emptied = emptied
        self._clock = clock
        self._tunnels: dict[Label, HeldTunnel] = {}
        self._withdrawn: dict[Label, float] = {}  # when; a node may not know

    def __len__(self) -> int:
        return len(self._tunnels)

    @property
    def opened(self) -> bool:
        """Whether one is open, and so known by its name."""
        return any(held.tunnel is not None for held in self._tunnels.values())

    def add(self, held: HeldTunnel) -> None:
        """From now on it is served, and kept bound once it was bound the first time."""
        self._tunnels[held.label] = held
        self.table[held.label] = held.service

    async def bind(self, session: Session, held: HeldTunnel) -> None:
        """One BIND and its answer, again with the next epoch when this one is taken.

        Raises BindRefused, SessionOver, and RemoteError when the epochs are used up. Cancelled, the node may have it.
        """
        for tries_left in reversed(range(EPOCH_TRIES)):
            try:
                answer = await session.bind(held.bind_on(session.key))
            except BindRefused as refused:
                held.refused()
                if not refused.failure.epoch_taken or not tries_left or not self._has(held):
                    raise
            else:
                held.bound(session.key, answer)
                return

    def missing_on(self, session: Session) -> list[HeldTunnel]:
        """The tunnels that were open once and that this session does not hold."""
        opened = (held for held in self._tunnels.values() if held.tunnel is not None)
        return [held for held in opened if not held.held_by(session.key)]

    async def bind_again(self, session: Session, held: HeldTunnel) -> None:
        """Bind it on a session that does not hold it; what is refused for now goes on in the background."""
        asked = await self._try_again(session, held)
        if asked is not None:
            self._tasks.spawn(self._keep_trying(session, held, asked), name="bind again")

    def unbound(self, session: Session, label: str, failure: Failure) -> bool:
        """The node of `session` let go of a tunnel. Whether to bind it again: it is open, and not lost by that."""
        held = self._tunnels.get(Label(label))
        if held is None or not held.held_by(session.key):
            return False  # closed, or taken along to another node
        held.unbound()
        if failure.passing:
            return True
        self.lose(held, failure.error())
        return False

    def withdraw(self, held: HeldTunnel) -> bool:
        """Close a tunnel. Whether a node may have it and is to be told."""
        if not self._has(held):
            return False
        self._remove(held)
        if held.shown:
            self._withdrawn[held.label] = self._clock()
        return held.shown

    def forget_withdrawn(self) -> None:
        """The session is up and well: what was said on it long ago has arrived."""
        before = self._clock() - UNBIND_AGAIN
        self._withdrawn = {label: at for label, at in self._withdrawn.items() if at >= before}

    def withdraw_again(self, session: Session, *, resumed: bool) -> None:
        """Tell the node of a resumed session what it may have missed; a new session knows nothing."""
        if resumed:
            for label in self._withdrawn:
                session.unbind(label)
        else:
            self._withdrawn.clear()

    def lose(self, held: HeldTunnel, error: Error) -> None:
        """It is lost for good."""
        if self._has(held):
            self._remove(held)
            held.lose(error)

    def lose_all(self, error: Error) -> None:
        """Every tunnel that was open once is lost for good."""
        for held in list(self._tunnels.values()):
            if held.tunnel is not None:
                self.lose(held, error)

    async def _keep_trying(self, session: Session, held: HeldTunnel, asked: float) -> None:
        tries = pauses()
        next(tries)  # the first one has been made
        wait: float | None = asked
        while wait is not None:
            await asyncio.sleep(max(next(tries), spread(wait)))
            wait = await self._try_again(session, held)

    async def _try_again(self, session: Session, held: HeldTunnel) -> float | None:
        """None when nothing is left to do for it on this session; else how long the node asks to wait, if it does."""
        if not session.up or not self._has(held) or held.held_by(session.key):
            return None
        try:
            await self.bind(session, held)
        except SessionOver:
            return None  # the next one binds it
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
