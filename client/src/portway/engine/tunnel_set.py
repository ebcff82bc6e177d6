"""TunnelSet: the tunnels of one link, bound on the session that the link has.

A BIND that is refused for now is repeated in the background for as long as the session lasts; a tunnel that is refused
for good is lost. Not here: keeping a session (link.py).
"""

import asyncio
from typing import Final, Protocol

from portway_carrier.values import LocalService
from portway_proto.wire.labels import Label
from portway_proto.wire.limits import MAX_CLAIMS
from portway_proto.wire.statements import Claim
from portway_runtime.clocks import Monotonic, monotonic
from portway_runtime.tasks import Tasks

from portway.engine.dialogue import BindRequest
from portway.engine.directory import Node
from portway.engine.failures import Failure, pauses, spread_hint
from portway.engine.held_tunnel import HeldTunnel
from portway.engine.presences import Presences
from portway.engine.session import BindRefused, Session, SessionOver
from portway.engine.signer import Signer
from portway.errors import Error, InvalidError

# BINDs in a row that are answered with a claim of higher rank, before the node is taken for wrong: a program outbids
# another one at most 4 times, and an answer that was lost may have used up an epoch of its own.
EPOCH_TRIES: Final = 8
# Seconds. UNBIND has no answer, and a lost connection, noticed within 10 s, loses what was sent shortly before. UNBINDs
# of this long before the loss are sent again.
UNBIND_AGAIN: Final = 30.0


class TunnelOwner(Protocol):
    """Whom a TunnelSet asks when a node refuses a tunnel, and tells when it holds none any more."""

    async def refused(self, session: Session, held: HeldTunnel, failure: Failure) -> bool:
        """A refusal is one node's word. Returns whether `session` is left for another node, where the tunnel is bound
        next; if not, nobody else can be asked now. Raises Error when it is final."""

    async def out_of_time(self, session: Session) -> None:
        """A node says that what was signed is not of now: ask a registry for the time."""

    def emptied(self) -> None:
        """The last tunnel was closed or lost."""


class TunnelSet:
    """Made and used on the engine's loop."""

    def __init__(
        self, tasks: Tasks, owner: TunnelOwner, signer: Signer, presences: Presences, clock: Monotonic = monotonic
    ) -> None:
        self.table: dict[str, LocalService] = {}  # the local server of each label, for the carrier
        self._tasks = tasks
        self._owner = owner
        self._signer = signer
        self._presences = presences
        self._clock = clock
        self._tunnels: dict[Label, HeldTunnel] = {}
        self._withdrawn: dict[Label, float] = {}  # when each was closed, while its node may not know

    def __len__(self) -> int:
        return len(self._tunnels)

    @property
    def any_open(self) -> bool:
        """Whether a tunnel is open, so that visitors may know its name."""
        return any(held.tunnel is not None for held in self._tunnels.values())

    @property
    def all_new(self) -> bool:
        """Whether none was ever open: the registry counts none of them yet."""
        return all(held.is_new for held in self._tunnels.values())

    def keep_ports_at(self, node: Node) -> bool:
        """Whether no open tunnel would lose its raw port there, which it has in another region."""
        return all(held.keeps_port_at(node) for held in self._tunnels.values() if held.tunnel is not None)

    def add(self, held: HeldTunnel) -> None:
        """Serve it from now on, and keep it bound once it was bound for the first time. Raises InvalidError when there
        are too many."""
        if len(self._tunnels) >= MAX_CLAIMS:
            raise InvalidError(
                f"this program has {MAX_CLAIMS} tunnels, the most that one can have: use another process"
            )
        self._tunnels[held.label] = held
        self._withdrawn.pop(held.label, None)  # a key file's label comes back
        self.table[held.label] = held.service

    async def bind(self, session: Session, held: HeldTunnel) -> None:
        """Send BIND and wait for the answer; repeat it with the next epoch while a claim owns the label that this
        program may outbid, and once with the right time.

        Raises BindRefused, SessionOver, and TakenOverError when another program has the label. Cancelled, the node may
        have it.
        """
        asked_time = False
        for tries_left in reversed(range(EPOCH_TRIES)):
            if not session.up:
                raise SessionOver("the session is over")
            bind = self._next_bind(session, held)
            self._presences.list([bind.claim])
            try:
                answer = await session.bind(bind)
            except BindRefused as refused:
                held.refused()
                if not tries_left or not self._has(held):
                    raise
                if refused.failure.wrong_time and not asked_time:
                    asked_time = True
                    await self._owner.out_of_time(session)
                elif not self._outranked(held, bind.claim, refused.failure, refused.claim):
                    raise
            else:
                held.bound(session.credentials, answer)
                if self._has(held):
                    self.table[held.label] = held.service
                return

    def announce_missing(self, session: Session) -> list[HeldTunnel]:
        """The open tunnels that this session does not hold, to be bound on it next: all are in one presence."""
        missing = self.missing_on(session)
        self._presences.list([self._next_bind(session, held).claim for held in missing])
        return missing

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

    async def unbound(self, session: Session, label: str, failure: Failure, claim: bytes) -> None:
        """The node of `session` unbound a tunnel. If it is open it is bound again, after a pause, unless it is lost."""
        held = self._tunnels.get(Label(label))
        if held is None or not held.held_by(session.credentials):
            return  # it was closed, or is bound at another node by now
        held.unbound()
        self._presences.drop(held.label)
        try:
            proven = failure.passing or self._outranked(held, held.latest, failure, claim)
            if not proven and await self._owner.refused(session, held, failure):
                return
        except Error as error:
            self.lose(held, error)
        else:
            await self._keep_trying(session, held, failure.retry_after)

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
            try:
                await self.bind(session, held)
            except SessionOver:
                return None  # it is bound on the next session
            except BindRefused as refused:
                failure = refused.failure
                if failure.passing or not await self._owner.refused(session, held, failure):
                    return failure.retry_after
        except Error as error:
            self.lose(held, error)
        return None

    def _next_bind(self, session: Session, held: HeldTunnel) -> BindRequest:
        return held.bind_on(session.credentials, session.node, self._signer)

    def _outranked(self, held: HeldTunnel, claim: Claim, failure: Failure, owner: bytes) -> bool:
        """Whether the node has shown a claim that owns the label, and this program may outbid it. False if it has shown
        none. Raises TakenOverError."""
        if not failure.owned_elsewhere:
            return False
        shown = self._signer.owner(owner, claim)
        if shown is None:
            return False
        held.outranked(shown, own=self._signer.is_own(shown))
        return True

    def _has(self, held: HeldTunnel) -> bool:
        return self._tunnels.get(held.label) is held

    def _remove(self, held: HeldTunnel) -> None:
        del self._tunnels[held.label]
        self.table.pop(held.label, None)
        self._presences.drop(held.label)
        if not self._tunnels:
            self._owner.emptied()
